"""Grid, interpolation, crop and their use, against SciPy, TensorFlow Addons and exact cases."""

import itertools
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from scipy.interpolate import BSpline

from data_prep.augment import crop
from data_prep.augment import grid
from data_prep.augment import sample
from data_prep.augment import spatial
from data_prep.augment.spatial import Placement
from segkit.errors import ConfigError

# Of TensorFlow Addons 0.23: images (2, 12, 16, 2) and labels, what `tfa.image.rotate` makes of
# them, `translate` by (2, 1) and (-1.5, 0.5) voxels in x and y, and `dense_image_warp`.
ADDONS = np.load(Path(__file__).with_name("addons.npz"))
BOXES = [((2, 3, 1), (4, 5, 6)), ((-3, 6, -1), (8, 8, 14)), ((4, 0, 0), (1, 9, 9))]


def make_record(shape=(9, 10, 11), channels=2, seed=0, label_dtype="uint16"):
    rng = np.random.default_rng(seed)
    return {
        "image": tf.constant(rng.integers(-500, 500, (*shape, channels)), tf.int16),
        "slope": tf.constant(np.linspace(0.01, 0.02, channels), tf.float32),
        "intercept": tf.constant(np.linspace(3, 4, channels), tf.float32),
        "label": tf.constant(rng.choice([0, 1, 3, 200], shape), label_dtype),
        "spacing_mm": tf.ones(3, tf.float64),
    }


def intensities(record):
    return record["image"].numpy() * record["slope"].numpy() + record["intercept"].numpy()


def placement(matrix=None, shift=None, displacement=None, mirrored=(False,) * 3, batch=1):
    """The same placement for every example."""

    def tiled(values, dtype=tf.float32):
        values = tf.constant(np.array(values), dtype)
        return tf.tile(values[None], [batch, *[1] * values.shape.rank])

    return Placement(
        tiled(np.eye(3) if matrix is None else matrix),
        tiled(np.zeros(3) if shift is None else shift),
        None if displacement is None else tiled(displacement),
        tiled(mirrored, tf.bool),
        tf.ones(batch, tf.bool),
    )


def random_matrix(rng):
    return np.eye(3) + rng.normal(scale=0.3, size=(3, 3))


def points_of(matrix, centre, patch, displacement=None):
    """Source coordinates (3, *patch) in float64, the spline by SciPy."""
    steps = np.stack(np.meshgrid(*[np.arange(n) for n in patch], indexing="ij"), -1)
    steps = steps - (np.array(patch) - 1) / 2
    if displacement is not None:
        for axis, n in enumerate(patch):
            points = displacement.shape[axis]
            spline = BSpline(np.arange(points + 4) - 3, np.moveaxis(displacement, axis, 0), 3)
            displacement = np.moveaxis(spline(np.linspace(0, points - 3, n)), 0, axis)
        steps = steps + displacement
    return np.moveaxis(centre + steps @ np.array(matrix).T, -1, 0)


def read_points(image, points, order=1):
    """`sample.interpolate` of one image (d, h, w, c) at points (3, d, h, w)."""
    rows = tf.reshape(tf.constant(image), (1, -1, image.shape[-1]))
    sizes = tf.constant([image.shape[:3]], tf.int32)
    values, cover = sample.interpolate(rows, sizes, tf.constant(points[None], tf.float32), order)
    return values[0].numpy(), cover[0].numpy()


def scipy_linear(image, points):
    read = [ndimage.map_coordinates(c, points, order=1, mode="grid-constant") for c in image]
    return np.stack(read, axis=-1)


def keys_cubic(image, points):
    """Cubic convolution (Keys, 1981) of one channel, voxel by voxel."""

    def weight(x):
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    result = np.zeros(points.shape[1:])
    for place in np.ndindex(result.shape):
        point = points[(slice(None), *place)]
        around = [range(int(np.floor(p)) - 1, int(np.floor(p)) + 3) for p in point]
        for voxel in itertools.product(*around):
            if all(0 <= v < n for v, n in zip(voxel, image.shape, strict=True)):
                share = np.prod([weight(p - v) for p, v in zip(point, voxel, strict=True)])
                result[place] += share * image[voxel]
    return result


