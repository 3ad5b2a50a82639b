"""What holds for every method of the table, with a setting for noisy images of a ball."""

import numpy as np
import pytest

from segkit.classical import METHODS
from segkit.classical import check_method
from segkit.classical import count_classes
from segkit.classical import parse_options
from segkit.classical import segment
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.tables import options_of
from segkit.volume import Volume

SETTINGS = {
    "otsu": {},
    "multi_otsu": {"classes": [0, 1]},
    "hysteresis": {"classes": [0, 1]},
    "adaptive_threshold": {"sigma_mm": 9.0, "offset": 15.0},
    "region_growing": {},
    "confidence_connected": {"multiplier": 3.5},
    "sobel": {"classes": [0, 1]},
    "canny": {"classes": [0, 1]},
    "watershed": {"classes": [0, 1]},
    "random_walker": {"classes": [0, 1]},
    "active_contour": {"iterations": 25},
    "chan_vese": {},
}
EXACT = ("otsu", "multi_otsu", "region_growing", "confidence_connected", "random_walker")
each_method = pytest.mark.parametrize("method", METHODS)


def found(method, volume, **options):
    return segment(method, volume, 2, **SETTINGS[method], **options).array == 1


def differing(a, b):
    return (a != b).mean()


def test_there_is_a_setting_for_every_method():
    assert set(SETTINGS) == set(METHODS)


@each_method
@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        pytest.param((26, 26, 28), (1.0, 1.0, 1.0), id="cubic"),
        pytest.param((10, 26, 28), (3.0, 1.0, 1.0), id="thick slices"),
        pytest.param((1, 26, 28), (1.0, 1.0, 1.0), id="2-D"),
    ],
)
def test_a_ball_is_found_in_noise(method, ball, dice, shape, spacing_mm):
    image = ball(shape, spacing_mm, noise=8)
    labels = segment(method, image.volume, 2, **SETTINGS[method])
    assert labels.array.dtype == np.uint8
    assert labels.shape == image.volume.shape
    np.testing.assert_array_equal(labels.affine, image.volume.affine)
    assert dice(labels.array == 1, image.truth) > 0.85


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("shape", [(14, 26, 28), (1, 26, 28)])
def test_two_intensities_are_told_apart_exactly(method, ball, shape):
    image = ball(shape)
    np.testing.assert_array_equal(found(method, image.volume), image.truth)


@each_method
def test_the_mask_does_not_depend_on_how_the_image_is_stored(method, ball):
    image = ball(noise=8).volume
    expected = found(method, image)
    for codes in ("RAS", "LPI", "AIL"):
        labels = segment(method, image.oriented(codes), 2, **SETTINGS[method])
        assert labels.orientation == codes
        np.testing.assert_array_equal(labels.oriented("SAR").array == 1, expected)


@each_method
def test_a_2d_image_may_lie_along_any_axis(method, ball):
    image = ball((1, 26, 28), (1.0, 1.0, 1.0), noise=8).volume
    turned = Volume(np.moveaxis(image.array, 0, 2), image.affine)
    expected = found(method, image)[0]
    assert differing(found(method, turned)[:, :, 0], expected) < 0.005


@each_method
def test_mirrored_anatomy_gives_the_mirrored_mask(method, ball):
    image = ball((13, 27, 29), noise=8).volume  # the centre on a voxel: one voxel is the deepest
    expected = found(method, image)
    for axis in range(3):
        mirrored = Volume(np.flip(image.array, axis), image.affine)
        assert differing(np.flip(found(method, mirrored), axis), expected) < 0.002


@each_method
def test_another_scale_of_intensities_changes_nothing(method, ball):
    image = ball(noise=8).volume
    scaled = Volume(image.array * 2 + 300, image.affine)
    options = dict(SETTINGS[method])
    if "offset" in options:
        options["offset"] *= 2
    labels = segment(method, scaled, 2, **options)
    assert differing(labels.array == 1, found(method, image)) < 0.002


@each_method
def test_lengths_are_in_mm(method, ball):
    """All lengths twice as long, those of the voxels and those in the options: the same mask."""
    image = ball(noise=8).volume
    larger = Volume(image.array, image.affine * [2, 2, 2, 1])
    options = dict(SETTINGS[method])
    if method == "random_walker":
        options["beta"] = 130.0 * 4  # of changes per mm, squared
    in_mm = {"sigma_mm", "close_mm", "radius_mm", "seed_radius_mm"} & set(
        options_of(METHODS[method])
    )
    doubled = {key: 2 * options[key] for key in in_mm & set(options)}
    labels = segment(method, larger, 2, **(options | doubled), smooth_mm=2.0)
    expected = found(method, image, smooth_mm=1.0)
    np.testing.assert_array_equal(labels.array == 1, expected)


