import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.depthwise import DepthwiseConvolution
from segkit.layers.depthwise import DepthwiseConvolutionTranspose

CASES = [
    ((5, 6), (3, 5), (1, 1)),
    ((5, 6), (3, 3), (2, 1)),
    ((4, 5, 6), (3, 1, 5), (1, 1, 1)),
    ((4, 6, 5), (3, 3, 3), (2, 1, 2)),
    ((2, 3, 4), (3, 3, 3), (2, 2, 2)),
]
every_case = pytest.mark.parametrize(("sides", "kernel", "strides"), CASES)


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _slow(x, kernel, strides):
    """The definition, voxel by voxel: `(batch, *spatial, channels)`, `(*sizes, channels)`."""
    sides = [-(-n // s) for n, s in zip(x.shape[1:-1], strides, strict=True)]
    y = np.zeros((len(x), *sides, x.shape[-1]))
    for v, o in itertools.product(np.ndindex(*sides), np.ndindex(*kernel.shape[:-1])):
        at = [s * a + b - k // 2 for s, a, b, k in zip(strides, v, o, kernel.shape, strict=False)]
        if all(0 <= a < n for a, n in zip(at, x.shape[1:-1], strict=True)):
            y[(slice(None), *v)] += kernel[o] * x[(slice(None), *at)]
    return y


def _slow_transpose(x, kernel, strides):
    sides = [n * s for n, s in zip(x.shape[1:-1], strides, strict=True)]
    y = np.zeros((len(x), *sides, x.shape[-1]))
    for i, o in itertools.product(np.ndindex(*x.shape[1:-1]), np.ndindex(*kernel.shape[:-1])):
        at = [s * a + b - k // 2 for s, a, b, k in zip(strides, i, o, kernel.shape, strict=False)]
        if all(0 <= a < n for a, n in zip(at, sides, strict=True)):
            y[(slice(None), *at)] += kernel[o] * x[(slice(None), *i)]
    return y


@every_case
@pytest.mark.parametrize(
    ("kind", "slow"),
    [(DepthwiseConvolution, _slow), (DepthwiseConvolutionTranspose, _slow_transpose)],
)
def test_convolution_equals_its_definition(kind, slow, sides, kernel, strides):
    x = _random(2, *sides, 3)
    layer = kind(kernel, strides)
    layer.build(x.shape)
    weights, bias = _random(*kernel, 1, 3), np.array([0.0, 1.0, -2.0], "float32")
    layer.set_weights([weights, bias])
    result = layer(x)
    np.testing.assert_allclose(result, slow(x, weights[..., 0, :], strides) + bias, atol=1e-5)
    assert result.shape == layer.compute_output_shape(x.shape)


@every_case
@pytest.mark.parametrize("kind", [DepthwiseConvolution, DepthwiseConvolutionTranspose])
def test_gradients_equal_differences_of_the_result(kind, sides, kernel, strides):
    # Linear in input and kernel: the difference along a direction is exact, whatever its length.
    layer = kind(kernel, strides, use_bias=False)
    x = tf.constant(_random(1, *sides, 2))
    layer.build(x.shape)
    target = _random(*layer.compute_output_shape(x.shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(layer(x) * target)
    to_input, to_kernel = tape.gradient(value, [x, layer.kernel.value])
    rng = np.random.default_rng(1)
    step = rng.normal(size=x.shape).astype("float32")
    np.testing.assert_allclose(
        tf.reduce_sum(layer(x + step) * target) - value, np.sum(to_input * step), rtol=1e-3
    )
    step = rng.normal(size=layer.kernel.shape).astype("float32")
    layer.kernel.assign_add(step)
    np.testing.assert_allclose(
        tf.reduce_sum(layer(x) * target) - value, np.sum(to_kernel * step), rtol=1e-3
    )


@pytest.mark.parametrize("sides", [(6, 8), (4, 6, 8)])
def test_gradients_equal_those_of_a_full_convolution_with_a_diagonal_kernel(sides):
    rank, x = len(sides), tf.constant(_random(2, *sides, 3))
    weights = tf.constant(_random(*[3] * rank, 1, 3))
    layer = DepthwiseConvolution([3] * rank, use_bias=False)
    layer.build(x.shape)
    layer.set_weights([weights])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(layer(x) ** 2)
    ours = tape.gradient(value, [x, layer.kernel.value])
    with tf.GradientTape() as tape:
        tape.watch([x, weights])
        value = tf.reduce_sum(keras.ops.conv(x, tf.eye(3) * weights, padding="same") ** 2)
    for gradient, expected in zip(ours, tape.gradient(value, [x, weights]), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-3)


def test_convolution_equals_keras_in_2d():
    x = _random(2, 7, 6, 4)
    peer = keras.layers.DepthwiseConv2D(5, padding="same")
    layer = DepthwiseConvolution((5, 5))
    peer.build(x.shape)
    layer.build(x.shape)
    layer.set_weights([np.swapaxes(peer.kernel, -1, -2), peer.bias])
    np.testing.assert_allclose(layer(x), peer(x), atol=1e-6)


@pytest.mark.parametrize("kind", [DepthwiseConvolution, DepthwiseConvolutionTranspose])
def test_sides_may_be_unknown(kind):
    inputs = keras.Input((None, None, None, 2))
    layer = kind((3, 3, 3), (1, 2, 2))
    model = keras.Model(inputs, layer(inputs))
    x = _random(1, 3, 4, 5, 2)
    compiled = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, None, 2))])
    np.testing.assert_allclose(compiled(x), model(x), atol=1e-6)
    assert compiled(x).shape == layer.compute_output_shape(x.shape)


def test_gradient_is_the_same_under_xla():
    x = tf.constant(_random(1, 4, 6, 5, 2))
    layer = DepthwiseConvolution((3, 3, 3))
    layer.build(x.shape)

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(value, [x, layer.kernel.value])

    for one, other in zip(gradients(x), tf.function(gradients, jit_compile=True)(x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
