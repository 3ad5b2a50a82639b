import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from segkit.classical.restoration import FILTERS
from segkit.classical.restoration import INPAINTERS
from segkit.classical.restoration.filters import bicubic
from segkit.classical.restoration.filters import median
from segkit.classical.restoration.filters import noise_deviation
from segkit.classical.restoration.filters import non_local_means
from segkit.classical.restoration.filters import total_variation
from segkit.classical.restoration.inpainting import biharmonic
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.tables import load

SHAPES = [(32, 28, 1), (24, 24, 3), (8, 12, 16, 2)]


def smooth(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    field = ndimage.gaussian_filter(noise, [3] * (len(shape) - 1) + [0])
    return (field / field.std()).astype(np.float32)


def noisy(image, std, seed=1):
    return (image + std * np.random.default_rng(seed).normal(size=image.shape)).astype(np.float32)


def error(image, truth):
    return float(((image - truth) ** 2).mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["median", "non_local_means", "total_variation"])
def test_filters_take_noise_away(name, shape):
    truth = smooth(shape)
    given = noisy(truth, 0.4)
    found = load(FILTERS, name, "filter")(given)
    assert found.shape == shape
    assert found.dtype == np.float32
    assert error(found, truth) < 0.7 * error(given, truth)


def test_the_median_is_taken_within_a_box_of_one_channel():
    image = np.zeros((5, 5, 2), np.float32)
    image[2, 2] = 9, 1
    image[2, 3, 0] = 8
    np.testing.assert_array_equal(median(image), 0)
    np.testing.assert_array_equal(median(image, size=1), image)
    assert median(image + 1, size=5).tolist() == np.ones((5, 5, 2)).tolist()


@pytest.mark.parametrize("shape", [(64, 64, 1), (65, 63, 2), (16, 32, 32, 1)])
@pytest.mark.parametrize("std", [0.05, 0.2])
def test_the_deviation_of_the_noise_is_estimated(shape, std):
    image = noisy(
        3
        * ndimage.zoom(
            smooth((8,) * len(shape[:-1]) + (shape[-1],)),
            [n / 8 for n in shape[:-1]] + [1],
            order=3,
        ),
        std,
    )
    assert noise_deviation(image) == pytest.approx(std, rel=0.25)


def test_an_axis_of_one_voxel_does_not_count():
    image = noisy(smooth((32, 30, 1)), 0.3)
    assert noise_deviation(image[None]) == noise_deviation(image)
    assert noise_deviation(image[:, None]) == noise_deviation(image)


def test_without_noise_nothing_is_filtered():
    image = np.zeros((16, 16, 1), np.float32)
    image[4:6, 4:6] = 1
    for function in (non_local_means, total_variation):
        np.testing.assert_array_equal(function(image), image)


def test_a_larger_strength_smooths_more():
    given = noisy(smooth((32, 32, 1)), 0.4)
    for function in (non_local_means, total_variation):
        weak, strong = (error(function(given, strength=s), given) for s in (0.3, 1.5))
        assert weak < 0.8 * strong
    less = non_local_means(given, strength=1.5, patch=3, reach=1)
    assert error(less, given) < error(non_local_means(given, strength=1.5), given)


@pytest.mark.parametrize("shape", SHAPES)
def test_cubic_interpolation_beats_the_linear_one(shape):
    fine = ndimage.gaussian_filter(smooth(shape), 0.3)
    coarse = [side // 2 for side in shape[:-1]]
    channels = np.moveaxis(fine, -1, 0)
    low = [resize(c, coarse, order=1, anti_aliasing=False) for c in channels]
    given = [resize(c, shape[:-1], order=1, mode="edge") for c in low]
    given = np.stack(given, axis=-1).astype(np.float32)
    found = bicubic(given, scale=0.5)
    assert found.shape == shape
    assert error(found, fine) < error(given, fine)


def test_of_all_voxels_bicubic_changes_nothing():
    image = noisy(smooth((9, 10, 2)), 1)
    np.testing.assert_allclose(bicubic(image, scale=1.0), image, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_holes_are_filled_smoothly_and_the_rest_stays(shape):
    truth, mask = smooth(shape), np.zeros((*shape[:-1], 1), np.float32)
    mask[(slice(3, 7),) * (len(shape) - 1)] = 1
    filled = biharmonic(truth * (1 - mask), mask)
    inside = mask[..., 0] > 0
    np.testing.assert_array_equal(filled[~inside], truth[~inside])
    assert error(filled[inside], truth[inside]) < 0.2 * error(0, truth[inside])
    np.testing.assert_array_equal(biharmonic(truth * (1 - mask), mask[..., 0]), filled)


def test_a_plane_goes_on_through_a_hole():
    rows, columns = np.indices((20, 20))
    plane = (0.1 * rows - 0.2 * columns)[..., None].astype(np.float32)
    mask = np.zeros((20, 20), bool)
    mask[6:12, 7:11] = True
    np.testing.assert_allclose(biharmonic(plane, mask), plane, atol=1e-4)


def test_the_value_in_a_hole_does_not_matter():
    image, mask = smooth((20, 20, 1)), np.zeros((20, 20), bool)
    mask[5:9] = True
    broken = np.where(mask[..., None], np.nan, image)
    np.testing.assert_array_equal(biharmonic(broken, mask), biharmonic(image, mask))
    np.testing.assert_array_equal(biharmonic(image, 0 * mask), image)


def test_what_does_not_fit_is_refused():
    image = smooth((16, 16, 1))
    with pytest.raises(ConfigError, match="odd size"):
        median(image, size=4)
    with pytest.raises(ConfigError, match="strength above 0"):
        non_local_means(image, strength=0)
    with pytest.raises(ConfigError, match="strength above 0"):
        total_variation(image, strength=-1.0)
    with pytest.raises(ConfigError, match="scale above 0"):
        bicubic(image, scale=1.5)
    with pytest.raises(ShapeError, match="sides"):
        biharmonic(image, np.zeros((8, 16)))
    with pytest.raises(DataError, match="needs known voxels"):
        biharmonic(image, np.ones((16, 16)))
    with pytest.raises(DataError, match="known voxels hold NaN"):
        biharmonic(np.full((16, 16, 1), np.nan), np.eye(16))


def test_tables_name_functions():
    assert all(callable(load(table, n, "filter")) for table in (FILTERS, INPAINTERS) for n in table)
