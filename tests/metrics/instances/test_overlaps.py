import numpy as np
import pytest

from segkit.metrics.instances.overlaps import map_overlaps
from segkit.metrics.instances.overlaps import mask_overlaps

TRUTH = np.array([[1, 1, 1, 0], [2, 2, 0, 3], [0, 0, 0, 3]])
FOUND = np.array([[1, 1, 0, 0], [1, 2, 2, 2], [0, 0, 0, 2]])
NONE = np.zeros(3, bool)


def test_sizes_and_shared_pixels_are_those_counted_by_hand():
    found = map_overlaps(TRUTH, FOUND, NONE, 2)
    assert found.true.tolist() == [3, 2, 2]
    assert found.predicted.tolist() == [3, 4]
    table = dict(zip(map(tuple, found.pairs.tolist()), found.shared.tolist(), strict=True))
    assert table == {(0, 0): 2, (1, 0): 1, (1, 1): 1, (2, 1): 2}
    iou = dict(zip(map(tuple, found.pairs.tolist()), found.iou.tolist(), strict=True))
    assert iou == {(0, 0): 2 / 4, (1, 0): 1 / 4, (1, 1): 1 / 5, (2, 1): 2 / 4}
    assert not found.on_void.any()


def test_pixels_of_ignored_objects_are_of_no_other_object():
    found = map_overlaps(TRUTH, FOUND, np.array([False, True, True]), 2)
    assert found.true.tolist() == [3, 0, 0]
    assert found.truths == 1
    assert found.predicted.tolist() == [2, 1]
    assert found.void.tolist() == [1, 3]
    assert found.on_void.tolist() == [False, True]
    assert found.pairs.tolist() == [[0, 0]]
    assert found.iou.tolist() == [2 / 3]


def test_masks_give_what_the_map_gives():
    masks = [FOUND[:2, :2] == 1, FOUND[1:, 1:] == 2]
    for ignored in (NONE, np.array([True, False, False])):
        one = map_overlaps(TRUTH, FOUND, ignored, 2)
        other = mask_overlaps(TRUTH, [(0, 0), (1, 1)], masks, ignored)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_masks_may_overlap():
    whole = np.ones((3, 4), bool)
    found = mask_overlaps(TRUTH, [(0, 0), (0, 0)], [whole, whole], NONE)
    assert found.predicted.tolist() == [12, 12]
    assert found.shared.tolist() == [3, 3, 2, 2, 2, 2]


def test_a_selection_is_numbered_anew():
    found = map_overlaps(TRUTH, FOUND, NONE, 2)
    part = found.select(np.array([False, True, True]), np.array([False, True]))
    assert part.true.tolist() == [2, 2]
    assert part.predicted.tolist() == [4]
    assert part.pairs.tolist() == [[0, 0], [1, 0]]
    assert part.shared.tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_random_maps_agree_with_a_slow_count(random_maps, seed):
    truth, guess = random_maps(seed)
    found = map_overlaps(truth, guess, np.zeros(truth.max(), bool), guess.max())
    slow = {
        (t - 1, g - 1): n
        for t in range(1, truth.max() + 1)
        for g in range(1, guess.max() + 1)
        if (n := int(((truth == t) & (guess == g)).sum()))
    }
    assert dict(zip(map(tuple, found.pairs.tolist()), found.shared.tolist(), strict=True)) == slow


def test_nothing_overlaps_nothing():
    empty = np.zeros((3, 4), int)
    found = map_overlaps(empty, empty, np.zeros(0, bool), 0)
    assert found.truths == 0
    assert len(found.pairs) == len(found.predicted) == 0
    assert mask_overlaps(TRUTH, [], [], NONE).true.tolist() == [3, 2, 2]
