"""Augmentation against SciPy, against exact cases, and its invariants."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from data_prep.augment import intensity
from data_prep.augment import spatial
from segkit.config import AugmentConfig

STRONG = AugmentConfig(
    flip=[0.5, 0.5, 0.5],
    rotation_deg=30.0,
    rotation_probability=0.7,
    scaling=[0.7, 1.4],
    scaling_probability=0.7,
    brightness=[0.75, 1.25],
    contrast=[0.75, 1.25],
    intensity_probability=0.7,
)


def make_record(shape=(9, 10, 11), channels=2, spacing=(1.0, 1.0, 1.0), seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": tf.constant(rng.integers(-500, 500, (*shape, channels)), tf.int16),
        "slope": tf.constant(np.linspace(0.01, 0.02, channels), tf.float32),
        "intercept": tf.constant(np.linspace(3, 4, channels), tf.float32),
        "label": tf.constant(rng.choice([0, 1, 3, 700], shape), tf.uint16),
        "spacing_mm": tf.constant(spacing, tf.float64),
    }


def intensities(record):
    return record["image"].numpy() * record["slope"].numpy() + record["intercept"].numpy()


def seed(n):
    return tf.constant([7, n], tf.int64)


@pytest.mark.parametrize(
    ("start", "patch"), [((2, 3, 1), (4, 5, 6)), ((-3, 6, -1), (8, 8, 14)), ((4, 0, 0), (1, 9, 9))]
)
def test_a_crop_is_the_slice_padded_with_zeros(start, patch):
    record = make_record()
    image, label = spatial.crop(record, tf.constant(start), patch)
    padded = np.pad(intensities(record), [(20, 20)] * 3 + [(0, 0)])
    box = tuple(slice(20 + s, 20 + s + n) for s, n in zip(start, patch, strict=True))
    np.testing.assert_allclose(image, padded[box], rtol=1e-6)
    np.testing.assert_array_equal(label, np.pad(record["label"], 20)[box])
    assert label.dtype == tf.uint16


@pytest.mark.parametrize(
    ("start", "patch"), [((2, 3, 1), (4, 5, 6)), ((-3, 6, -1), (8, 8, 14)), ((4, 0, 0), (1, 9, 9))]
)
def test_resampling_by_the_identity_is_exactly_the_crop(start, patch):
    record = make_record()
    centre = tf.constant(np.array(start) + (np.array(patch) - 1) / 2, tf.float32)
    found = spatial.resample(record, centre, tf.eye(3), patch)
    expected = spatial.crop(record, tf.constant(start), patch)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("number", range(4))
def test_resampling_agrees_with_scipy_inside_across_and_outside_the_border(number):
    rng = np.random.default_rng(number)
    record = make_record(seed=number)
    patch = (7, 8, 12)
    centre = rng.uniform(-4, 12, 3).astype(np.float32)
    matrix = (np.eye(3) + rng.normal(scale=0.4, size=(3, 3))).astype(np.float32)
    image, label = spatial.resample(record, tf.constant(centre), tf.constant(matrix), patch)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in patch], indexing="ij"), -1)
    points = np.moveaxis(centre + (grid - (np.array(patch) - 1) / 2) @ matrix.T, -1, 0)
    for n, channel in enumerate(np.moveaxis(intensities(record), -1, 0)):
        expected = ndimage.map_coordinates(channel, points, order=1, mode="grid-constant")
        np.testing.assert_allclose(image[..., n], expected, atol=1e-4)
    expected = ndimage.map_coordinates(record["label"].numpy(), points, order=0, mode="constant")
    # SciPy's order 0 ends at the outer voxel centres, ours half a voxel further out.
    within = np.all(
        [(p >= 0) & (p <= n - 1) for p, n in zip(points, (9, 10, 11), strict=True)], axis=0
    )
    np.testing.assert_array_equal(label.numpy()[within], expected[within])


def test_a_patch_far_outside_of_the_chunk_is_zero():
    for centre in ([-50.0, 4.0, 4.0], [4.0, 4.0, 80.0]):
        image, label = spatial.resample(
            make_record(), tf.constant(centre), spatial.rotation(tf.constant([0.3, 0, 0])), (5,) * 3
        )
        assert not image.numpy().any()
        assert not label.numpy().any()


def test_image_and_label_stay_aligned_under_any_map():
    # The image is the depth index and so is the label: the nearest voxel's label is the
    # interpolated depth, rounded, except next to the border where zeros are mixed in.
    depth = np.broadcast_to(np.arange(12)[:, None, None], (12, 12, 12))
    record = make_record((12, 12, 12), 1) | {
        "image": tf.constant(depth[..., None], tf.int16),
        "slope": tf.ones(1),
        "intercept": tf.zeros(1),
        "label": tf.constant(depth, tf.uint16),
    }
    for n in range(20):
        image, label = spatial.random_patch(record, tf.constant([4] * 3), (4,) * 3, seed(n), STRONG)
        difference = np.abs(image.numpy()[..., 0] - label.numpy())
        assert difference.max() <= 0.5 + 1e-5


def test_a_quarter_turn_by_hand():
    turn = spatial.rotation(tf.constant([np.pi / 2, 0, 0], tf.float32))
    np.testing.assert_allclose(turn @ [[0.0], [1.0], [0.0]], [[0.0], [0.0], [1.0]], atol=1e-6)


def test_a_rotation_is_one_in_millimetres():
    config = AugmentConfig(rotation_deg=30.0, rotation_probability=1.0)
    spacing = np.array([2.0, 1.0, 0.8])
    for n in range(10):
        matrix, changed = spatial.random_matrix(seed(n), config, (8, 8, 8), spacing)
        turn = np.diag(spacing) @ matrix.numpy() @ np.diag(1 / spacing)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(turn) == pytest.approx(1, abs=1e-5)
        assert changed
        assert np.abs(matrix.numpy() - turn).max() > 1e-3


@pytest.mark.parametrize(
    ("patch", "spacing"),
    [((1, 16, 40), (1, 1, 1)), ((5, 16, 16), (1, 1, 1)), ((16, 16, 16), (3.1, 1, 1))],
)
def test_a_thin_axis_neither_rotates_nor_zooms(patch, spacing):
    config = AugmentConfig(
        rotation_deg=30.0, rotation_probability=1.0, scaling=[1.2, 1.4], scaling_probability=1.0
    )
    matrix = spatial.random_matrix(seed(0), config, patch, np.array(spacing))[0].numpy()
    np.testing.assert_array_equal(matrix[0], [1, 0, 0])
    np.testing.assert_array_equal(matrix[:, 0], [1, 0, 0])
    assert np.abs(matrix[1, 2]) > 1e-3  # the plane does rotate
    # det of a rotation in plane, divided by the zoom on two axes
    assert 1 / 1.4**2 <= np.linalg.det(matrix) <= 1 / 1.2**2


def test_the_angles_are_symmetric_and_as_rare_as_asked():
    config = AugmentConfig(rotation_deg=30.0, rotation_probability=0.25)
    draw = tf.function(lambda n: spatial.random_matrix(n, config, (1, 8, 8), np.ones(3)))
    angles = [np.arcsin(draw(seed(n))[0][2, 1]) for n in range(600)]
    turned = [a for a in angles if a != 0]
    # 600 * 0.25 = 150, standard deviation sqrt(600 * 0.25 * 0.75) = 10.6
    assert abs(len(turned) - 150) < 43
    limit = np.deg2rad(30)
    assert 0.95 * limit < np.abs(turned).max() <= limit * 1.0001
    # uniform in +-limit: standard deviation limit / sqrt(3), of the mean a 12th of that
    assert abs(np.mean(turned)) < 4 * limit / np.sqrt(3 * len(turned))


def test_zoom_above_one_magnifies():
    label = np.zeros((30, 30, 30), np.uint16)
    label[11:19, 11:19, 11:19] = 1
    record = make_record((30, 30, 30), 1) | {"label": tf.constant(label)}
    config = AugmentConfig(scaling=[2.0, 2.0], scaling_probability=1.0)
    found = spatial.random_patch(record, tf.constant([0] * 3), (30,) * 3, seed(0), config)[1]
    assert found.numpy().sum() == 16**3


def test_flips_are_exact_and_move_both():
    record = make_record()
    image, label = spatial.crop(record, tf.constant([0, 0, 0]), (4, 5, 6))
    for probabilities, axes in (((1, 0, 1), (0, 2)), ((0, 1, 0), (1,)), ((0, 0, 0), ())):
        flipped = spatial.random_flip(image, label, seed(0), probabilities)
        np.testing.assert_array_equal(flipped[0], np.flip(image, axes))
        np.testing.assert_array_equal(flipped[1], np.flip(label, axes))


def test_zero_strength_is_the_identity():
    record = make_record()
    start, patch = tf.constant([1, -2, 3]), (6, 7, 8)
    expected = spatial.crop(record, start, patch)
    certain = AugmentConfig(
        rotation_probability=1.0, scaling_probability=1.0, intensity_probability=1.0
    )
    never = AugmentConfig(
        rotation_deg=30.0,
        rotation_probability=0.0,
        scaling=[0.7, 1.4],
        scaling_probability=0.0,
        brightness=[0.5, 2.0],
        contrast=[0.5, 2.0],
        intensity_probability=0.0,
    )
    for config in (AugmentConfig(), certain, never):
        image, label = spatial.random_patch(record, start, patch, seed(3), config)
        image = intensity.random_intensity(image, seed(4), config)
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(label, expected[1])


def test_the_same_seed_gives_the_same_patch_eagerly_in_a_graph_and_in_tf_data():
    record = make_record()

    def augmented(n):
        seeds = tf.random.split(tf.stack([7, n]), 2)
        start = tf.constant([0, 1, 2])
        image, label = spatial.random_patch(record, start, (6, 6, 6), seeds[0], STRONG)
        return intensity.random_intensity(image, seeds[1], STRONG), label

    graph = tf.function(augmented)
    data = tf.data.Dataset.range(8).map(augmented, num_parallel_calls=2)
    images = []
    for n, (image, label) in enumerate(data):
        number = tf.constant(n, tf.int64)
        for other in (augmented(number), graph(number)):
            np.testing.assert_allclose(other[0], image, atol=1e-4)
            np.testing.assert_array_equal(other[1], label)
        assert label.dtype == tf.uint16
        assert set(np.unique(label)) <= {0, 1, 3, 700}
        images.append(image.numpy())
    assert len({image.tobytes() for image in images}) == 8


def test_brightness_and_contrast_by_hand():
    image = tf.reshape(tf.constant([0.0, 1.0, 2.0, 5.0]), (1, 1, 4, 1))
    assert intensity.brightness(image, tf.constant([1.5])).numpy().ravel().tolist() == [
        0.0,
        1.5,
        3.0,
        7.5,
    ]
    # mean 2: 2 + 0.5 * (0 - 2) = 1, 1.5, 2, 3.5
    assert intensity.contrast(image, tf.constant([0.5])).numpy().ravel().tolist() == [
        1.0,
        1.5,
        2.0,
        3.5,
    ]
    # 2 + 2 * (x - 2) = -2, 0, 2, 8, kept within 0..5
    assert intensity.contrast(image, tf.constant([2.0])).numpy().ravel().tolist() == [
        0.0,
        0.0,
        2.0,
        5.0,
    ]


def test_each_channel_draws_its_own_factor_within_the_range():
    config = AugmentConfig(brightness=[0.8, 1.2], intensity_probability=1.0)
    factors = intensity.random_intensity(tf.ones((1, 2, 2, 3)), seed(1), config).numpy()[0, 0, 0]
    assert len(set(factors)) == 3
    assert factors.min() >= 0.8
    assert factors.max() <= 1.2