@pytest.mark.parametrize(("size", "points"), [(12, 7), (5, 4), (30, 11), (2, 5), (1, 1), (9, 1)])
def test_the_spline_basis_agrees_with_scipy_and_sums_to_one(size, points):
    basis = grid.spline_basis(size, points)
    np.testing.assert_allclose(basis.sum(axis=1), 1, atol=1e-6)
    if points > 1:
        spline = BSpline(np.arange(points + 4) - 3, np.eye(points), 3)
        np.testing.assert_allclose(basis, spline(np.linspace(0, points - 3, size)), atol=1e-6)


@pytest.mark.parametrize("patch", [(7, 8, 12), (1, 9, 6)])
def test_coordinates_agree_with_a_slow_version(patch):
    rng = np.random.default_rng(0)
    control = [1 if n == 1 else 5 for n in patch]
    matrix = np.stack([random_matrix(rng) for _ in range(2)])
    centre, displacement = rng.normal(size=(2, 3)), rng.normal(size=(2, *control, 3))
    arguments = [tf.constant(x, tf.float32) for x in (matrix, centre)]
    straight = grid.coordinates(*arguments, patch)
    bent = grid.coordinates(*arguments, patch, tf.constant(displacement, tf.float32))
    for n in range(2):
        field = displacement[n]
        if patch[0] == 1:  # SciPy's spline needs four control points; equal ones are a constant
            field = np.tile(field, (5, 1, 1, 1))
        np.testing.assert_allclose(straight[n], points_of(matrix[n], centre[n], patch), atol=1e-5)
        expected = points_of(matrix[n], centre[n], patch, field)
        np.testing.assert_allclose(bent[n], expected, atol=1e-5)


@pytest.mark.parametrize("number", range(4))
def test_linear_interpolation_agrees_with_scipy_inside_across_and_outside_the_border(number):
    rng = np.random.default_rng(number)
    image = rng.normal(size=(9, 10, 11, 2)).astype(np.float32)
    points = points_of(random_matrix(rng), rng.uniform(-4, 12, 3), (7, 8, 12))
    values, cover = read_points(image, points)
    np.testing.assert_allclose(values, scipy_linear(np.moveaxis(image, -1, 0), points), atol=1e-4)
    ones = ndimage.map_coordinates(np.ones((9, 10, 11)), points, order=1, mode="grid-constant")
    np.testing.assert_allclose(cover[..., 0], ones, atol=1e-5)


@pytest.mark.parametrize("number", range(3))
def test_cubic_interpolation_agrees_with_a_slow_version(number):
    rng = np.random.default_rng(number)
    image = rng.normal(size=(5, 6, 7)).astype(np.float32)
    points = points_of(random_matrix(rng), rng.uniform(0, 5, 3), (4, 5, 6))
    values, cover = read_points(image[..., None], points, order=3)
    np.testing.assert_allclose(values[..., 0], keys_cubic(image, points), atol=1e-4)
    np.testing.assert_allclose(cover[..., 0], keys_cubic(np.ones((5, 6, 7)), points), atol=1e-5)


def test_cubic_interpolation_is_exact_on_quadratic_polynomials_and_linear_is_not():
    def polynomial(z, y, x):
        return 0.3 * z**2 - 0.2 * y**2 + 0.1 * x**2 + 0.4 * z * y - 0.3 * y * x + z - 2 * x + 1

    image = polynomial(*np.indices((10, 11, 12))).astype(np.float32)[..., None]
    points = np.random.default_rng(0).uniform(1, 8, (3, 6, 6, 6))  # two voxels from the border
    expected = polynomial(*points)
    np.testing.assert_allclose(read_points(image, points, 3)[0][..., 0], expected, atol=2e-4)
    assert np.abs(read_points(image, points, 1)[0][..., 0] - expected).max() > 0.05


