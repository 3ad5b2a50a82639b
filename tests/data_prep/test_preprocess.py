"""Geometry, intensities and resampling, against hand-worked values and two other libraries."""

from itertools import permutations
from itertools import product

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from data_prep.plan import Plan
from data_prep.preprocess import denormalise
from data_prep.preprocess import geometry
from data_prep.preprocess import new_shape
from data_prep.preprocess import nonzero_box
from data_prep.preprocess import normalise
from data_prep.preprocess import prepare
from data_prep.preprocess import prepared_affine
from data_prep.preprocess import resample_labels
from data_prep.preprocess import resample_linear
from data_prep.preprocess import to_indices
from data_prep.preprocess import to_values
from data_prep.preprocess import undo
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.volume import Volume

ZSCORE = {"scheme": "zscore", "masked": False}
ORIENTATIONS = [
    "".join(signs) for order in permutations(("RL", "AP", "SI")) for signs in product(*order)
]


def plan(orientation="SAR", spacing_mm=None, crop=True, channels=1, scheme=ZSCORE):
    return Plan(orientation, spacing_mm, crop, (scheme,) * channels)


def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("new", [(7, 9, 11), (3, 20, 6), (5, 4, 1), (10, 13, 8)])
def test_resample_linear_equals_scikit_image(new):
    array = rng().normal(size=(5, 9, 8)).astype(np.float32)
    expected = resize(array, new, order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resample_linear(array, new), expected, atol=1e-5)


def test_resample_linear_equals_scipy_at_the_half_pixel_positions():
    array = rng().normal(size=(4, 6, 5)).astype(np.float32)
    grids = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip((4, 6, 5), (6, 3, 9), strict=True)]
    at = np.meshgrid(*grids, indexing="ij")
    expected = ndimage.map_coordinates(array, at, order=1, mode="nearest")
    np.testing.assert_allclose(resample_linear(array, (6, 3, 9)), expected, atol=1e-5)


def test_resample_linear_treats_channels_alike_and_keeps_an_equal_grid_exactly():
    array = rng().normal(size=(4, 5, 6, 2)).astype(np.float32)
    both = resample_linear(array, (5, 7, 3))
    np.testing.assert_array_equal(both[..., 1], resample_linear(array[..., 1], (5, 7, 3)))
    np.testing.assert_array_equal(resample_linear(array, (4, 5, 6)), array)


def test_resample_linear_doubles_a_ramp_to_the_values_worked_out_by_hand():
    # New centres lie at -1/4 (clamped to 0), 1/4, 3/4 and 5/4 (clamped to 1).
    ramp = np.array([0.0, 4.0], dtype=np.float32).reshape(1, 1, 2)
    np.testing.assert_array_equal(resample_linear(ramp, (1, 1, 4)).ravel(), [0, 1, 3, 4])


@pytest.mark.parametrize("new", [(9, 12, 5), (3, 4, 6), (6, 7, 13)])
def test_resample_labels_takes_the_largest_share_of_all_classes(new):
    label = rng().integers(0, 5, size=(6, 7, 8)).astype(np.uint8)
    label[label == 3] = 0  # a class that is absent
    shares = [resample_linear((label == c).astype(np.float32), new) for c in range(5)]
    np.testing.assert_array_equal(resample_labels(label, new), np.argmax(shares, axis=0))


def test_resample_labels_keeps_the_dtype_and_every_class_of_a_larger_grid():
    label = np.arange(300, dtype=np.uint16).reshape(1, 1, 300)
    resampled = resample_labels(label, (1, 1, 900))
    assert resampled.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(resampled), np.arange(300))


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "expected"),  # from nnunetv2 2.8.1, compute_new_shape
    [
        ([20, 256, 224], [10, 1.5, 1.5], [5, 1.25, 1.25], [40, 307, 269]),
        ([100, 120, 90], [1, 1, 1], [1.2, 1.2, 1.2], [83, 100, 75]),
        ([40, 512, 512], [5, 0.7, 0.7], [2.5, 0.78, 0.78], [80, 459, 459]),
    ],
)
def test_new_shape_equals_nnunet(shape, spacing, target, expected):
    assert new_shape(shape, spacing, target) == expected


def test_new_shape_keeps_an_axis_of_length_one_and_never_reaches_zero():
    assert new_shape([1, 10, 2], [5, 1, 0.1], [1, 2, 9]) == [1, 5, 1]


