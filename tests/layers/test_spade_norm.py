"""Normalization with scale and offset from maps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.spade_norm import SpadeNormalization

RNG = np.random.default_rng(0)
SHAPES = ((3, 4, 5, 2), (3, 4, 5, 3, 2))
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=("2-D", "3-D"))


def draw(shape):
    features = RNG.normal(3, 2, shape).astype(np.float32)
    return features, RNG.normal(size=(*shape[:-1], 2 * shape[-1])).astype(np.float32)


@every_shape
def test_it_is_the_formula_in_numpy(shape):
    features, maps = draw(shape)
    axes = tuple(range(1, len(shape) - 1))
    mean, variance = (f(features, axis=axes, keepdims=True) for f in (np.mean, np.var))
    gamma, beta = maps[..., :2], maps[..., 2:]
    expected = (1 + gamma) * (features - mean) / np.sqrt(variance + 0.1) + beta
    found = SpadeNormalization(epsilon=0.1)([features, maps])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@every_shape
def test_maps_of_zeros_leave_mean_0_and_variance_1_in_each_example(shape):
    features, maps = draw(shape)
    found = SpadeNormalization()([features, 0 * maps]).numpy().reshape(3, -1, 2)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(found.var(axis=1), 1, rtol=1e-4)


def test_float16_features_far_from_zero_are_normalized_in_float32():
    features, maps = draw(SHAPES[0])
    layer = SpadeNormalization(dtype="mixed_float16")
    found = layer([1000 + features, 0 * maps])
    assert found.dtype == tf.float16
    np.testing.assert_allclose(np.float32(found).std(), 1, rtol=0.2)


def test_a_model_with_it_is_saved_and_loaded(tmp_path):
    given = draw(SHAPES[0])
    inputs = [keras.Input(part.shape[1:]) for part in given]
    model = keras.Model(inputs, SpadeNormalization(epsilon=0.3)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(given), model(given))
    assert loaded.layers[-1].epsilon == 0.3