@each_method
def test_another_channel_gives_another_mask(method, ball):
    image = ball(noise=8)
    other = np.roll(image.volume.array, 4, axis=1)
    both = Volume(np.stack([image.volume.array, other], axis=-1), image.volume.affine)
    np.testing.assert_array_equal(found(method, both), found(method, image.volume))
    alone = found(method, Volume(other, image.volume.affine))
    np.testing.assert_array_equal(found(method, both, channel=1), alone)


@each_method
def test_a_coarser_grid_gives_a_similar_mask(method, ball, dice):
    image = ball(noise=8)
    coarse = found(method, image.volume, grid_mm=1.3)
    assert coarse.shape == image.truth.shape
    assert dice(coarse, image.truth) > 0.8
    assert differing(coarse, found(method, image.volume)) > 0


@each_method
def test_nothing_is_found_outside_the_box_and_nothing_there_is_looked_at(method, ball):
    image = ball(noise=8).volume
    box = [[0, 1], [0, 1], [0.25, 1]]  # 28 columns: from the 8th on
    within = found(method, image, box=box)
    assert not within[:, :, :7].any()
    moved = image.array.copy()
    moved[:, :, :7] = 1e6
    np.testing.assert_array_equal(found(method, Volume(moved, image.affine), box=box), within)


@each_method
def test_images_without_contents_are_refused(method):
    flat = Volume(np.full((6, 7, 8), 5, np.int16))
    with pytest.raises(DataError, match="is 5 everywhere"):
        segment(method, flat, 2, **SETTINGS[method])
    holed = np.random.default_rng(0).normal(size=(6, 7, 8))
    holed[1, 2, 3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        segment(method, Volume(holed), 2, **SETTINGS[method])


@each_method
def test_a_missing_channel_is_refused(method, ball):
    for channel in (1, -1):
        with pytest.raises(ConfigError, match=r"has 1 channel\(s\)"):
            found(method, ball().volume, channel=channel)


WITH_CLASSES = [name for name in METHODS if "classes" in options_of(METHODS[name])]


@pytest.mark.parametrize("method", WITH_CLASSES)
def test_classes_name_the_levels_from_dark_to_bright(method, ball):
    image = ball(noise=8, levels=(100, 0)).volume  # a dark ball
    options = SETTINGS[method] | {"classes": [2, 0]}
    labels = segment(method, image, 3, **options).array
    assert labels[7, 14, 11] == 2
    with pytest.raises(ConfigError, match="the class 3; there are the classes 0 to 2"):
        segment(method, image, 3, **(options | {"classes": [0, 3]}))
    with pytest.raises(ConfigError, match="must list the class of each"):
        segment(method, image, 3, **(options | {"classes": [1]}))


def test_more_classes_than_a_byte_holds_are_refused(ball):
    with pytest.raises(ConfigError, match="up to 256 classes apart, got 257"):
        segment("otsu", ball().volume, 257)


def test_names_and_options_are_checked_before_anything_else():
    with pytest.raises(ConfigError, match="Did you mean 'otsu'"):
        check_method("otzu", {})
    with pytest.raises(ConfigError, match="Did you mean 'smooth_mm'"):
        check_method("otsu", {"smoth_mm": 1.0})
    with pytest.raises(ConfigError, match="method.tolerance must be float"):
        check_method("region_growing", {"tolerance": "wide"})
    with pytest.raises(ConfigError, match="no option 'volume'"):
        check_method("otsu", {"volume": 1})


def test_options_of_a_command_line_are_yaml():
    pairs = ["seeds={1: [[0, 0.5, 1]]}", "seed_units=fraction", "tolerance=3"]
    assert parse_options("region_growing", pairs) == {
        "seeds": {1: [[0, 0.5, 1]]},
        "seed_units": "fraction",
        "tolerance": 3,
    }
    with pytest.raises(ConfigError, match="--set must be like key=value"):
        parse_options("otsu", ["smooth_mm"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2),
        ({"classes": [0, 0]}, 2),
        ({"classes": [0, 3, 1]}, 4),
        ({"seeds": {0: [], 2: []}}, 3),
    ],
)
def test_classes_are_counted_from_the_options(options, expected):
    assert count_classes(options) == expected
