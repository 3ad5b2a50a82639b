import numpy as np
import pytest
from skimage.morphology import reconstruction

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.inference.watershed_instances import _reconstruct
from segkit.inference.watershed_instances import watershed_instances


def disc(shape, *centre_and_radius):
    *centre, radius = centre_and_radius
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def probabilities(*masks, certainty=0.9):
    """Class probabilities of a background and one class per mask."""
    rest = ~np.any(masks, axis=0)
    maps = np.stack([rest, *masks], axis=-1)
    return np.where(maps, certainty, (1 - certainty) / len(masks)).astype(np.float32)


def test_touching_discs_are_cut_at_their_neck():
    one, two = disc((40, 60), 20, 18, 12), disc((40, 60), 20, 38, 12)
    found = watershed_instances(probabilities(one | two))
    assert len(found.scores) == 2
    assert found.labels[20, 10] != found.labels[20, 45] != 0
    columns = np.flatnonzero(np.diff(found.labels[20]))  # ends, and one cut in the middle
    assert np.isclose(columns, [5, 28, 50], atol=1).all()
    np.testing.assert_array_equal(found.labels > 0, one | two)
    np.testing.assert_allclose(found.scores, 0.9, rtol=1e-6)


def test_discs_that_overlap_too_much_are_one_object():
    mask = disc((40, 60), 20, 26, 12) | disc((40, 60), 20, 32, 12)
    assert len(watershed_instances(probabilities(mask)).scores) == 1


def test_a_larger_depth_cuts_fewer_objects_apart():
    mask = disc((40, 60), 20, 18, 12) | disc((40, 60), 20, 36, 12)
    counts = [len(watershed_instances(probabilities(mask), depth=d).scores) for d in (0.5, 1, 8)]
    assert counts == [2, 2, 1]


def test_thin_and_small_objects_are_kept_or_left_out_by_size():
    mask = np.zeros((20, 30), bool)
    mask[3, 2:25], mask[10, 10] = True, True
    mask[12:18, 20:28] = True
    found = watershed_instances(probabilities(mask))
    assert np.bincount(found.labels.ravel())[1:].tolist() == [48, 23, 1]
    assert len(watershed_instances(probabilities(mask), min_size=20).scores) == 2


def test_each_class_is_cut_by_itself_and_scored_by_its_probability():
    one, two = disc((40, 60), 20, 18, 9), disc((40, 60), 20, 40, 9)
    maps = probabilities(one, two, certainty=0.8)
    found = watershed_instances(maps)
    assert found.classes.tolist() == [1, 2]
    assert found.labels[20, 18] == 1
    assert found.labels[20, 40] == 2
    maps[20, 18] = [0.1, 0.6, 0.3]
    again = watershed_instances(maps).scores
    assert again[0] == pytest.approx(0.8 - 0.2 / one.sum(), abs=1e-6)


def test_volumes_and_spacing():
    mask = disc((24, 40, 40), 12, 20, 11, 9) | disc((24, 40, 40), 12, 20, 27, 9)
    assert len(watershed_instances(probabilities(mask)).scores) == 2
    flat = mask[::3]
    found = watershed_instances(probabilities(flat), spacing=(3, 1, 1))
    assert found.labels.shape == (8, 40, 40)
    assert len(found.scores) == 2


def test_an_image_of_one_class_is_no_object_or_one():
    empty, full = np.zeros((8, 9), bool), np.ones((8, 9), bool)
    assert len(watershed_instances(probabilities(empty)).scores) == 0
    found = watershed_instances(probabilities(full))
    assert (found.labels == 1).all()
    assert found.scores.tolist() == [pytest.approx(0.9)]


@pytest.mark.parametrize("seed", range(3))
def test_the_reconstruction_is_that_of_scikit_image(seed):
    limit = np.random.default_rng(seed).random((30, 40)) * 5
    seeds = np.maximum(limit - 1.5, 0)
    np.testing.assert_array_equal(
        _reconstruct(seeds, limit), reconstruction(seeds, limit, footprint=np.ones((3, 3)))
    )


def test_wrong_input_is_refused():
    with pytest.raises(ConfigError, match="depth must be above 0"):
        watershed_instances(np.zeros((4, 4, 2)), depth=0)
    with pytest.raises(ShapeError, match="two or three spatial axes"):
        watershed_instances(np.zeros((4, 4)))
