import numpy as np
import pytest
from skimage.segmentation import random_walker as walk

from segkit.classical import random_walker as module
from segkit.classical import segment
from segkit.classical.random_walker import random_walker
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.volume import Volume

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])[:, [2, 1, 0, 3]]


def halves(noise=0.3):
    image = np.where(np.arange(16) < 9, 0.0, 1.0) + np.zeros((5, 12, 1))
    image += noise * np.random.default_rng(3).standard_normal(image.shape)
    return Volume(image.astype(np.float32), AFFINE)


def test_walks_from_seeds_as_scikit_image_with_spacing():
    volume, marked = halves(), np.zeros((5, 12, 16), int)
    marked[2, 6, 2], marked[2, 6, 13], marked[0, 0, 8] = 1, 2, 3
    seeds = {0: [[2, 6, 6]], 1: [[13, 6, 6]], 2: [[8, 0, 0]]}
    found = random_walker(volume, 3, seeds=seeds, beta=20.0)
    expected = walk(volume.array, marked, beta=20, mode="cg_j", spacing=(3, 1, 1)) - 1
    np.testing.assert_array_equal(found, expected)
    assert (found != walk(volume.array, marked, beta=20, mode="cg_j") - 1).any()


def test_classes_without_seeds_may_lie_between():
    found = random_walker(halves(), 5, seeds={1: [[2, 6, 6]], 4: [[13, 6, 6]]})
    assert set(np.unique(found)) == {1, 4}


def test_noise_is_cleared_where_levels_alone_fail(dice, ball):
    image = ball(noise=30)
    by_level = segment("otsu", image.volume, 2).array == 1
    walked = segment("random_walker", image.volume, 2).array == 1
    assert dice(walked, image.truth) > dice(by_level, image.truth) + 0.05


def test_an_image_whose_seeds_are_of_one_class_is_of_that_class():
    found = random_walker(halves(), 3, classes=[2, 2])
    assert (found == 2).all()


def test_options_change_the_mask():
    volume, seeds = halves(0.6), {0: [[2, 6, 6]], 1: [[13, 6, 6]]}
    found = random_walker(volume, 2, seeds=seeds)
    assert (random_walker(volume, 2, seeds=seeds, beta=1.0) != found).any()
    assert (random_walker(volume, 2, seeds=seeds, seed_radius_mm=4.0) != found).any()


def test_images_that_take_too_long_are_refused_with_a_grid_that_does_not(monkeypatch):
    monkeypatch.setattr(module, "MAX_VOXELS", 300)
    with pytest.raises(ConfigError, match="takes up to 300") as error:
        segment("random_walker", halves(), 2)
    grid_mm = float(str(error.value).split("grid_mm=")[1].rstrip("."))
    assert segment("random_walker", halves(), 2, grid_mm=grid_mm).shape == (5, 12, 16)


def test_a_chequerboard_has_no_voxel_to_start_from():
    board = Volume((np.indices((1, 8, 8)).sum(axis=0) % 2).astype(np.float32))
    with pytest.raises(DataError, match="no voxel whose neighbours"):
        random_walker(board, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta must be above 0"),
        ({"seeds": {1: [[0, 0, 0]]}}, "two classes or more, got 1"),
        ({"seeds": {1: [[0, 0, 0]]}, "classes": [0, 1]}, "got both"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        random_walker(halves(), 2, **options)
