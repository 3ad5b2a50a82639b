import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.conv_lstm import ConvLSTM
from segkit.layers.per_frame import PerFrame

SHAPE = (2, 5, 6, 7, 3)


@pytest.fixture
def sequence():
    return np.random.default_rng(0).normal(size=SHAPE).astype("float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("reverse", [False, True])
def test_conv_lstm_equals_keras(sequence, reverse):
    layer = ConvLSTM(4, reverse=reverse)
    ours = layer(sequence).numpy()
    peer = keras.layers.ConvLSTM2D(
        4, 3, padding="same", return_sequences=True, go_backwards=reverse
    )
    peer.build(SHAPE)
    peer.set_weights(layer.get_weights())
    theirs = peer(sequence).numpy()
    theirs = theirs[:, ::-1] if reverse else theirs  # Keras returns what it saw first, first
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_conv_lstm_equals_a_slow_numpy_version(sequence):
    layer = ConvLSTM(2, kernel_size=1)
    found = layer(sequence).numpy()
    kernel, recurrent, bias = (w.reshape(-1, w.shape[-1]) for w in layer.get_weights())
    hidden = cell = np.zeros((2, 6, 7, 2))
    for t in range(5):
        gates = sequence[:, t] @ kernel + hidden @ recurrent + bias
        i, f, c, o = np.split(gates, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        hidden = sigmoid(o) * np.tanh(cell)
        np.testing.assert_allclose(found[:, t], hidden, atol=1e-6)


def test_the_forget_gate_starts_open():
    layer = ConvLSTM(2)
    layer.build(SHAPE)
    assert layer.bias.numpy().tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("reverse", [False, True])
def test_an_unknown_length_and_xla_change_neither_values_nor_gradients(sequence, reverse):
    layer = ConvLSTM(4, reverse=reverse)
    layer.build(SHAPE)

    def run(x):
        weights = [w.value for w in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            hidden = layer(x)
            loss = tf.reduce_sum(hidden**2)
        return [hidden, *tape.gradient(loss, weights)]

    expected = run(tf.constant(sequence))
    assert all(np.any(g) for g in expected)
    any_size = [tf.TensorSpec((None, None, None, None, 3))]
    for way in (
        tf.function(run, input_signature=any_size),
        tf.function(run, jit_compile=True),
    ):
        for found, wanted in zip(way(tf.constant(sequence)), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_memory_is_float32_under_mixed_precision():
    # The first frame sets the cell to s(9) tanh(9) = 1. Each later one adds s(-6) tanh(1) = 0.0019:
    # less than half of bfloat16's step at 1, 2**-7, so a bfloat16 cell would stay at 1.
    layer = ConvLSTM(1, kernel_size=1, dtype="mixed_bfloat16")
    layer.build((1, None, 1, 1, 1))
    weights = [[15, 0, 8, 0], [0, 0, 0, 0], [-6, 99, 1, 9]]
    shapes = [w.shape for w in layer.weights]
    layer.set_weights([np.reshape(w, s) for w, s in zip(weights, shapes, strict=True)])
    frames = np.zeros((1, 41, 1, 1, 1), "float32")
    frames[0, 0] = 1
    last = float(layer(frames)[0, -1, 0, 0, 0])
    expected = 1 + 40 * sigmoid(-6) * np.tanh(1)
    assert expected > 1.07
    assert np.arctanh(last) == pytest.approx(expected, abs=0.02)


def test_conv_lstm_keeps_its_settings():
    layer = ConvLSTM(4, kernel_size=5, reverse=True)
    again = ConvLSTM.from_config(layer.get_config())
    assert (again.filters, again.kernel_size, again.reverse) == (4, 5, True)
    again.build(SHAPE)
    assert again.kernel.shape == (5, 5, 3, 16)


def test_per_frame_applies_the_layer_to_every_frame(sequence):
    conv = keras.layers.Conv2D(4, 3, strides=2, padding="same")
    found = PerFrame(conv)(sequence)
    assert found.shape == (2, 5, 3, 4, 4)
    for t in range(5):
        np.testing.assert_allclose(found[:, t], conv(sequence[:, t]), atol=1e-6)
