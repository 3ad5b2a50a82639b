"""Noise against its analytical distribution."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from data_prep.augment import noise
from data_prep.augment.random import Draws
from data_prep.augment.random import make_keys
from data_prep.augment.space import make_space
from segkit.errors import ConfigError

BOTH = pytest.mark.parametrize("transform", [noise.gaussian_noise, noise.rician_noise])


def prepare(transform, indices, patch, channels, **options):
    """A transform's function of an image, and the standard deviations that it drew."""
    log = {}
    keys = make_keys(7, tf.constant(indices, tf.int64))
    draws = Draws(keys, salt=0, budget=64, scope="noise", log=log)
    space = make_space(patch, tf.ones((len(indices), 3)), channels, 2)
    return transform(draws, space, **options), log["noise.std"]


def make_image(batch, patch, channels):
    return np.random.default_rng(0).normal(size=(batch, channels, *patch)).astype(np.float32)


def test_gaussian_noise_by_hand():
    image = tf.reshape(tf.constant([1.0, 2.0, 3.0, 4.0]), (2, 1, 1, 1, 2))
    added = tf.reshape(tf.constant([1.0, -1.0, 2.0, 0.0]), (2, 1, 1, 1, 2))
    found = noise.add_gaussian_noise(image, tf.constant([[0.5], [2.0]]), added)
    assert found.numpy().ravel().tolist() == [1.5, 1.5, 7.0, 4.0]


def test_gaussian_noise_is_gaussian_and_independent_between_channels():
    image = make_image(2, (16, 16, 16), 3)
    change, std = prepare(noise.gaussian_noise, [0, 1], (16, 16, 16), 3, std=[0.2, 0.4])
    added = (change(image).numpy() - image) / std.numpy()[:, :, None, None, None]
    for sample in added.reshape(6, -1):
        assert stats.kstest(sample, "norm").pvalue > 1e-3
    # 4096 voxels: standard deviation of a correlation 1 / 64
    assert np.abs(np.corrcoef(added.reshape(6, -1)) - np.eye(6)).max() < 4 / 64
    neighbours = [np.mean(added * np.roll(added, 1, axis)) for axis in (2, 3, 4)]
    assert np.abs(neighbours).max() < 4 / np.sqrt(added.size)


@pytest.mark.parametrize("signal", [0.0, 0.1, 0.5, 2.0])
def test_rician_noise_has_the_moments_of_the_rice_distribution(signal):
    # One voxel of air makes the zero of the magnitude, on an image shifted as by a z-score.
    patch, std, shift = (24, 24, 24), 0.25, -1.3
    image = np.full((1, 1, *patch), signal + shift, np.float32)
    image[..., 0, 0, 0] = shift
    change, _ = prepare(noise.rician_noise, [3], patch, 1, std=[std, std])
    magnitudes = (change(image).numpy() - shift).ravel()[1:]
    expected = stats.rice(signal / std, scale=std)
    deviation = expected.std() / np.sqrt(magnitudes.size)
    assert magnitudes.min() >= -1e-6
    assert magnitudes.mean() == pytest.approx(expected.mean(), abs=4 * deviation)
    assert magnitudes.std() == pytest.approx(expected.std(), rel=0.03)
    assert stats.kstest(magnitudes, expected.cdf).pvalue > 1e-3


def test_rician_noise_by_hand():
    # Zero is at 1: sqrt((3 - 1 + 0.5 * 2)^2 + (0.5 * 8)^2) = 5
    image = tf.reshape(tf.constant([1.0, 3.0]), (1, 1, 1, 1, 2))
    real = tf.reshape(tf.constant([0.0, 2.0]), (1, 1, 1, 1, 2))
    imaginary = tf.reshape(tf.constant([-1.0, 8.0]), (1, 1, 1, 1, 2))
    found = noise.add_rician_noise(image, tf.constant([[0.5]]), real, imaginary)
    assert found.numpy().ravel().tolist() == [1.5, 6.0]


def test_each_channel_has_its_own_zero_of_magnitude():
    image = make_image(2, (1, 8, 8), 3)
    change, _ = prepare(noise.rician_noise, [0, 1], (1, 8, 8), 3)
    shift = np.array([5, -7, 100], np.float32).reshape(1, 3, 1, 1, 1)
    np.testing.assert_allclose(change(image + shift), change(image) + shift, atol=2e-5)


@BOTH
def test_no_deviation_is_the_identity_bit_by_bit(transform):
    image = make_image(3, (2, 4, 4), 4)
    change, _ = prepare(transform, [0, 1, 2], (2, 4, 4), 4, std=[0.0, 0.0])
    for run in (change, tf.function(change, jit_compile=True)):
        np.testing.assert_array_equal(run(tf.constant(image)), image)


@BOTH
def test_an_example_is_the_same_alone_and_in_a_batch(transform):
    image = make_image(3, (2, 3, 5), 4)
    together = prepare(transform, [4, 5, 6], (2, 3, 5), 4)[0](image)
    for n in range(3):
        alone = prepare(transform, [4 + n], (2, 3, 5), 4)[0](image[n : n + 1])
        np.testing.assert_allclose(alone[0], together[n], atol=1e-6)


@BOTH
def test_eager_graph_and_xla_agree(transform):
    image = tf.constant(make_image(2, (2, 3, 5), 3))

    def run(image):
        return prepare(transform, [0, 1], (2, 3, 5), 3, std=[0.5, 1.0])[0](image)

    for jit in (False, True):
        found = tf.function(run, jit_compile=jit)(image)
        np.testing.assert_allclose(found, run(image), atol=1e-5)


@BOTH
def test_a_constant_image_stays_finite(transform):
    change, _ = prepare(transform, [0], (2, 4, 4), 1)
    assert np.isfinite(change(tf.zeros((1, 1, 2, 4, 4)))).all()


@BOTH
def test_one_deviation_for_all_channels_uniform_in_its_range(transform):
    std = prepare(transform, range(4000), (1, 1, 1), 4)[1].numpy()
    assert std.shape == (4000, 1)
    assert stats.kstest(std[:, 0], stats.uniform(0, 0.1).cdf).pvalue > 1e-3


@BOTH
def test_nonsense_is_refused(transform):
    for limits in ([-0.1, 0.1], [0.2, 0.1], [0.1]):
        with pytest.raises(ConfigError, match=r"_noise\.std must be \[low, high\] with 0 <= low"):
            prepare(transform, [0], (1, 2, 2), 1, std=limits)
