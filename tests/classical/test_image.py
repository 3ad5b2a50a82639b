import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import sobel

from segkit.classical.image import box_slices
from segkit.classical.image import check_size
from segkit.classical.image import gaussian
from segkit.classical.image import gradient
from segkit.classical.image import labels_onto
from segkit.classical.image import one_channel
from segkit.classical.image import resampled
from segkit.errors import ConfigError
from segkit.volume import Volume


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def test_smoothing_is_measured_in_mm():
    array = noise(6, 7, 8)
    expected = ndimage.gaussian_filter(array, (0.5, 1, 2), mode="nearest")
    np.testing.assert_allclose(gaussian(array, 2.0, (4.0, 2.0, 1.0)), expected, atol=1e-6)


def test_an_axis_of_length_one_is_left_alone():
    flat = noise(1, 7, 8)
    expected = ndimage.gaussian_filter(flat[0], 1.5, mode="nearest")
    np.testing.assert_allclose(gaussian(flat, 1.5, (9.0, 1.0, 1.0))[0], expected, atol=1e-6)
    assert resampled(Volume(flat), 2.0).shape == (1, 4, 4)
    assert not gradient(flat, (1.0, 1.0, 1.0))[0].any()


def test_the_gradient_of_a_ramp_is_its_slope_per_mm():
    k, j, i = np.indices((5, 6, 7)).astype(np.float32)
    slopes = gradient(3 * k - 2 * j + 5 * i, (2.0, 1.0, 0.5))
    for slope, expected in zip(slopes, (1.5, -2.0, 10.0), strict=True):
        np.testing.assert_allclose(slope[1:-1, 1:-1, 1:-1], expected, rtol=1e-5)


def test_the_gradient_is_that_of_scikit_image():
    array = noise(6, 7, 8)
    magnitude = np.linalg.norm(gradient(array, (1.0, 1.0, 1.0)), axis=0)
    # It takes the mean over axes, and the difference over two voxels as if over one.
    expected = sobel(array, mode="nearest") * np.sqrt(3) / 2
    np.testing.assert_allclose(magnitude, expected, rtol=1e-4, atol=1e-6)


def test_resampling_keeps_places():
    """A ramp along each world axis still tells the place of every voxel, the border apart."""
    affine = np.array([[0, 0, 1.5, 4], [0, -2, 0, 9], [3.0, 0, 0, -1], [0, 0, 0, 1]])
    index = np.stack([*np.indices((8, 9, 12)), np.ones((8, 9, 12))])
    for world in range(3):
        ramp = np.tensordot(affine[world], index, 1).astype(np.float32)
        new = resampled(Volume(ramp, affine), 1.0)
        assert new.shape == (24, 18, 18)
        at = np.tensordot(new.affine[world], [*np.indices(new.shape), np.ones(new.shape)], 1)
        inside = (slice(2, -2), slice(2, -2), slice(2, -2))
        np.testing.assert_allclose(new.array[inside], at[inside], atol=1e-3)


def test_the_class_with_the_largest_share_wins():
    labels = np.array([1, 2, 3], np.uint8).reshape(1, 1, 3)
    # Centres of 5 voxels, in units of 3: 0.3, 0.9, 1.5, 2.1, 2.7; old centres 0.5, 1.5, 2.5.
    assert labels_onto(labels, (1, 1, 5)).ravel().tolist() == [1, 1, 2, 3, 3]
    # Of 4 onto 2: each lies half way between two voxels, and ties go to the lower class.
    pairs = np.array([0, 1, 2, 1], np.uint8).reshape(1, 4, 1)
    assert labels_onto(pairs, (1, 2, 1)).ravel().tolist() == [0, 1]
    assert labels_onto(labels, (2, 1, 3)).tolist() == [[[1, 2, 3]], [[1, 2, 3]]]


def test_a_box_holds_the_voxels_whose_centres_lie_in_it():
    # Centres of 4 voxels: 1/8, 3/8, 5/8, 7/8; of 10: 0.05, 0.15, ..., 0.95; of 1: 1/2.
    box = [[0.3, 0.7], [0.15, 0.94], [0, 1]]
    assert box_slices((4, 10, 1), box) == (slice(1, 3), slice(1, 9), slice(0, 1))


def test_a_crop_keeps_its_place():
    volume = Volume(noise(4, 10, 6), np.diag([2.0, 3.0, 4.0, 1.0])[[2, 1, 0, 3]])
    cut = one_channel(volume, box=[[0.5, 1], [0.2, 1], [0, 1]])
    np.testing.assert_array_equal(cut.array, volume.array[2:, 2:])
    np.testing.assert_allclose(cut.affine[:3, 3], volume.affine[:3, :3] @ [2, 2, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth_mm": -1.0}, "smooth_mm must be at least 0"),
        ({"grid_mm": 0.0}, "grid_mm must be above 0"),
        ({"grid_mm": 1e-3}, "Take larger voxels"),
        ({"grid_mm": 50.0}, "grid_mm is 50, more than the image"),
        ({"box": [[0, 1], [0, 1]]}, "three pairs"),
        ({"box": [[0, 1], [0.5, 0.2], [0, 1]]}, "two increasing shares"),
        ({"box": [[0, 1], [0, 1], [0.5, 1.2]]}, "from 0 to 1"),
        ({"box": [[0, 1], [0, 1], [0.5, 0.51]]}, "holds no voxel of an axis of 6"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        one_channel(Volume(noise(4, 5, 6)), **options)


def test_the_grid_proposed_for_a_large_image_is_accepted():
    volume = Volume(np.zeros((30, 40, 50), np.float32))
    check_size("m", volume, 60_000)
    with pytest.raises(
        ConfigError, match="too slow for 60000 voxels, it takes up to 5000"
    ) as error:
        check_size("m", volume, 5000)
    side_mm = float(str(error.value).split("grid_mm=")[1].rstrip("."))
    check_size("m", resampled(volume, side_mm), 5000)
    with pytest.raises(ConfigError, match="480000 voxels"):
        check_size("m", volume, 60_000, side_mm=0.5)