def test_nonzero_box_spans_all_channels():
    array = np.zeros((5, 6, 7, 2), dtype=np.int16)
    array[1, 2, 3, 0] = 4
    array[3, 2, 5, 1] = -1
    assert nonzero_box(array) == [[1, 4], [2, 3], [3, 6]]


def test_nonzero_box_of_an_empty_image_is_the_whole_of_it():
    assert nonzero_box(np.zeros((2, 3, 4))) == [[0, 2], [0, 3], [0, 4]]


def test_normalise_gives_the_values_worked_out_by_hand():
    channel = np.array([0.0, 2.0, 4.0, 6.0], dtype=np.float32).reshape(1, 1, 4)
    # All: mean 3, variance (9 + 1 + 1 + 9) / 4 = 5. Nonzero: mean 4, variance 8 / 3.
    for scheme, expected in [
        (ZSCORE, np.array([-3, -1, 1, 3]) / 5**0.5),
        ({"scheme": "zscore", "masked": True}, np.array([0, -2, 0, 2]) / (8 / 3) ** 0.5),
        ({"scheme": "ct", "clip": [1, 5], "mean": 2.0, "std": 0.5}, [-2, 0, 4, 6]),
        ({"scheme": "rescale", "low": 0, "high": 255}, np.array([0, 2, 4, 6]) / 255),
    ]:
        result = normalise(channel, scheme)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result.ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_zscore_of_a_constant_or_empty_channel_is_zero(masked):
    scheme = {"scheme": "zscore", "masked": masked}
    for value in (0.0, 7.0):
        channel = np.full((2, 2, 2), value, dtype=np.float32)
        np.testing.assert_array_equal(normalise(channel, scheme), np.zeros((2, 2, 2)))


@pytest.mark.parametrize("source", ORIENTATIONS)
def test_undo_returns_the_label_exactly_from_every_orientation(source):
    image = np.zeros((4, 5, 6), dtype=np.int16)
    image[1:3, 1:, 2:5] = 1 + rng().integers(9, size=(2, 4, 3))
    label = np.where(image > 0, rng().integers(0, 3, size=image.shape), 0).astype(np.uint8)
    affine = Volume(image).oriented(source).affine
    prepared = prepare(Volume(image, affine), Volume(label, affine), plan("ASR"))
    assert prepared.image.shape[:3] == prepared.label.shape == tuple(prepared.geometry["shape"])
    np.testing.assert_array_equal(undo(prepared.label, prepared.geometry), label)


def test_forty_eight_orientations_are_tested():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("source", ["SAR", "LPI", "ARI"])
def test_every_voxel_keeps_its_place_in_the_world(source):
    """A channel that holds the world's x coordinate still does so after resampling."""
    affine = Volume(np.zeros((6, 8, 10))).oriented(source).affine @ np.diag([2.0, 1.5, 0.8, 1])
    index = np.stack(
        [*np.meshgrid(range(6), range(8), range(10), indexing="ij"), np.ones((6, 8, 10))]
    )
    scheme = {"scheme": "rescale", "low": 0, "high": 1}
    for world in range(3):
        x = np.tensordot(affine[world], index, axes=1).astype(np.float32)
        prepared = prepare(Volume(x, affine), None, plan("SAR", (1.0, 1.0, 1.0), False, 1, scheme))
        shape = prepared.image.shape[:3]
        new = np.stack([*np.meshgrid(*map(range, shape), indexing="ij"), np.ones(shape)])
        expected = np.tensordot(prepared.affine[world], new, axes=1)
        inner = (slice(1, -1),) * 3  # the outermost voxels are clamped to the edge
        np.testing.assert_allclose(prepared.image[..., 0][inner], expected[inner], atol=1e-4)


def test_geometry_follows_the_crop_and_shifts_the_origin_by_half_a_pixel():
    # Depth: 10 voxels of 2 mm, 4 of them in the crop: 8 voxels of 1 mm. The box begins at index 3,
    # its face at 2.5 * 2 = 5 mm; the first new centre is half a new voxel further: 5.5 mm.
    affine = Volume(np.zeros((1, 1, 1))).affine @ np.diag([2.0, 1, 1, 1])
    box = [[3, 7], [0, 5], [0, 5]]
    case = geometry((10, 5, 5), affine, box, plan(spacing_mm=(1.0, 1.0, 1.0)))
    assert case["crop"] == box
    assert case["shape"] == [8, 5, 5]
    assert case["spacing_mm"] == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(prepared_affine(case)[:3, 3], [0, 0, 5.5])


