import numpy as np
import pytest

from segkit.metrics.instances.froc import RATES
from segkit.metrics.instances.froc import Froc
from segkit.metrics.instances.froc import froc_hits
from segkit.metrics.instances.overlaps import mask_overlaps


def hits(scores, found, truth=(1, 1, 1, 1, 0, 0, 2, 2), ignored=(False, False), **options):
    masks = [np.isin(np.arange(8), columns)[None] for columns in found]
    table = mask_overlaps(np.array([truth]), [(0, 0)] * len(masks), masks, np.array(ignored))
    return froc_hits(table, scores, **options)


def test_the_best_detection_hits_and_its_double_is_a_false_positive():
    scores, found = hits([0.5, 0.9, 0.7], [[0, 1, 2, 3], [0, 1, 2], [4, 5]])
    assert scores.tolist() == [0.5, 0.9, 0.7]
    assert found.tolist() == [False, True, False]


def test_a_detection_takes_the_object_it_covers_best_that_is_free():
    truth = (1, 1, 1, 2, 2, 0, 0, 0)
    covering = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]  # IoU 0.6 with 1, 0.4 with 2
    _, found = hits([0.9, 0.8], covering, truth, iou=0.3)
    assert found.tolist() == [True, True]
    _, found = hits([0.9, 0.8], covering, truth, iou=0.5)
    assert found.tolist() == [True, False]


def test_detections_on_ignored_objects_are_left_out():
    scores, found = hits([0.9, 0.8], [[6, 7], [0, 1, 2]], ignored=(False, True))
    assert scores.tolist() == [0.8]
    assert found.tolist() == [True]


def curve():
    """Two images of 2 and 3 objects; sorted: hit .9, false .8, hit .7, false .6, hit .6, hit .5."""
    first = np.array([0.9, 0.7, 0.6]), np.array([True, True, False])
    second = np.array([0.8, 0.6, 0.5]), np.array([False, True, True])
    return Froc([first, second], [2, 3])


def test_sensitivities_are_those_read_off_by_hand():
    found = curve().sensitivities(np.ones(2), rates=(0, 0.25, 0.5, 0.99, 1, 8))
    # False positives per image 0: 1 of 5; 1/2: 2 of 5; the two of score .6 come together; then all.
    np.testing.assert_allclose(found, [1 / 5, 1 / 5, 2 / 5, 2 / 5, 4 / 5, 4 / 5])


def test_weights_are_repetitions():
    first = np.array([0.9, 0.7, 0.6]), np.array([True, True, False])
    second = np.array([0.8, 0.6, 0.5]), np.array([False, True, True])
    repeated = Froc([first, first, first, second], [2, 2, 2, 3])
    np.testing.assert_allclose(
        curve().sensitivities(np.array([3.0, 1.0])), repeated.sensitivities(np.ones(4))
    )
    np.testing.assert_allclose(
        curve().sensitivities(np.array([1.0, 0.0])), Froc([first], [2]).sensitivities(np.ones(1))
    )


@pytest.mark.parametrize("seed", range(3))
def test_random_curves_agree_with_a_threshold_at_a_time(seed):
    rng = np.random.default_rng(seed)
    images = [(rng.integers(1, 9, 12) / 8, rng.random(12) < 0.5) for _ in range(4)]
    truths = [hit.sum() + 2 for _, hit in images]
    found = Froc(images, truths).sensitivities(np.ones(4))
    scores, hit = (np.concatenate(n) for n in zip(*images, strict=True))
    for rate, value in zip(RATES, found, strict=True):
        best = 0
        for threshold in [*np.unique(scores), 2]:
            chosen = scores >= threshold
            if (chosen & ~hit).sum() / 4 <= rate:
                best = max(best, (chosen & hit).sum() / sum(truths))
        assert value == pytest.approx(best)


def test_nothing_to_find_is_undefined_and_nothing_found_is_0():
    none = np.zeros(0), np.zeros(0, bool)
    assert np.isnan(Froc([none], [0]).sensitivities(np.ones(1))).all()
    assert Froc([none], [3]).sensitivities(np.ones(1)).tolist() == [0] * 7