@pytest.mark.parametrize("order", [0, 1, 3])
def test_whole_coordinates_read_the_voxels_exactly(order):
    image = np.random.default_rng(0).normal(size=(5, 6, 7, 2)).astype(np.float32)
    points = np.indices((9, 9, 9)) - 2.0
    values, cover = read_points(image, points, order)
    np.testing.assert_array_equal(values, np.pad(image, [(2, 2), (2, 1), (2, 0), (0, 0)]))
    np.testing.assert_array_equal(
        cover, np.pad(np.ones((5, 6, 7, 1)), [(2, 2), (2, 1), (2, 0), (0, 0)])
    )


def test_order_zero_and_labels_take_the_nearest_voxel_and_zero_half_a_voxel_further_out():
    label = np.arange(1, 6).astype(np.uint8)
    x = np.array([-0.6, -0.5, -0.4, 0.4, 0.6, 1.9, 4.4, 4.6, 1e6, -1e6])
    points = np.zeros((3, 1, 1, len(x)))
    points[2] = x
    expected = [0, 1, 1, 1, 2, 3, 5, 0, 0, 0]
    found = sample.nearest(
        tf.constant(label[None]), tf.constant([[1, 1, 5]]), tf.constant(points[None], tf.float32)
    )
    assert found.dtype == tf.uint8
    np.testing.assert_array_equal(found[0, 0, 0], expected)
    image = label.astype(np.float32).reshape(1, 1, 5, 1)
    np.testing.assert_array_equal(read_points(image, points, 0)[0].ravel(), expected)


def test_labels_agree_with_scipy():
    rng = np.random.default_rng(5)
    label = rng.choice([0, 1, 3, 200], (9, 10, 11)).astype(np.uint16)
    points = points_of(random_matrix(rng), (4, 5, 5), (7, 8, 12))
    found = sample.nearest(
        tf.constant(label.reshape(1, -1)),
        tf.constant([label.shape]),
        tf.constant(points[None], tf.float32),
    )
    expected = ndimage.map_coordinates(np.pad(label, 9), points + 9, order=0)
    np.testing.assert_array_equal(found[0], expected)


def test_images_of_different_sizes_are_read_from_one_batch():
    rng = np.random.default_rng(0)
    images = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 5, 6, 2), (6, 3, 5, 2))]
    points = rng.uniform(-1, 6, (2, 3, 3, 3, 3)).astype(np.float32)
    rows = np.full((2, 128, 2), np.nan, np.float32)  # never read beyond the last voxel
    labels = np.full((2, 128), 9, np.uint8)
    for n, image in enumerate(images):
        rows[n, : image[..., 0].size] = image.reshape(-1, 2)
        labels[n, : image[..., 0].size] = n + 1
    sizes = tf.constant([image.shape[:3] for image in images])
    for order in (0, 1, 3):
        values, cover = sample.interpolate(tf.constant(rows), sizes, tf.constant(points), order)
        for n, image in enumerate(images):
            expected = read_points(image, points[n], order)
            np.testing.assert_allclose(values[n], expected[0], atol=1e-6)
            np.testing.assert_allclose(cover[n], expected[1], atol=1e-6)
    found = sample.nearest(tf.constant(labels), sizes, tf.constant(points)).numpy()
    assert set(np.unique(found[0])) == {0, 1}
    assert set(np.unique(found[1])) == {0, 2}


@pytest.mark.parametrize("order", [1, 3])
def test_a_slice_is_read_from_the_nearest_layer(order):
    image = np.random.default_rng(0).normal(size=(4, 6, 7, 1)).astype(np.float32)
    points = np.indices((1, 4, 5)) + np.reshape([1.7, 0.4, 0.6], (3, 1, 1, 1))
    in_layer = points - np.reshape([1.7, 0, 0], (3, 1, 1, 1))
    expected = read_points(image[2:3], in_layer, order)[0]
    np.testing.assert_allclose(read_points(image, points, order)[0], expected, atol=1e-6)


@pytest.mark.parametrize("order", [2, -1, 5, "linear"])
def test_an_order_that_does_not_exist_is_refused(order):
    with pytest.raises(ConfigError, match="interpolation order must be 0, 1 or 3"):
        read_points(np.zeros((2, 2, 2, 1), np.float32), np.zeros((3, 2, 2, 2)), order)


