import numpy as np
import pytest

from segkit.metrics.instances.overlaps import map_overlaps
from segkit.metrics.instances.panoptic import panoptic_parts
from segkit.metrics.instances.panoptic import panoptic_quality

TRUTH = np.array([[1] * 10, [2] * 10, [3] * 10, [0] * 10])
FOUND = np.array([[1] * 8 + [0] * 2, [2] * 6 + [0] * 4, [3] * 5 + [0] * 5, [4] * 10])


def parts(truth, found, ignored=(False,) * 3):
    return panoptic_parts(map_overlaps(truth, found, np.array(ignored), found.max()))


def test_quality_is_that_of_the_paper_worked_out_by_hand():
    # IoU 0.8 and 0.6 match, 0.5 does not: TP 2, FP 2 (rows 3 and 4), FN 1.
    found = parts(TRUTH, FOUND)
    np.testing.assert_allclose(found, [1.4, 2, 2, 1])
    pq, sq, dq = panoptic_quality(found)
    assert pq == pytest.approx(1.4 / 3.5)
    assert sq == pytest.approx(0.7)
    assert dq == pytest.approx(2 / 3.5)
    assert pq == pytest.approx(sq * dq)


def test_ignored_objects_are_the_papers_void():
    # Row 3 is void: its detection is dropped; one that reaches into it loses those pixels.
    np.testing.assert_allclose(parts(TRUTH, FOUND, (False, False, True)), [1.4, 2, 1, 0])
    reaching = FOUND.copy()
    reaching[2, 5:] = 2
    np.testing.assert_allclose(parts(TRUTH, reaching, (False, False, True)), [1.4, 2, 1, 0])


@pytest.mark.parametrize("seed", range(5))
def test_random_maps_agree_with_a_slow_version(random_maps, seed):
    truth, found = random_maps(seed)
    matched = []
    for t in range(1, truth.max() + 1):
        for f in range(1, found.max() + 1):
            iou = ((truth == t) & (found == f)).sum() / ((truth == t) | (found == f)).sum()
            matched += [iou] if iou > 0.5 else []
    assert matched
    numbers = [len(matched), found.max() - len(matched), truth.max() - len(matched)]
    ours = parts(truth, found, np.zeros(truth.max(), bool))
    np.testing.assert_allclose(ours, [sum(matched), *numbers])
    expected = sum(matched) / (numbers[0] + numbers[1] / 2 + numbers[2] / 2)
    assert panoptic_quality(ours)[0] == pytest.approx(expected)


def test_parts_of_images_add_up():
    one, two = parts(TRUTH, FOUND), parts(TRUTH, TRUTH)
    pq, _, _ = panoptic_quality(np.stack([one, two, one + two]))
    np.testing.assert_allclose(pq, [1.4 / 3.5, 1, 4.4 / 6.5])


def test_quality_is_undefined_without_objects():
    assert np.isnan(panoptic_quality(np.zeros(4))).all()
    pq, sq, dq = panoptic_quality([0, 0, 2, 0])
    assert pq == dq == 0
    assert np.isnan(sq)
