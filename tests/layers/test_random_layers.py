"""Dropout and stochastic depth: what they drop, and what that depends on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.hashing import pcg4d
from segkit.layers.dropout import Dropout
from segkit.layers.step_context import step_context
from segkit.layers.stochastic_depth import StochasticDepth

KEYS = np.random.default_rng(0).integers(0, 2**32, (64, 2), np.uint32)
LAYERS = {
    "dropout": lambda rate: Dropout(rate, name="drop"),
    "spatial dropout": lambda rate: Dropout(rate, spatial=True, name="drop"),
    "stochastic depth": lambda rate: StochasticDepth(rate, name="drop"),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def drop(layer, inputs, keys=KEYS):
    with step_context(tf.convert_to_tensor(keys)):
        return layer(inputs, training=True)


def ones(batch=64):
    return tf.ones((batch, 6, 5, 8))


@every_layer
def test_the_asked_share_is_dropped_and_the_rest_scaled_up(make):
    found = drop(make(0.25), ones()).numpy()
    assert set(np.unique(found)) == {0.0, np.float32(1 / 0.75)}
    independent = {"Dropout": 1, "StochasticDepth": 240}[type(make(0)).__name__]
    independent = 30 if getattr(make(0), "spatial", False) else independent
    deviation = np.sqrt(0.25 * 0.75 * independent / found.size)
    assert abs((found == 0).mean() - 0.25) < 3 * deviation


def test_spatial_dropout_drops_whole_channels_of_single_examples():
    found = drop(LAYERS["spatial dropout"](0.5), ones()).numpy()
    kept = found.max(axis=(1, 2))
    np.testing.assert_array_equal(found, np.broadcast_to(kept[:, None, None], found.shape))
    assert 0 < kept.min(axis=1).sum() + kept.max(axis=1).sum() < 64 * 4


def test_stochastic_depth_drops_whole_examples():
    found = drop(LAYERS["stochastic depth"](0.5), ones()).numpy()
    assert set(found.reshape(64, -1).std(axis=1)) == {0.0}
    assert 10 < (found[:, 0, 0, 0] == 0).sum() < 54


@every_layer
def test_an_example_alone_drops_what_it_drops_in_a_batch(make):
    layer = make(0.5)
    together = drop(layer, ones())
    np.testing.assert_array_equal(drop(layer, ones(3), KEYS[5:8]), together[5:8])


@every_layer
def test_the_same_is_dropped_eagerly_in_a_graph_and_under_xla(make):
    layer = make(0.5)
    expected = drop(layer, ones())
    for xla in (False, True):
        compiled = tf.function(lambda x, keys: drop(layer, x, keys), jit_compile=xla)
        np.testing.assert_array_equal(compiled(ones(), KEYS), expected)


@every_layer
def test_layers_of_other_names_drop_something_else(make):
    other = make(0.5)
    other.name = "drop2"
    assert not np.array_equal(drop(other, ones()), drop(make(0.5), ones()))


@every_layer
def test_nothing_is_dropped_outside_of_training_or_at_rate_zero(make):
    np.testing.assert_array_equal(make(0.5)(ones(), training=False), ones())
    np.testing.assert_array_equal(drop(make(0.0), ones()), ones())


@every_layer
def test_outside_of_a_step_every_call_drops_something_else(make):
    layer = make(0.5)
    first, second = layer(ones(), training=True), layer(ones(), training=True)
    assert 0 < (first.numpy() == 0).mean() < 1
    assert not np.array_equal(first, second)


@every_layer
def test_half_precision_is_kept(make):
    layer = make(0.5)
    layer.dtype_policy = "mixed_float16"
    found = drop(layer, tf.cast(ones(), "float16"))
    assert found.dtype == tf.float16
    np.testing.assert_array_equal(found, drop(make(0.5), ones()))


@every_layer
def test_a_model_with_it_is_saved_and_loaded(make, tmp_path):
    inputs = keras.Input((6, 5, 8))
    keras.Model(inputs, make(0.5)(inputs)).save(tmp_path / "model.keras")
    layer = keras.saving.load_model(tmp_path / "model.keras").layers[-1]
    assert layer.get_config() == make(0.5).get_config() | {"name": layer.name}
    np.testing.assert_array_equal(drop(layer, ones()), drop(make(0.5), ones()))


def test_the_numbers_are_those_of_the_hash():
    import zlib

    layer, word = Dropout(0.3, name="drop"), zlib.crc32(b"drop")
    found = drop(layer, tf.ones((1, 4)), KEYS[:1]).numpy()[0]
    words = [tf.constant([w], tf.uint32) for w in (0, word, *KEYS[0])]
    numbers = np.ravel([w.numpy() for w in pcg4d(tf.bitwise, *words)]) / 2**32
    np.testing.assert_array_equal(found == 0, numbers < 0.3)
