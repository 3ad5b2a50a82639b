import numpy as np
import pytest

from segkit.metrics.instances.aggregated_jaccard import aggregated_jaccard
from segkit.metrics.instances.aggregated_jaccard import aji_parts
from segkit.metrics.instances.overlaps import map_overlaps


def parts(truth, found, ignored=()):
    truth, found = np.array(truth), np.array(found)
    marks = np.isin(np.arange(1, truth.max() + 1), ignored)
    return aji_parts(map_overlaps(truth, found, marks, found.max()))


def slow(truth, found):
    """Algorithm 1 of the paper, line by line."""
    shared, union, used = 0, 0, set()
    for t in range(1, truth.max() + 1):
        g = truth == t
        ious = [
            ((found == n) & g).sum() / ((found == n) | g).sum() for n in range(1, found.max() + 1)
        ]
        if not ious or max(ious) == 0:
            union += g.sum()
            continue
        best = int(np.argmax(ious)) + 1
        shared += (g & (found == best)).sum()
        union += (g | (found == best)).sum()
        used.add(best)
    return shared, union + sum(
        (found == n).sum() for n in range(1, found.max() + 1) if n not in used
    )


def test_the_index_is_that_worked_out_by_hand():
    # 1 pairs with 1: 3 of 4; 2 with nothing: 0 of 2; prediction 2 is left: 0 of 3.
    assert parts([1, 1, 1, 0, 2, 2, 0, 0, 0], [1, 1, 1, 1, 0, 0, 2, 2, 2]) == (3, 4 + 2 + 3)
    assert aggregated_jaccard([3, 9]) == pytest.approx(1 / 3)


def test_one_prediction_may_serve_two_objects_as_in_the_paper():
    # Each object pairs with the merged one: (2 + 2) / (4 + 4).
    assert parts([1, 1, 2, 2], [1, 1, 1, 1]) == (4, 8)


def test_a_prediction_on_an_ignored_object_adds_nothing():
    assert parts([1, 1, 2, 2, 2], [1, 1, 2, 2, 2], ignored=[2]) == (2, 2)
    assert parts([1, 1, 2, 2, 2], [1, 1, 1, 1, 1], ignored=[2]) == (2, 2)
    assert parts([1, 1, 2, 2, 2, 0, 0], [1, 1, 2, 2, 2, 2, 2], ignored=[2]) == (2, 2)
    assert parts([1, 1, 2, 2, 2, 0, 0, 0], [1, 1, 0, 2, 2, 2, 2, 2], ignored=[2]) == (2, 5)


@pytest.mark.parametrize("seed", range(8))
def test_random_maps_agree_with_the_algorithm_line_by_line(random_maps, seed):
    truth, found = random_maps(seed)
    assert parts(truth, found) == slow(truth, found)


def test_the_index_is_undefined_without_objects():
    nothing = [[0, 0]]
    assert np.isnan(aggregated_jaccard(parts(nothing, nothing)))
    assert aggregated_jaccard(parts(nothing, [[1, 1]])) == 0
    assert aggregated_jaccard(parts([[1, 1]], nothing)) == 0
