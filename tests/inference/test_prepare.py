"""The TensorFlow preparation against scikit-image, hand-made values and its NumPy twin."""

import numpy as np
import pytest
import tensorflow as tf
from skimage.transform import resize

from data_prep import preprocess
from data_prep.plan import Plan
from segkit.inference.prepare import nonzero_box
from segkit.inference.prepare import normalise
from segkit.inference.prepare import prepare
from segkit.inference.prepare import resample_axis
from segkit.inference.prepare import restore
from segkit.volume import Volume

ZSCORE = {"scheme": "zscore", "masked": False}
MASKED = {"scheme": "zscore", "masked": True}
CT = {"scheme": "ct", "clip": [-100.0, 200.0], "mean": 50.0, "std": 25.0}
RESCALE = {"scheme": "rescale", "low": 0, "high": 255}


def plan(*schemes, spacing_mm=None, crop=False):
    return Plan("SAR", spacing_mm, crop, schemes)


def noise(*shape):
    return np.random.default_rng(0).normal(100, 40, size=shape).astype(np.float32)


def test_the_box_holds_every_voxel_not_zero_in_any_channel():
    image = np.zeros((6, 7, 8, 2), np.float32)
    image[2, 3, 4, 0] = 1
    image[4, 3, 1, 1] = -1
    assert nonzero_box(image).numpy().tolist() == [[2, 5], [3, 4], [1, 5]]


def test_an_image_of_zeros_keeps_its_extent():
    assert nonzero_box(np.zeros((2, 3, 4, 1))).numpy().tolist() == [[0, 2], [0, 3], [0, 4]]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        # mean (0 + 2 + 4 + 6) / 4 = 3, variance (9 + 1 + 1 + 9) / 4 = 5
        (ZSCORE, np.array([-3, -1, 1, 3]) / np.sqrt(5)),
        # over 2, 4, 6: mean 4, variance (4 + 0 + 4) / 3 = 8 / 3; the zero stays 0
        (MASKED, np.array([0, -2, 0, 2]) / np.sqrt(8 / 3)),
        (CT, (np.array([0, 2, 4, 6]) - 50) / 25),
        (RESCALE, np.array([0, 2, 4, 6]) / 255),
    ],
)
def test_normalisation_follows_its_formula(scheme, expected):
    channel = tf.reshape(tf.constant([0.0, 2.0, 4.0, 6.0]), (1, 2, 2))
    np.testing.assert_allclose(tf.reshape(normalise(channel, scheme), -1), expected, rtol=1e-6)


@pytest.mark.parametrize("scheme", [ZSCORE, MASKED])
def test_a_constant_channel_becomes_zero(scheme):
    for value in (0.0, 7.0):
        assert not normalise(tf.fill((2, 2, 2), value), scheme).numpy().any()


@pytest.mark.parametrize("scheme", [ZSCORE, MASKED, CT, RESCALE, {**RESCALE, "low": 10}])
def test_a_missing_channel_stays_zero_here_and_in_the_conversion(scheme):
    zeros = np.zeros((2, 2, 2), np.float32)
    assert not normalise(tf.constant(zeros), scheme).numpy().any()
    assert not preprocess.normalise(zeros, scheme).any()


@pytest.mark.parametrize("length", [1, 4, 7, 10, 23])
def test_resampling_is_that_of_scikit_image(length):
    array = noise(5, 7, 3)
    expected = resize(array, (5, length, 3), order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resample_axis(array, 1, length), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        plan(ZSCORE),
        plan(MASKED, spacing_mm=(1.0, 1.0, 1.0), crop=True),
        plan(CT, spacing_mm=(2.5, 0.8, 0.8), crop=True),
        plan(RESCALE, RESCALE, RESCALE),
        plan(ZSCORE, CT, spacing_mm=(3.0, 1.0, 1.4), crop=True),
    ],
)
def test_preparation_is_that_of_the_data_set(case):
    channels = len(case.normalization)
    array = noise(9, 10, 11, channels)
    array[:2] = 0
    array[:, :, 8:] = 0
    volume = Volume(array, np.diag([1.1, 0.7, 2.0, 1.0])[:, [2, 1, 0, 3]])
    assert volume.orientation == "SAR"
    expected = preprocess.prepare(volume, None, case)
    run = tf.function(
        lambda image, spacing: prepare(image, spacing, case.as_json()),
        input_signature=[
            tf.TensorSpec((None, None, None, channels), tf.float32),
            tf.TensorSpec((3,), tf.float32),
        ],
    )
    image, crop = run(np.ascontiguousarray(volume.array), volume.spacing_mm)
    assert crop.numpy().tolist() == expected.geometry["crop"]
    assert image.shape == expected.image.shape
    np.testing.assert_allclose(image, expected.image, atol=2e-5)