def test_rotation_agrees_with_tensorflow_addons():
    image = tf.constant(ADDONS["image"][:, None])
    label = tf.constant(ADDONS["labels"][:, None, ..., 0])
    c, s, o = np.cos(ADDONS["rotate_angles_rad"]), np.sin(ADDONS["rotate_angles_rad"]), np.zeros(2)
    matrix = np.stack([[o + 1, o, o], [o, c, s], [o, -s, c]]).transpose(2, 0, 1)
    placed = placement(batch=2)._replace(matrix=tf.constant(matrix, tf.float32))
    found = spatial.read_batch(image, label, (1, 12, 16), placed, order=1, warping=True)
    np.testing.assert_allclose(found[0][:, 0], ADDONS["rotate_bilinear"], atol=1e-4)
    np.testing.assert_array_equal(found[1][:, 0], ADDONS["rotate_nearest_labels"][..., 0])


def test_translation_agrees_with_tensorflow_addons():
    image = tf.constant(ADDONS["image"][:, None])
    label = tf.constant(ADDONS["labels"][:, None, ..., 0])
    shift = tf.constant([[0, -1, -2], [0, -0.5, 1.5]], tf.float32)
    placed = placement(batch=2)._replace(shift=shift)
    found = spatial.read_batch(image, label, (1, 12, 16), placed, order=1, warping=True)
    np.testing.assert_allclose(found[0][:, 0], ADDONS["translate"], atol=1e-4)


def test_dense_warp_agrees_with_tensorflow_addons():
    for image, flow, expected in zip(
        *(ADDONS[name] for name in ("image", "flow", "dense_image_warp")), strict=True
    ):
        # It reads at minus the flow, and beyond the border what is on it.
        points = np.indices((12, 16)) - np.moveaxis(flow, -1, 0)
        points = np.clip(points, 0, np.reshape([11, 15], (2, 1, 1)))
        points = np.concatenate([np.zeros((1, 12, 16)), points])[:, None]
        found = read_points(image[None], points)[0]
        np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.parametrize(("start", "patch"), BOXES)
def test_a_crop_is_the_slice_padded_with_zeros(start, patch):
    record = make_record()
    image, label = crop.crop(record, tf.constant(start), patch)
    box = tuple(slice(20 + s, 20 + s + n) for s, n in zip(start, patch, strict=True))
    padded = np.pad(intensities(record), [(20, 20)] * 3 + [(0, 0)])
    np.testing.assert_allclose(image, padded[box], rtol=1e-6)
    np.testing.assert_array_equal(label, np.pad(record["label"], 20)[box])
    assert image.dtype == tf.float32
    assert label.dtype == tf.uint16
    assert image.shape == (*patch, 2)


@pytest.mark.parametrize(
    ("start", "patch", "order"), [*((*box, 1) for box in BOXES), (*BOXES[0], 0), (*BOXES[2], 3)]
)
def test_reading_a_record_by_the_identity_is_the_crop(start, patch, order):
    record, start = make_record(), tf.constant(start)
    expected = crop.crop(record, start, patch)
    found = spatial.read_record(record, start, patch, placement(), order=order, warping=True)
    np.testing.assert_array_equal(found[0][0], expected[0])
    np.testing.assert_array_equal(found[1][0], expected[1])
    assert found[1].dtype == tf.uint16


@pytest.mark.parametrize("number", range(3))
def test_reading_a_record_agrees_with_scipy(number):
    rng, record, patch = np.random.default_rng(number), make_record(seed=number), (7, 8, 12)
    start, matrix, shift = rng.integers(-3, 6, 3), random_matrix(rng), rng.normal(size=3)
    field = rng.normal(scale=0.7, size=(5, 5, 5, 3))
    placed = placement(matrix, shift, field)
    found = spatial.read_record(
        record, tf.constant(start, tf.int32), patch, placed, order=1, warping=True
    )
    points = points_of(matrix, start + (np.array(patch) - 1) / 2 + shift, patch, field)
    image = np.moveaxis(intensities(record), -1, 0)
    np.testing.assert_allclose(found[0][0], scipy_linear(image, points), atol=1e-4)
    expected = ndimage.map_coordinates(np.pad(record["label"], 9), points + 9, order=0)
    np.testing.assert_array_equal(found[1][0], expected)


