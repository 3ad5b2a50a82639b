import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.metrics.instances.matching import THRESHOLDS
from segkit.metrics.instances.matching import count_matches
from segkit.metrics.instances.matching import dsb_score
from segkit.metrics.instances.matching import hit_shares
from segkit.metrics.instances.overlaps import map_overlaps


def overlaps(truth, guess, ignored=()):
    marks = np.isin(np.arange(1, truth.max() + 1), ignored)
    return map_overlaps(truth, guess, marks, guess.max())


def bars(*lengths):
    """One row per object, of the given lengths out of 20; 0 for none."""
    canvas = np.zeros((len(lengths), 20), int)
    for row, length in enumerate(lengths):
        canvas[row, :length] = canvas.max() + 1
    return canvas


def test_counts_at_each_threshold():
    # IoU 12/20 = 0.6, 17/20 = 0.85, 20/20 = 1, and one object missed.
    counts = count_matches(overlaps(bars(20, 20, 20, 20), bars(12, 17, 20, 0)))
    hits = [3, 3, 2, 2, 2, 2, 2, 1, 1, 1]  # 0.6 is not above 0.6, 0.85 not above 0.85
    assert counts.tolist() == [[h, 3 - h, 4 - h] for h in hits]
    # TP / (TP + FP + FN) = 3/4, 2/5, 1/6: (2 * 3/4 + 5 * 2/5 + 3 * 1/6) / 10
    assert hit_shares(counts) == pytest.approx([3 / 4] * 2 + [2 / 5] * 5 + [1 / 6] * 3)
    assert dsb_score(counts) == pytest.approx((2 * 3 / 4 + 5 * 2 / 5 + 3 / 6) / 10)


def test_half_covered_is_no_match():
    assert count_matches(overlaps(bars(20), bars(10)))[0].tolist() == [0, 1, 1]
    assert count_matches(overlaps(bars(20), bars(11)))[0].tolist() == [1, 0, 0]


def test_a_detection_on_an_ignored_object_is_not_counted():
    truth, guess = bars(20, 20), bars(20, 15)
    assert count_matches(overlaps(truth, guess))[0].tolist() == [2, 0, 0]
    assert count_matches(overlaps(truth, guess, ignored=[2]))[0].tolist() == [1, 0, 0]
    # One that has less than half of its pixels there is.
    guess = bars(20, 9)
    guess[0, 11:20] = 0
    guess[1, :9] = 1
    assert count_matches(overlaps(truth, guess, ignored=[2]))[0].tolist() == [1, 0, 0]
    guess[0, 8:] = 0
    assert count_matches(overlaps(truth, guess, ignored=[2]))[0].tolist() == [0, 0, 1]


def test_the_score_is_undefined_without_objects_and_0_where_none_is_right():
    empty = np.zeros((1, 20), int)
    assert np.isnan(dsb_score(count_matches(overlaps(empty, empty))))
    assert dsb_score(count_matches(overlaps(empty, bars(5)))) == 0
    assert dsb_score(count_matches(overlaps(bars(5), empty))) == 0


@pytest.mark.parametrize("seed", range(5))
def test_random_maps_agree_with_a_slow_version(random_maps, seed):
    truth, guess = random_maps(seed)
    ious = np.array(
        [
            [((truth == t) & (guess == g)).sum() / ((truth == t) | (guess == g)).sum()
             for g in range(1, guess.max() + 1)]
            for t in range(1, truth.max() + 1)
        ]
    )  # fmt: skip
    for row, threshold in zip(count_matches(overlaps(truth, guess)), THRESHOLDS, strict=True):
        hits = (ious > threshold).sum()
        assert row.tolist() == [hits, guess.max() - hits, truth.max() - hits]


@pytest.mark.parametrize("threshold", [0.49, 1.0])
def test_a_threshold_that_allows_two_partners_is_refused(threshold):
    with pytest.raises(ConfigError, match=r"at least 0\.5 and below 1"):
        count_matches(overlaps(bars(20), bars(20)), (threshold,))