def test_spacing_is_the_actual_one_where_the_shape_was_rounded():
    # 5 voxels of 1 mm to 2 mm: 2.5, rounded to 2, so that each covers 2.5 mm.
    case = geometry(
        (5, 4, 4), Volume(np.zeros((1, 1, 1))).affine, None, plan("SAR", (2, 1, 1), False)
    )
    assert case["shape"] == [2, 4, 4]
    assert case["spacing_mm"] == [2.5, 1.0, 1.0]


def test_undo_after_resampling_recovers_a_thick_object():
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[5:15, 4:16, 6:14] = 2
    volume = Volume(label + 1, np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    target = plan(spacing_mm=(0.7, 0.7, 0.7))
    prepared = prepare(volume, Volume(label, volume.affine), target)
    assert prepared.label.shape == (29, 29, 29)  # 20 / 0.7 = 28.6
    np.testing.assert_array_equal(undo(prepared.label, prepared.geometry), label)


def test_prepare_refuses_what_does_not_fit():
    image = Volume(np.ones((2, 3, 4), dtype=np.float32))
    with pytest.raises(ShapeError, match=r"2 channel\(s\), the image has 1"):
        prepare(image, None, plan(channels=2))
    with pytest.raises(ShapeError, match="must have one shape"):
        prepare(image, Volume(np.ones((2, 3, 5), dtype=np.uint8)), plan())
    image.array[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        prepare(image, None, plan())


def test_undo_puts_an_image_back_by_interpolation():
    """A ramp stays one: on the prepared grid, and but for the clamped ends on the source grid."""
    ramp = np.arange(24, dtype=np.float32)[None, :, None].repeat(4, 0).repeat(6, 2)
    ramp = np.stack([ramp, -ramp], axis=-1) + 1
    plan = Plan("SAR", (1.0, 2.0, 1.0), False, ({"scheme": "prior"},) * 2)
    flipped = Volume(ramp).oriented("IPR")
    prepared = prepare(flipped, None, plan)
    assert prepared.image.shape == (4, 12, 6, 2)
    back = undo(prepared.image, prepared.geometry, linear=True)
    assert back.shape == flipped.array.shape
    np.testing.assert_allclose(back[:, 1:-1], flipped.array[:, 1:-1], atol=1e-5)


def test_undo_refuses_a_label_of_another_grid():
    prepared = prepare(Volume(np.ones((2, 3, 4), dtype=np.float32)), None, plan())
    with pytest.raises(ShapeError, match=r"grid is \[2, 3, 4\]"):
        undo(np.zeros((2, 3, 5), dtype=np.uint8), prepared.geometry)


def test_labels_map_to_indices_and_back():
    classes = {"background": 0, "liver": 255, "tumour": 7}
    label = np.array([[0, 7], [255, 255]], dtype=np.uint8)
    indices = to_indices(label, classes)
    assert indices.dtype == np.uint8
    np.testing.assert_array_equal(indices, [[0, 2], [1, 1]])
    np.testing.assert_array_equal(to_values(indices, classes), label)
    many = {f"c{n}": 3 * n for n in range(300)}
    assert to_indices(np.array([897]), many).dtype == np.uint16


@pytest.mark.parametrize("value", [3, -1, 4000])
def test_an_unknown_label_value_is_named_with_the_map(value):
    with pytest.raises(DataError, match=rf"value {value} is not in the class map .*'liver': 2"):
        to_indices(np.array([0, 2, value], dtype=np.int32), {"background": 0, "liver": 2})


def test_denormalise_gives_back_source_units_where_the_plan_knows_them():
    image = rng().normal(100, 60, size=(3, 4, 5, 3)).astype(np.float32)
    schemes = (
        {"scheme": "ct", "clip": [20, 180], "mean": 90.0, "std": 40.0},
        {"scheme": "rescale", "low": 0, "high": 255},
        ZSCORE,
    )
    channels = [normalise(image[..., c], scheme) for c, scheme in enumerate(schemes)]
    prepared = np.stack(channels, axis=-1)
    back = denormalise(prepared, schemes)
    np.testing.assert_allclose(back[..., 0], np.clip(image[..., 0], 20, 180), rtol=1e-5)
    np.testing.assert_allclose(back[..., 1], image[..., 1], rtol=1e-4)
    np.testing.assert_array_equal(back[..., 2], prepared[..., 2])
