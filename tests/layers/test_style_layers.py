"""Modulated convolution, noise per voxel, the learned map and the deviation of a group."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from segkit.errors import ShapeError
from segkit.layers.learned_map import LearnedMap
from segkit.layers.minibatch_deviation import MinibatchDeviation
from segkit.layers.modulated import ModulatedConvolution
from segkit.layers.pixel_noise import PixelNoise
from segkit.layers.step_context import step_context

RNG = np.random.default_rng(0)
KEYS = RNG.integers(0, 2**32, (4, 2), np.uint32)
SHAPES = {"2-D": (3, 6, 5, 4), "3-D": (3, 4, 5, 3, 4)}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def modulated(shape, **options):
    layer = ModulatedConvolution(2, (3,) * (len(shape) - 2), **options)
    features = RNG.normal(size=shape).astype(np.float32)
    style = RNG.normal(1, 1, (shape[0], shape[-1])).astype(np.float32)
    layer.build([shape, style.shape])
    layer.bias.assign([0.5, -0.5])
    return layer, features, style


@every_shape
@pytest.mark.parametrize("demodulate", [True, False])
def test_each_example_is_convolved_with_a_kernel_of_its_own(shape, demodulate):
    layer, features, style = modulated(shape, demodulate=demodulate)
    found = layer([features, style])
    plain = {4: keras.layers.Conv2D, 5: keras.layers.Conv3D}[len(shape)](2, 3, padding="same")
    plain.build(shape)
    for number, own in enumerate(style):
        kernel = layer.kernel.numpy() * own[:, None]
        if demodulate:
            axes = tuple(range(kernel.ndim - 1))
            kernel = kernel / np.sqrt(np.sum(kernel**2, axis=axes) + 1e-8)
        plain.set_weights([kernel, layer.bias])
        expected = plain(features[number : number + 1])[0]
        np.testing.assert_allclose(found[number], expected, atol=1e-5)


@every_shape
def test_demodulation_takes_the_size_of_the_style_away(shape):
    layer, features, style = modulated(shape)
    expected = layer([features, style])
    np.testing.assert_allclose(layer([features, 10 * style]), expected, atol=1e-4)


def test_modulation_in_float16_is_about_that_of_float32():
    layer, features, style = modulated(SHAPES["2-D"])
    half = ModulatedConvolution(2, (3, 3), dtype="mixed_float16")
    half.build([features.shape, style.shape])
    half.set_weights(layer.get_weights())
    found = half([features, style])
    assert found.dtype == tf.float16
    np.testing.assert_allclose(found, layer([features, style]), atol=0.02)


def noisy(shape=(4, 32, 24, 2), strength=2.0):
    layer = PixelNoise(name="noise")
    layer.build(shape)
    layer.strength.assign(strength)
    return layer, tf.ones(shape)


def within_a_step(layer, x, keys=KEYS):
    with step_context(tf.convert_to_tensor(keys)):
        return layer(x)


@pytest.mark.parametrize("shape", [(4, 32, 24, 2), (4, 8, 12, 10, 2)])
def test_noise_is_normal_and_the_same_for_all_channels(shape):
    layer, x = noisy(shape)
    for found in (within_a_step(layer, x), layer(x)):
        noise = (found.numpy() - 1) / 2
        np.testing.assert_array_equal(noise[..., 0], noise[..., 1])
        assert stats.kstest(noise[..., 0].ravel(), "norm").pvalue > 0.001


def test_an_example_has_the_noise_of_its_key_alone_eagerly_and_compiled():
    layer, x = noisy()
    found = within_a_step(layer, x)
    np.testing.assert_array_equal(within_a_step(layer, x[:1], KEYS[2:3]), found[2:3])
    assert not np.array_equal(found[0], found[1])
    for xla in (False, True):
        compiled = tf.function(lambda x, keys: within_a_step(layer, x, keys), jit_compile=xla)
        np.testing.assert_allclose(compiled(x, KEYS), found, atol=1e-5)


def test_outside_of_a_step_each_call_draws_other_noise():
    layer, x = noisy()
    assert not np.array_equal(layer(x), layer(x))


def test_noise_starts_at_strength_0_and_its_gradient_does_not():
    layer, x = noisy(strength=0.0)
    with tf.GradientTape() as tape:
        found = within_a_step(layer, x)
        loss = tf.reduce_sum(tf.random.stateless_normal(found.shape, (0, 1)) * found)
    np.testing.assert_array_equal(found, x)
    assert abs(tape.gradient(loss, layer.strength.value).numpy()) > 0.1


def test_the_learned_map_is_the_same_for_every_example():
    layer = LearnedMap((2, 3, 4))
    found = layer(np.zeros((5, 7), np.float32))
    assert found.shape == (5, 2, 3, 4) == layer.compute_output_shape((5, 7))
    np.testing.assert_array_equal(np.reshape(found, (5, -1)), np.stack([layer.values] * 5))
    assert len(set(layer.values.numpy())) == 24


def test_the_deviation_of_a_group_is_that_worked_out_by_hand():
    # Group 1: 0 and 2, deviation 1; 4 and 4, deviation 0 (1e-4 with the epsilon). Mean 0.5.
    # Group 2: 1 and 7, deviation 3; 0 and 4, deviation 2. Mean 2.5.
    values = np.array([[0, 4], [2, 4], [1, 0], [7, 4]], np.float32).reshape(4, 1, 1, 2)
    found = MinibatchDeviation(2)(values)
    np.testing.assert_array_equal(found[..., :2], values)
    np.testing.assert_allclose(np.ravel(found[..., 2]), [0.5, 0.5, 2.5, 2.5], atol=1e-4)


@every_shape
def test_the_deviation_is_that_of_numpy_over_consecutive_examples(shape):
    values = RNG.normal(size=(6, *shape[1:])).astype(np.float32)
    found = MinibatchDeviation(3)(values)
    for group in (slice(0, 3), slice(3, 6)):
        expected = values[group].std(axis=0).mean()
        np.testing.assert_allclose(found[group][..., -1], expected, rtol=1e-4)
    np.testing.assert_allclose(MinibatchDeviation(3)(values[3:]), found[3:], rtol=1e-5)


def test_equal_examples_have_finite_derivatives():
    values = tf.ones((2, 3, 3, 1))
    with tf.GradientTape() as outer:
        outer.watch(values)
        with tf.GradientTape() as inner:
            inner.watch(values)
            total = tf.reduce_sum(MinibatchDeviation(2)(values)[..., -1])
        first = inner.gradient(total, values)
    assert np.isfinite(first).all()
    assert np.isfinite(outer.gradient(first, values)).all()


def test_a_batch_that_is_not_whole_groups_is_refused():
    with pytest.raises(ShapeError, match="groups of 2 examples, got 3"):
        MinibatchDeviation(2)(np.zeros((3, 2, 2, 1), np.float32))


def test_a_model_with_all_of_them_is_saved_and_loaded(tmp_path):
    style = keras.Input((4,))
    x = LearnedMap((4, 6, 4))(style)
    x = ModulatedConvolution(3, (3, 1), demodulate=False)([x, style])
    x = MinibatchDeviation(2)(PixelNoise()(x))
    model = keras.Model(style, x)
    values = RNG.normal(size=(4, 4)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(values), model(values))
    assert not next(m for m in loaded.layers if isinstance(m, ModulatedConvolution)).demodulate
