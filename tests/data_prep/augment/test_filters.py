"""Filters against SciPy, TensorFlow Addons, slow exact resampling and values worked out by hand."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from data_prep.augment import filters
from data_prep.augment.random import Draws
from data_prep.augment.random import make_keys
from data_prep.augment.space import make_space
from segkit.errors import ConfigError

WRAPPERS = ("blur", "sharpen", "low_resolution")


def make_image(shape=(3, 2, 9, 12, 11), seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def make_inputs(name, image, spacing=(1.0, 1.0, 1.0), first=0):
    batch, channels, *patch = image.shape
    keys = make_keys(7, tf.range(first, first + batch, dtype=tf.int64))
    draws = Draws(keys, salt=0, budget=16 + 16 * channels, scope=name)
    return draws, make_space(patch, tf.constant([spacing] * batch), channels, 2)


def run(name, image, first=0, spacing=(1.0, 1.0, 1.0), **options):
    return getattr(filters, name)(*make_inputs(name, image, spacing, first), **options)(image)


def draw(name, batch=2000, channels=2, **options):
    """The parameters that a transform draws for many examples."""
    draws, space = make_inputs(name, tf.zeros((batch, channels, 8, 8, 8)))
    getattr(filters, name)(draws, space, **options)
    return {key.split(".")[1]: value.numpy() for key, value in draws.log.items()}


def per_axis(*values):
    """One set of three values per channel, for a batch of 1."""
    return tf.constant([values], tf.float32)


def on_line(function, line, value):
    """Applies a filter of all three axes to a slice of one line."""
    image = tf.constant(line, tf.float32)[None, None, None, None]
    return function(image, per_axis([value] * 3)).numpy().ravel()


def test_gaussian_blur_agrees_with_scipy():
    image = make_image((1, 3, 14, 17, 20))
    sigma = [[0.5, 0.7, 1.0], [1.5, 0.0, 2.0], [0.01, 1.2, 0.6]]
    blurred = filters.gaussian_blur(image, per_axis(*sigma))
    for channel in range(3):
        expected = ndimage.gaussian_filter(
            image[0, channel], sigma[channel], mode="mirror", truncate=6
        )
        np.testing.assert_allclose(blurred[0, channel], expected, atol=1e-5)


def test_three_taps_agree_with_tensorflow_addons():
    # tfa.image.gaussian_filter2d(image, 3, 1.0, "REFLECT") of version 0.23
    values = np.load(Path(__file__).with_name("addons_gaussian.npz"))
    sigma = tf.ones((2, 2, 3))
    blurred = filters.gaussian_blur(tf.constant(values["image"]), sigma, truncate=1.0)
    np.testing.assert_allclose(blurred, values["blurred"], atol=1e-6)


def test_gaussian_blur_by_hand():
    def three_taps(image, sigma):
        return filters.gaussian_blur(image, sigma, truncate=1.0)

    # e = exp(-1/2) = 0.60653: taps e, 1, e over 1 + 2e = 2.21306
    side, middle = 0.27407, 0.45186
    np.testing.assert_allclose(
        on_line(three_taps, [0, 0, 1, 0, 0], 1.0), [0, side, middle, side, 0], atol=1e-5
    )
    # the mirror shows voxel 1 once more beyond voxel 0, and not voxel 0 itself
    np.testing.assert_allclose(
        on_line(three_taps, [1, 0, 0, 0], 1.0), [middle, side, 0, 0], atol=1e-5
    )
    np.testing.assert_allclose(
        on_line(three_taps, [0, 1, 0, 0], 1.0), [2 * side, middle, side, 0], atol=1e-5
    )


def test_a_blur_wider_than_the_patch_still_sums_to_one():
    np.testing.assert_allclose(on_line(filters.gaussian_blur, [3.0] * 4, 50.0), 3.0, rtol=1e-6)


def test_an_unsharp_mask_adds_what_the_blur_takes_away():
    image = make_image((1, 2, 8, 9, 10))
    sigma = [[1.0] * 3, [0.7] * 3]
    sharp = filters.unsharp_mask(image, tf.constant([[0.5, 2.0]]), per_axis(*sigma))
    for channel, amount in enumerate((0.5, 2.0)):
        x = image[0, channel].numpy()
        blurred = ndimage.gaussian_filter(x, sigma[channel], mode="mirror", truncate=6)
        np.testing.assert_allclose(sharp[0, channel], x + amount * (x - blurred), atol=1e-3)


def interpolate(line, coarse):
    """Nearest-exact down to `coarse` voxels and linear up again, in exact fractions."""
    n = len(line)
    small = [line[int((q + Fraction(1, 2)) * n / coarse)] for q in range(coarse)]
    result = []
    for i in range(n):
        place = max((i + Fraction(1, 2)) * coarse / n - Fraction(1, 2), Fraction(0))
        low = int(place)
        share = float(place - low)
        result.append(small[low] * (1 - share) + small[min(low + 1, coarse - 1)] * share)
    return np.array(result)


@pytest.mark.parametrize("scale", [0.0, 0.25, 0.5, 0.55, 0.6667, 0.75, 0.81, 0.95, 1.0])
def test_reduced_resolution_agrees_with_exact_resampling(scale):
    image = make_image((1, 1, 7, 12, 16))
    expected = image[0, 0].numpy()
    for axis, n in enumerate(expected.shape):
        expected = np.apply_along_axis(interpolate, axis, expected, max(round(n * scale), 1))
    reduced = filters.reduce_resolution(image, per_axis([scale] * 3))
    np.testing.assert_allclose(reduced[0, 0], expected, atol=1e-5)


def test_reduced_resolution_by_hand():
    # coarse voxels are 1 and 3; their middles lie at 0.5 and 2.5
    reduced = on_line(filters.reduce_resolution, [0, 1, 2, 3], 0.5)
    np.testing.assert_allclose(reduced, [1, 1.5, 2.5, 3])
    # middles at 2/3, 2 and 10/3 lie in voxels 0, 2 and 3; voxels 0 to 3 lie at -1/8, 5/8, 11/8
    # and 17/8 of these: 0, 0 * 3/8 + 2 * 5/8, 2 * 5/8 + 3 * 3/8, 3
    reduced = on_line(filters.reduce_resolution, [0, 1, 2, 3], 0.75)
    np.testing.assert_allclose(reduced, [0, 1.25, 2.375, 3])


def test_half_a_voxel_rounds_to_even_as_in_python():
    # 5 * 0.5 = 2.5 -> 2 voxels
    line = [3.0, 1.0, 4.0, 1.0, 5.0]
    reduced = on_line(filters.reduce_resolution, line, 0.5)
    np.testing.assert_allclose(reduced, interpolate(line, 2), atol=1e-6)


def test_zero_strength_is_exactly_the_identity():
    image = make_image((2, 2, 5, 6, 7))
    zeros, ones = tf.zeros((2, 2, 3)), tf.ones((2, 2, 3))
    results = [
        filters.gaussian_blur(image, zeros),
        filters.unsharp_mask(image, tf.ones((2, 2)), zeros),
        filters.unsharp_mask(image, tf.zeros((2, 2)), ones),
        filters.reduce_resolution(image, ones),
    ]
    options = ({"sigma": [0, 0]}, {"amount": [0, 0]}, {"scale": [1, 1]})
    for name, neutral in zip(WRAPPERS, options, strict=True):
        compiled = tf.function(run, jit_compile=True)
        results += [
            run(name, image, **neutral, channel_probability=1.0),
            compiled(name, image, **neutral, channel_probability=1.0),
            run(name, image, channel_probability=0.0),
        ]
    for result in results:
        np.testing.assert_array_equal(result, image)


def test_one_channel_of_several_keeps_its_voxels():
    image = make_image((1, 2, 5, 6, 7))
    sigma = per_axis([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    for result in (
        filters.gaussian_blur(image, sigma),
        filters.unsharp_mask(image, tf.ones((1, 2)), sigma),
        filters.reduce_resolution(image, 1 - sigma / 2),
    ):
        np.testing.assert_array_equal(result[:, 0], image[:, 0])
        assert np.abs(result[:, 1] - image[:, 1]).max() > 0.1


@pytest.mark.parametrize("name", WRAPPERS)
def test_thin_axes_are_not_mixed(name):
    one = make_image((1, 1, 8, 8, 8))
    keep = np.zeros((1, 1, 8, 8, 8), np.float32)
    keep[:, :, 3] = 1
    for spacing, spreads in (((5.0, 1.0, 1.0), False), ((1.0, 1.0, 1.0), True)):
        result = run(name, one * keep, spacing=spacing, channel_probability=1.0).numpy()
        assert np.any(result * (1 - keep)) == spreads
        assert np.any(result[:, :, 3] != one[:, :, 3])


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_slice_is_filtered_within_its_plane(name):
    image = make_image((2, 1, 1, 16, 16))
    result = run(name, image, channel_probability=1.0).numpy()
    assert result.shape == image.shape
    assert np.all(np.abs(result - image).max(axis=(1, 2, 3, 4)) > 0.05)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_batch_is_its_examples_one_by_one(name):
    image = make_image((4, 3, 5, 8, 7))
    together = run(name, image)
    for n in range(4):
        np.testing.assert_allclose(run(name, image[n : n + 1], first=n)[0], together[n], atol=1e-6)


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_same_eagerly_in_a_graph_and_under_xla(name):
    image = make_image()
    eager = run(name, image)
    for jit in (False, True):
        compiled = tf.function(lambda x: run(name, x), jit_compile=jit)
        np.testing.assert_allclose(compiled(image), eager, atol=1e-5)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_constant_image_stays_constant(name):
    image = tf.fill((2, 4, 6, 7, 8), 3.0)
    np.testing.assert_allclose(run(name, image, channel_probability=1.0), image, rtol=1e-6)


def test_draws_keep_to_their_ranges():
    drawn = draw("blur", sigma=[0.5, 1.5], channel_probability=0.3)
    assert drawn["sigma"].shape == (2000, 2, 3)
    assert drawn["channel"].shape == (2000, 2)
    assert 0.5 <= drawn["sigma"].min() < 0.51
    assert 1.49 < drawn["sigma"].max() <= 1.5
    # 12,000 numbers of standard deviation 1 / sqrt(12); 4,000 of sqrt(0.3 * 0.7)
    assert abs(drawn["sigma"].mean() - 1.0) < 4 * 0.289 / 12000**0.5
    assert abs(drawn["channel"].mean() - 0.3) < 4 * 0.458 / 4000**0.5
    assert abs(np.corrcoef(drawn["sigma"].reshape(2000, 6).T) - np.eye(6)).max() < 4 / 2000**0.5
    sharp = draw("sharpen", amount=[0.2, 0.4])
    assert sharp["amount"].shape == (2000, 2)
    assert 0.2 <= sharp["amount"].min() < sharp["amount"].max() <= 0.4
    coarse = draw("low_resolution")
    assert coarse["scale"].shape == (2000, 2, 1)
    assert abs(coarse["scale"].mean() - 0.75) < 4 * 0.5 * 0.289 / 4000**0.5


def test_the_share_of_channels_that_change_is_as_asked():
    image = make_image((200, 2, 1, 6, 6))
    changed = np.any(run("blur", image) != image, axis=(2, 3, 4))
    assert abs(changed.mean() - 0.5) < 4 * 0.5 / 400**0.5  # of 400 channels
    assert {tuple(row) for row in changed.tolist()} == {(a, b) for a in (0, 1) for b in (0, 1)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("blur", {"sigma": [1.0, 0.5]}, r"blur.sigma must be \[low, high\] with 0 <= low <= high"),
        ("blur", {"sigma": [1.0]}, r"blur.sigma .*, got \[1.0\]"),
        ("blur", {"channel_probability": 1.5}, "blur.channel_probability must be between 0 and 1"),
        ("sharpen", {"amount": [-0.1, 1.0]}, r"sharpen.amount .*, got \[-0.1, 1.0\]"),
        ("sharpen", {"sigma": [float("nan"), 1.0]}, "sharpen.sigma"),
        ("low_resolution", {"scale": [0.5, 1.2]}, "scale .* 0 <= low <= high <= 1, got"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        run(name, make_image((1, 1, 4, 4, 4)), **options)
