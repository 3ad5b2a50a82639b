import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage
from skimage.segmentation import flood

from segkit.classical.region_growing import confidence_connected
from segkit.classical.region_growing import region_growing
from segkit.errors import ConfigError
from segkit.volume import Volume

SEED = (4, 9, 8)


def textured(*shape):
    noise = np.random.default_rng(2).standard_normal(shape, np.float32)
    return Volume(ndimage.gaussian_filter(noise, 1.5).astype(np.float32) * 100)


def seeds_at(*voxels):
    """Points in mm of a volume with the default affine: x, y, z are columns, rows, slices."""
    return {1: [list(reversed(voxel)) for voxel in voxels]}


def test_region_growing_is_scikit_image_s_flood():
    volume = textured(9, 18, 17)
    found = region_growing(volume, 2, seeds=seeds_at(SEED), tolerance=6.0)
    expected = flood(volume.array, SEED, connectivity=1, tolerance=6.0)
    assert 20 < expected.sum() < expected.size / 2
    np.testing.assert_array_equal(found, expected)


def test_each_seed_has_its_own_intensity():
    row = Volume(np.array([[[5, 6, 0, 20, 21, 5]]], np.float32))
    found = region_growing(row, 2, seeds=seeds_at((0, 0, 0), (0, 0, 4)), tolerance=1.0)
    assert found.ravel().tolist() == [1, 1, 0, 1, 1, 0]


def test_by_itself_the_tolerance_is_half_a_deviation():
    volume = textured(9, 18, 17)
    half = float(volume.array.std()) / 2
    by_itself = region_growing(volume, 2, seeds=seeds_at(SEED))
    expected = region_growing(volume, 2, seeds=seeds_at(SEED), tolerance=half)
    np.testing.assert_array_equal(by_itself, expected)


@pytest.mark.parametrize("method", [region_growing, confidence_connected])
def test_growth_ends_at_the_radius(method, ball):
    image = ball()
    found = method(image.volume, 2, seeds={1: [image.centre_mm]}, radius_mm=5.0)
    volume = image.volume
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    at_mm = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    distance_mm = np.linalg.norm(at_mm - image.centre_mm, axis=-1)
    np.testing.assert_array_equal(found == 1, distance_mm <= 5)


@pytest.mark.parametrize(
    ("multiplier", "iterations", "neighbourhood"),
    [(1.2, 0, 1), (1.2, 1, 1), (1.5, 4, 1), (1.5, 4, 2), (2.0, 3, 0), (0.3, 2, 1)],
)
@pytest.mark.parametrize("voxels", [[SEED, (2, 3, 3)], [SEED]])
def test_confidence_connected_is_itk_s(multiplier, iterations, neighbourhood, voxels):
    volume = textured(9, 18, 17)
    image = sitk.GetImageFromArray(volume.array)
    expected = sitk.ConfidenceConnected(
        image,
        [tuple(reversed(voxel)) for voxel in voxels],
        numberOfIterations=iterations,
        multiplier=multiplier,
        initialNeighborhoodRadius=neighbourhood,
        replaceValue=1,
    )
    found = confidence_connected(
        volume,
        2,
        seeds=seeds_at(*voxels),
        multiplier=multiplier,
        iterations=iterations,
        neighbourhood=neighbourhood,
    )
    expected = sitk.GetArrayFromImage(expected)
    if not expected.any():  # its statistics of one voxel are not finite
        expected[SEED] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (region_growing, {"tolerance": -1.0}, "tolerance must be at least 0"),
        (region_growing, {"radius_mm": 0.0}, "radius_mm must be above 0"),
        (confidence_connected, {"multiplier": 0.0}, "multiplier must be above 0"),
        (confidence_connected, {"iterations": -1}, "iterations must be at least 0, got -1"),
        (confidence_connected, {"neighbourhood": -1}, "neighbourhood must be at least 0"),
    ],
)
def test_impossible_options_are_refused(method, options, message):
    with pytest.raises(ConfigError, match=message):
        method(textured(3, 4, 5), 2, **options)
