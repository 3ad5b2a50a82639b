import numpy as np
import pytest

from segkit.classical.seeds import deepest
from segkit.classical.seeds import find_seeds
from segkit.classical.seeds import grow_classes
from segkit.classical.seeds import grow_foreground
from segkit.classical.seeds import markers
from segkit.classical.seeds import place_seeds
from segkit.errors import ConfigError
from segkit.volume import Volume

# (k, j, i) to RAS+ mm: slices to Superior, rows to Anterior, columns to Right.
AFFINE = np.array([[0, 0, 2.0, -10], [0, 3, 0, 5], [4, 0, 0, 7], [0, 0, 0, 1]])


def empty(*shape):
    return Volume(np.zeros(shape, np.float32), AFFINE)


def test_a_point_in_mm_is_in_the_voxel_whose_centre_is_nearest():
    # x = 2 i - 10, y = 3 j + 5, z = 4 k + 7.
    points = place_seeds(empty(5, 6, 7), 2, {1: [[-10, 5, 7], [0.9, 12.6, 16]]}, "mm")
    assert points[1].tolist() == [[0, 0, 0], [2, 3, 5]]


def test_a_fraction_is_of_the_extent_of_each_axis():
    points = place_seeds(empty(5, 6, 7), 3, {2: [[0, 0.5, 1], [0.39, 0.16, 0.5]]}, "fraction")
    assert points[2].tolist() == [[0, 3, 6], [1, 0, 3]]


@pytest.mark.parametrize(
    ("seeds", "units", "message"),
    [
        ({1: [[3.5, 5, 7]]}, "mm", "x -10 to 2 mm, y 5 to 20 mm, z 7 to 23 mm"),
        ({1: [[0.2, 1.01, 0]]}, "fraction", "outside the image, which spans 0 to 1"),
        ({1: [[0.2, 0.3]]}, "fraction", "three finite numbers"),
        ({1: [[0, np.nan, 0]]}, "mm", "three finite numbers"),
        ({2: [[0, 0, 0]]}, "fraction", "the class 2; there are the classes 0 to 1"),
        ({1: [[0, 0, 0]]}, "voxel", "Known: fraction, mm"),
    ],
)
def test_seeds_that_are_nowhere_are_refused(seeds, units, message):
    with pytest.raises(ConfigError, match=message):
        place_seeds(empty(5, 6, 7), 2, seeds, units)


def test_the_deepest_voxel_is_measured_in_mm():
    mask = np.zeros((3, 9, 9), bool)
    mask[1, 1:8, 1:8] = True
    mask[0, 0, 0] = True  # a smaller part
    # Slices 1 mm apart: all is 1 mm deep, the centre counts. 9 mm apart: the middle is 4 deep.
    assert deepest(mask, (1.0, 1.0, 1.0)).tolist() == [1, 4, 4]
    assert deepest(mask, (9.0, 1.0, 1.0)).tolist() == [1, 4, 4]
    mask[1, 1:8, 6:8] = False
    mask[1, 3, 6:8] = True
    assert deepest(mask, (9.0, 1.0, 1.0)).tolist() == [1, 4, 3]


def test_without_seeds_each_level_has_one(ball):
    image = ball().volume
    points = find_seeds("x", image, 2, seeds=None, seed_units="mm", classes=None)
    assert list(points) == [1]
    assert np.abs(points[1][0] - [6.5, 13.5, 11.5]).max() <= 0.5
    dark = find_seeds("x", image, 3, seeds=None, seed_units="mm", classes=[2, 0])
    assert list(dark) == [2]
    assert image.array[tuple(dark[2][0])] == 0


def test_seeds_and_classes_exclude_each_other():
    with pytest.raises(ConfigError, match="got both"):
        find_seeds("x", empty(2, 2, 2), 2, seeds={1: []}, seed_units="mm", classes=[0, 1])


@pytest.mark.parametrize("seeds", [{}, {1: []}, {0: [[0, 0, 0]]}])
def test_seeds_without_a_point_of_the_foreground_are_refused(seeds):
    with pytest.raises(ConfigError, match="a point of a class other than the background"):
        find_seeds("x", empty(2, 2, 2), 2, seeds=seeds, seed_units="fraction", classes=None)


def test_what_several_classes_reach_is_of_the_nearest_seed_in_mm():
    # Rows 3 mm, columns 2 mm apart: (0, 3) and (2, 0) are 6 mm from both; the lower class wins.
    points = {1: np.array([[0, 0, 0]]), 2: np.array([[0, 2, 3]]), 0: np.array([[0, 1, 1]])}
    everything = grow_foreground(empty(1, 3, 4), points, lambda _, mm: mm < 100)
    assert everything[0].tolist() == [[1, 1, 1, 1], [1, 1, 2, 2], [1, 2, 2, 2]]
    near = grow_classes(empty(1, 3, 4), points, lambda _, mm: mm <= 2)
    assert near[0].tolist() == [[2, 2, 0, 0], [1, 1, 1, 0], [0, 0, 3, 3]]


def test_markers_are_balls_around_seeds():
    options = {"seed_units": "fraction", "classes": None}
    seeds = {0: [[0, 0, 0]], 1: [[0, 0.9, 0.9]]}
    marked = markers("x", empty(1, 4, 5), 2, seeds=seeds, seed_radius_mm=0.0, **options)
    assert np.argwhere(marked).tolist() == [[0, 0, 0], [0, 3, 4]]
    marked = markers("x", empty(1, 4, 5), 2, seeds=seeds, seed_radius_mm=2.5, **options)
    assert np.argwhere(marked == 1).tolist() == [[0, 0, 0], [0, 0, 1]]
    assert np.argwhere(marked == 2).tolist() == [[0, 3, 3], [0, 3, 4]]
    with pytest.raises(ConfigError, match="needs seeds of two classes or more, got 1"):
        markers("x", empty(1, 4, 5), 2, seeds={1: [[0, 0, 0]]}, seed_radius_mm=0.0, **options)
