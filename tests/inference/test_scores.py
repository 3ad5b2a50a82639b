import numpy as np
import pytest

from segkit.inference.scores import SCORES
from segkit.inference.scores import count_voxels
from segkit.inference.scores import mean_scores
from segkit.inference.scores import voxel_ml
from segkit.volume import Volume


def test_counts_are_those_counted_by_hand():
    truth = np.array([[0, 0, 1, 1], [1, 2, 2, 0]], np.uint8)
    guess = np.array([[0, 1, 1, 1], [2, 2, 0, 0]], np.uint8)
    #  class 0: hits at (0,0) (1,3); extra (1,2); missed (0,1)
    #  class 1: hits at (0,2) (0,3); extra (0,1); missed (1,0)
    #  class 2: hit at (1,1); extra (1,0); missed (1,2)
    expected = [[2, 1, 1], [2, 1, 1], [1, 1, 1], [0, 0, 0]]
    counts = count_voxels(truth, guess, 4)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_allclose(SCORES["dice"](counts), [4 / 6, 4 / 6, 2 / 4, np.nan])
    np.testing.assert_allclose(SCORES["iou"](counts), [2 / 4, 2 / 4, 1 / 3, np.nan])
    np.testing.assert_allclose(SCORES["accuracy"](counts), [2 / 3, 2 / 3, 1 / 2, np.nan])


def test_an_empty_mask_scores_zero_or_nothing():
    empty, full = np.zeros((2, 2), int), np.ones((2, 2), int)
    assert SCORES["dice"](count_voxels(full, empty, 2)).tolist() == [0, 0]
    assert SCORES["dice"](count_voxels(empty, full, 2)).tolist() == [0, 0]
    both = SCORES["dice"](count_voxels(empty, empty, 2))
    assert both[0] == 1
    assert np.isnan(both[1])


def test_means_leave_out_what_is_undefined():
    scores = np.array([[1.0, 0.5, np.nan], [0.8, np.nan, np.nan], [0.6, 0.7, np.nan]])
    means, intervals = mean_scores(scores)
    # (1 + .8 + .6) / 3, (.5 + .7) / 2, nothing; over the foreground classes seen: .6
    np.testing.assert_allclose(means, [0.8, 0.6, np.nan, 0.6])
    assert np.isnan(intervals[2]).all()
    low, high = intervals[0]
    assert 0.6 <= low < 0.8 < high <= 1.0


def test_intervals_of_two_cases_are_known():
    # Means of two draws from 0 and 1: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    _, intervals = mean_scores(np.array([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(intervals, [[0, 1]] * 3)


def test_intervals_shrink_as_theory_says_and_repeat_exactly():
    scores = np.random.default_rng(0).normal(0.8, 0.05, size=(400, 2))
    _, intervals = mean_scores(scores)
    # 1.96 standard errors either side: 2 * 1.96 * .05 / sqrt(400) = .0098
    assert np.diff(intervals[0]) == pytest.approx(0.0098, rel=0.15)
    np.testing.assert_array_equal(mean_scores(scores)[1], intervals)


def test_a_single_case_has_no_interval():
    means, intervals = mean_scores(np.array([[1.0, 0.5]]))
    np.testing.assert_array_equal(means, [1, 0.5, 0.5])
    assert np.isnan(intervals).all()


def test_the_volume_of_a_voxel_is_known_unless_it_has_no_size():
    oblique = np.array([[0, 0.6, 0.8, 0], [0, -0.8, 0.6, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    assert voxel_ml(oblique, (5, 4, 4)) == pytest.approx(0.003)
    photo = Volume(np.zeros((1, 4, 4)))
    assert voxel_ml(photo.affine, photo.shape) is None
    assert voxel_ml(photo.affine, (2, 4, 4)) == pytest.approx(0.001)


def test_regions_are_counted_by_hand_and_what_is_in_none_is_the_background():
    truth = np.array([0, 0, 1, 1, 2, 2, 3])
    guess = np.array([0, 1, 1, 2, 0, 2, 3])
    #  whole {1, 2}: truth 0 0 1 1 1 1 0, guess 0 1 1 1 0 1 0
    #  core {2}:     truth 0 0 0 0 1 1 0, guess 0 0 0 1 0 1 0
    #  in none:      truth 1 1 0 0 0 0 1, guess 1 0 0 0 1 0 1
    counts = count_voxels(truth, guess, 4, regions=[[1, 2], [2]])
    np.testing.assert_array_equal(counts, [[2, 1, 1], [3, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize("regions", [None, [[1, 2], [2]]])
def test_ignored_voxels_change_no_score(regions):
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 3, (2, 5, 6)).astype(np.uint8)
    expected = count_voxels(truth, guess, 3, regions=regions)
    marked = np.concatenate([truth, np.full((2, 6), 3, np.uint8)])
    more = np.concatenate([guess, rng.integers(0, 3, (2, 6)).astype(np.uint8)])
    found = count_voxels(marked, more, 3, regions=regions, ignore_label=3)
    np.testing.assert_array_equal(found, expected)
