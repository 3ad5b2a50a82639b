"""Spectral norm: the kernel that is applied, and how its vector moves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.spectral_norm import SpectralConvolution
from segkit.layers.spectral_norm import SpectralDense
from segkit.layers.step_context import step_context
from segkit.training.devices import make_strategy
from tests.conformance.replicas import train

KEYS = np.zeros((2, 2), np.uint32)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 7, 6, 3)).astype(np.float32)
LAYERS = {
    "dense": (lambda **kw: SpectralDense(5, **kw), (2, 4)),
    "2-D": (lambda **kw: SpectralConvolution(5, (3, 4), **kw), (2, 7, 6, 3)),
    "3-D": (lambda **kw: SpectralConvolution(5, (2, 3, 3), **kw), (2, 4, 5, 6, 2)),
}
every_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)


def built(make, shape, **options):
    """A layer with a kernel of its own, not of unit size."""
    layer = make(**options)
    layer.build(shape)
    layer.kernel.assign(RNG.normal(0.3, 2.0, layer.kernel.shape))
    return layer


def matrix(kernel):
    return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])


@every_layer
def test_after_some_steps_the_largest_singular_value_of_the_applied_kernel_is_1(make, shape):
    layer = built(make, shape)
    for _ in range(100):
        layer(tf.zeros(shape), training=True)
    singular = np.linalg.svd(matrix(layer.normalized_kernel()), compute_uv=False)
    assert singular[0] == pytest.approx(1, abs=1e-4)
    expected = layer.kernel / np.linalg.svd(matrix(layer.kernel), compute_uv=False)[0]
    np.testing.assert_allclose(layer.normalized_kernel(), expected, rtol=1e-4)


@every_layer
def test_one_step_is_that_of_the_power_iteration_in_numpy(make, shape):
    layer = built(make, shape)
    kernel, left = matrix(layer.kernel), layer.left.numpy()[0]
    right = kernel @ left / np.linalg.norm(kernel @ left)
    left = kernel.T @ right / np.linalg.norm(kernel.T @ right)
    found = layer.normalized_kernel(training=True)
    np.testing.assert_allclose(matrix(found), kernel / (right @ kernel @ left), rtol=1e-5)
    np.testing.assert_allclose(layer.left[0], left, rtol=1e-5)


def test_the_convolution_is_that_of_keras_with_the_applied_kernel():
    for strides in (1, 2, (2, 1)):
        layer = SpectralConvolution(5, (3, 4), strides)
        found = layer(IMAGES)
        layer.bias.assign(np.arange(5.0))
        theirs = keras.layers.Conv2D(5, (3, 4), strides, padding="same")
        theirs.build(IMAGES.shape)
        theirs.set_weights([layer.normalized_kernel(), layer.bias])
        np.testing.assert_allclose(layer(IMAGES), theirs(IMAGES), atol=1e-6)
        assert found.shape == layer.compute_output_shape(IMAGES.shape)


def test_the_product_is_that_of_numpy():
    layer = SpectralDense(3, use_bias=False)
    inputs = IMAGES[:, 0, :, 0]
    np.testing.assert_allclose(layer(inputs), inputs @ layer.normalized_kernel(), atol=1e-6)


@every_layer
def test_the_gradient_of_the_applied_kernel_is_that_of_finite_differences(make, shape):
    # With both vectors converged, the derivative of sigma is right' dW left: they move to second
    # order only, so the whole power iteration is what the differences see.
    layer = built(make, shape, iterations=100)
    weights = RNG.normal(size=layer.kernel.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(layer.normalized_kernel() * weights)
    gradient = tape.gradient(value, layer.kernel.value)
    direction = RNG.normal(size=layer.kernel.shape)
    start, values = layer.kernel.numpy(), []
    for sign in (1, -1):
        kernel = start + sign * 1e-4 * direction
        sigma = np.linalg.svd(matrix(kernel), compute_uv=False)[0]
        values.append(np.sum(kernel / sigma * weights))
    expected = (values[0] - values[1]) / 2e-4
    assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-3, abs=2e-3)


def test_within_a_step_the_vector_is_handed_over_and_real_and_made_images_see_one_kernel():
    layer = built(*LAYERS["2-D"])
    before = layer.left.numpy()
    with step_context(KEYS) as context:
        first = layer.normalized_kernel(training=True)
        second = layer.normalized_kernel(training=True)
    np.testing.assert_array_equal(layer.left, before)
    np.testing.assert_array_equal(first, second)
    assert list(context.updates) == [layer.left.path]
    layer.normalized_kernel(training=True)
    np.testing.assert_array_equal(context.updates[layer.left.path], layer.left)


def test_inference_applies_the_same_kernel_and_keeps_nothing():
    layer = built(*LAYERS["2-D"])
    before = layer.left.numpy()
    inference = layer(IMAGES)
    np.testing.assert_array_equal(layer.left, before)
    np.testing.assert_array_equal(inference, layer(IMAGES, training=True))
    assert not np.array_equal(layer.left, before)


def test_more_iterations_come_closer():
    errors = []
    for iterations in (1, 3, 9):
        keras.utils.set_random_seed(0)
        layer = built(*LAYERS["3-D"], iterations=iterations)
        layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
        errors.append(np.linalg.svd(matrix(layer.normalized_kernel()), compute_uv=False)[0] - 1)
    assert errors[0] > errors[1] > errors[2] >= -1e-5


def test_under_float16_singular_values_are_those_of_float32():
    layer = built(*LAYERS["2-D"], dtype="mixed_float16")
    layer.kernel.assign(layer.kernel * 1e4)  # its sum of squares is past float16
    assert layer(IMAGES).dtype == tf.float16
    kernel = layer.normalized_kernel()
    assert kernel.dtype == tf.float16
    assert np.linalg.svd(matrix(kernel), compute_uv=False)[0] < 2


@pytest.mark.slow
def test_training_is_the_same_on_two_replicas_in_parts_and_compiled():
    options = {"network": "tests.conformance.replicas:spectral_network"}
    expected = train(make_strategy("cpu:1"), {}, **options)
    initial = train(make_strategy("cpu:1"), {}, learning_rate=1e-9, **options)
    # Kernel, bias and vector of the first convolution stand first; the vector moves by itself.
    first = slice(9 * 8 + 8, 9 * 8 + 8 + 8)
    assert np.linalg.norm(expected["weights"][first]) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(expected["weights"][first], initial["weights"][first], atol=1e-4)
    for replicas, settings in ((2, {}), (2, {"xla": True}), (2, {"accumulation_steps": 2})):
        found = train(make_strategy(f"cpu:{replicas}"), {}, **options, **settings)
        for what in ("loss", "gradient_norm", "weights"):
            np.testing.assert_allclose(found[what], expected[what], rtol=1e-4, atol=1e-5)


@every_layer
def test_a_model_with_it_is_saved_and_loaded(make, shape, tmp_path):
    inputs = keras.Input(shape[1:])
    model = keras.Model(inputs, make(use_bias=False, iterations=2)(inputs))
    values = RNG.normal(size=shape).astype(np.float32)
    model(values, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(values), model(values))
    assert (loaded.layers[-1].use_bias, loaded.layers[-1].iterations) == (False, 2)