def test_an_axis_of_one_voxel_is_never_resampled():
    image, _ = prepare(
        noise(1, 4, 4, 1), (5.0, 2.0, 2.0), plan(ZSCORE, spacing_mm=(1, 1, 1)).as_json()
    )
    assert image.shape == (1, 8, 8, 1)


def test_restoring_without_resampling_is_the_argmax_in_its_place():
    logits = noise(2, 3, 4, 3)
    mask = restore(logits, tf.constant([[1, 3], [0, 3], [2, 6]]), tf.constant([5, 3, 7]))
    expected = np.zeros((5, 3, 7), np.int32)
    expected[1:3, :, 2:6] = logits.argmax(-1)
    assert mask.dtype == tf.int32
    np.testing.assert_array_equal(mask, expected)


def test_restoring_resamples_logits_and_decides_then():
    logits = noise(4, 5, 6, 3)
    crop, shape = tf.constant([[0, 7], [1, 4], [0, 12]]), tf.constant([7, 5, 12])
    mask, probabilities = restore(logits, crop, shape, with_probabilities=True)
    full = resize(logits, (7, 3, 12, 3), order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_array_equal(mask[:, 1:4], full.argmax(-1))
    np.testing.assert_allclose(probabilities[:, 1:4], tf.nn.softmax(full), atol=1e-4)
    np.testing.assert_array_equal(probabilities[:, 0], np.broadcast_to([1.0, 0, 0], (7, 12, 3)))
    np.testing.assert_array_equal(mask, restore(logits, crop, shape))


def test_restored_regions_are_painted_after_resampling_and_end_at_the_crop():
    logits = noise(4, 5, 6, 2)
    logits -= logits.mean()
    crop, shape = tf.constant([[0, 7], [1, 4], [0, 12]]), tf.constant([7, 5, 12])
    order = {"class_order": (3, 1)}
    mask, probabilities = restore(logits, crop, shape, with_probabilities=True, **order)
    full = resize(logits, (7, 3, 12, 2), order=1, mode="edge", anti_aliasing=False)
    expected = np.where(full[..., 1] > 0, 1, np.where(full[..., 0] > 0, 3, 0))
    assert set(np.unique(expected)) == {0, 1, 3}
    np.testing.assert_array_equal(mask[:, 1:4], expected)
    np.testing.assert_allclose(probabilities[:, 1:4], 1 / (1 + np.exp(-full)), atol=1e-4)
    assert not probabilities.numpy()[:, [0, 4]].any()
    np.testing.assert_array_equal(mask, restore(logits, crop, shape, **order))


@pytest.mark.parametrize("spacing", [0.7, 0.3, 0.9, 1.1])
def test_a_spacing_in_float32_gives_the_lengths_of_the_conversion(spacing):
    # At half lengths, such as 0.7 * 45 = 31.5, float32 and float64 would round apart.
    for length in range(2, 60):
        image = np.ones((length, 1, 1, 1), np.float32)
        spacing_mm = np.float32([spacing, 1, 1])
        prepared, _ = prepare(image, spacing_mm, plan(ZSCORE, spacing_mm=(1.0, 1.0, 1.0)).as_json())
        expected = preprocess.new_shape(image.shape[:3], (spacing, 1, 1), (1.0, 1.0, 1.0))
        assert list(prepared.shape[:3]) == expected
