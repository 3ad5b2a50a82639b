import numpy as np
import pytest
import tensorflow as tf

from segkit.metrics.random_features import _kernels
from segkit.metrics.random_features import number_of_features
from segkit.metrics.random_features import random_features


@pytest.mark.parametrize("shape", [(3, 16, 12, 1), (2, 16, 16, 3), (2, 4, 8, 8, 2), (1, 5, 7, 1)])
def test_there_is_one_finite_vector_per_image_and_always_the_same(shape):
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    features = random_features(images).numpy()
    assert features.shape == (shape[0], number_of_features(shape[-1]))
    assert np.isfinite(features).all()
    _kernels.cache_clear()
    np.testing.assert_array_equal(features, random_features(images))
    np.testing.assert_allclose(features[:1], random_features(images[:1]), rtol=1e-4, atol=1e-5)


def test_the_first_features_are_mean_and_deviation_of_the_image():
    images = np.random.default_rng(0).normal(2, 3, (2, 8, 8, 2)).astype(np.float32)
    features = random_features(images).numpy()
    np.testing.assert_allclose(features[:, :2], images.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(features[:, 2:4], images.std((1, 2)), rtol=1e-5)


def test_a_level_is_a_strided_convolution_as_in_numpy():
    image = np.random.default_rng(0).normal(size=(1, 6, 6, 1)).astype(np.float32)
    kernel = _kernels(2, 1)[0]
    padded = np.pad(image[0, ..., 0], ((0, 1), (0, 1)))  # stride 2 of an even side: one behind
    maps = np.zeros((3, 3, 16))
    for row, column in np.ndindex(3, 3):
        window = padded[2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        maps[row, column] = np.tensordot(window, kernel[:, :, 0], 2)
    maps = np.where(maps > 0, maps, 0.2 * maps)
    features = random_features(image).numpy()[0]
    np.testing.assert_allclose(features[2:18], maps.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features[18:34], maps.std((0, 1)), rtol=1e-3)


def test_texture_is_told_apart_where_intensities_are_not():
    rng = np.random.default_rng(0)
    fine = rng.permuted(np.repeat([[-1.0, 1.0]], 128, axis=0).ravel()).reshape(1, 16, 16, 1)
    coarse = np.kron(np.indices((4, 4)).sum(0) % 2 * 2 - 1.0, np.ones((4, 4)))[None, ..., None]
    first, second = (random_features(tf.constant(x, tf.float32)).numpy()[0] for x in (fine, coarse))
    np.testing.assert_allclose(first[:2], second[:2], atol=1e-6)
    assert np.abs(first[2:] - second[2:]).max() > 0.2