def test_a_patch_read_far_outside_of_the_image_is_zero():
    record = make_record()
    turned = [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
    for shift in ([-50.0, 4.0, 4.0], [4.0, 4.0, 1e9]):
        for order in (0, 1):
            image, label = spatial.read_record(
                record,
                tf.zeros(3, tf.int32),
                (5,) * 3,
                placement(turned, shift),
                order=order,
                warping=True,
            )
            assert not image.numpy().any()
            assert not label.numpy().any()


@pytest.mark.parametrize("warping", [False, True])
@pytest.mark.parametrize("mirrored", list(itertools.product([False, True], repeat=3)))
def test_flips_are_exact_in_both_placements(mirrored, warping):
    record, start, patch = make_record(), tf.constant([2, -1, 3]), (6, 4, 5)
    expected = crop.crop(record, start, patch)
    axes = np.flatnonzero(mirrored)
    placed = placement(np.diag(np.where(mirrored, -1.0, 1.0)), mirrored=mirrored)
    placed = placed._replace(warped=tf.constant([False]))
    options = {"order": 1, "warping": warping}
    by_record = spatial.read_record(record, start, patch, placed, **options)
    enlarged = crop.crop(record, start - [1, 2, 3], (8, 8, 11))
    by_batch = spatial.read_batch(*(x[None] for x in enlarged), patch, placed, **options)
    for found in (by_record, by_batch):
        np.testing.assert_array_equal(found[0][0], np.flip(expected[0], axes))
        np.testing.assert_array_equal(found[1][0], np.flip(expected[1], axes))


def test_an_example_is_cut_out_plainly_beside_one_that_is_warped():
    rng = np.random.default_rng(0)
    image = tf.constant(rng.normal(size=(2, 9, 9, 9, 2)), tf.float32)
    label = tf.constant(rng.integers(0, 4, (2, 9, 9, 9)), tf.int32)
    placed = placement(np.diag([1, -1, 1.3]), mirrored=(False, True, False), batch=2)
    placed = placed._replace(warped=tf.constant([False, True]))
    found = spatial.read_batch(image, label, (5, 5, 5), placed, order=1, warping=True)
    np.testing.assert_array_equal(found[0][0], image[0, 2:7, 6:1:-1, 2:7])
    np.testing.assert_array_equal(found[1][0], label[0, 2:7, 6:1:-1, 2:7])
    points = points_of(np.diag([1, -1, 1.3]), (4, 4, 4), (5, 5, 5))
    expected = scipy_linear(np.moveaxis(image[1].numpy(), -1, 0), points)
    np.testing.assert_allclose(found[0][1], expected, atol=1e-5)


def start_of(record, patch, forced=False, count=150):
    draws = np.random.default_rng(0).uniform(size=(count, 5)).astype(np.float32)
    return np.array([crop.random_start(record, patch, forced, tf.constant(d)) for d in draws])


def test_patches_start_anywhere_inside_and_are_centred_where_the_chunk_is_smaller():
    record = make_record((9, 4, 11)) | {"foreground": tf.zeros((0, 4), tf.int32)}
    for forced in (False, True):  # nothing to centre on
        starts = start_of(record, (6, 7, 11), forced)
        assert sorted(set(starts[:, 0])) == [0, 1, 2, 3]
        assert sorted(set(starts[:, 1])) == [-2, -1]  # three voxels overhang, one or two before
        assert set(starts[:, 2]) == {0}


def test_forced_patches_centre_on_a_voxel_of_each_class_equally_often():
    foreground = [[1, 4, 4, 4]] * 9 + [[3, 0, 8, 5]]
    record = make_record((9, 9, 9)) | {"foreground": tf.constant(foreground, tf.int32)}
    starts = start_of(record, (3, 3, 3), forced=True)
    first, second = ((starts == s).all(axis=1).mean() for s in ([3, 3, 3], [0, 6, 4]))
    assert first + second == 1  # the second voxel is next to the border: as near as can be
    assert abs(first - 0.5) < 4 * 0.5 / np.sqrt(len(starts))
