import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.layers.instance_norm import InstanceNormalization
from segkit.layers.normalization import normalization


@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (3, 4, 5, 6, 2)])
def test_instance_norm_equals_numpy(shape):
    x = np.random.default_rng(0).normal(3, 2, shape).astype("float32")
    layer = InstanceNormalization()
    layer.build(shape)
    layer.set_weights([np.array([2.0, 0.5]), np.array([1.0, -1.0])])
    expected = np.empty_like(x)
    for b in range(shape[0]):
        for c in range(2):
            v = x[b, ..., c].astype("float64")
            unit = (v - v.mean()) / np.sqrt(v.var() + 1e-5)
            expected[b, ..., c] = unit * (2.0, 0.5)[c] + (1.0, -1.0)[c]
    np.testing.assert_allclose(layer(x), expected, atol=2e-6)


def test_instance_norm_equals_keras_group_norm_with_one_channel_per_group():
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 4, 8)).astype("float32")
    peer = keras.layers.GroupNormalization(-1, epsilon=1e-5)
    np.testing.assert_allclose(InstanceNormalization()(x), peer(x), atol=1e-6)


def test_instance_norm_keeps_its_digits_far_from_zero():
    # Values 10000 +- 1: E[x^2] - E[x]^2 = 1 is less than the spacing of float32 at 1e8, which is 8.
    x = np.tile(np.array([9999.0, 10001.0], "float32"), 32).reshape(1, 8, 8, 1)
    np.testing.assert_allclose(np.abs(InstanceNormalization()(x)), 1.0, atol=1e-4)


def test_a_constant_channel_becomes_beta():
    layer = InstanceNormalization()
    layer.build((1, 4, 4, 1))
    layer.set_weights([np.array([3.0]), np.array([0.25])])
    np.testing.assert_allclose(layer(np.full((1, 4, 4, 1), 7.0)), 0.25)


def test_instance_norm_does_not_overflow_in_float16():
    # 60000 squared is far above 65504; mean 0 and variance 60000^2 leave +-1.
    x = np.tile(np.array([-60000.0, 60000.0], "float16"), 50).reshape(1, 10, 10, 1)
    y = InstanceNormalization(dtype="mixed_float16")(x)
    assert y.dtype == tf.float16
    np.testing.assert_allclose(np.abs(y), 1.0, atol=1e-3)


def test_instance_norm_is_the_same_under_xla():
    x = tf.random.stateless_normal((2, 4, 4, 3), (0, 1))
    layer = InstanceNormalization()
    compiled = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(compiled(x), layer(x), atol=1e-6)


def test_normalization_refuses_unknown_names_and_unfit_channels():
    with pytest.raises(ConfigError, match="Did you mean 'instance'"):
        normalization("instanse", 8, name="n")
    with pytest.raises(ConfigError, match="multiple of 8, got 12"):
        normalization("group", 12, name="n")
