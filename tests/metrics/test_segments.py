import numpy as np
import pytest
from skimage.metrics import adapted_rand_error
from skimage.metrics import contingency_table
from skimage.metrics import variation_of_information

from segkit.metrics.segments import segment
from segkit.metrics.segments import thin
from segkit.metrics.segments import v_info
from segkit.metrics.segments import v_rand


@pytest.mark.parametrize(
    ("truth", "prediction", "rand", "info"),
    [
        pytest.param([1, 1, 2, 2], [5, 5, 3, 3], 1, 1, id="equal but for the numbers"),
        # p = 1/2, 1/2; s = 1; t = 1/2, 1/2: (1/2) / ((1 + 1/2) / 2). No information: H(S) = 0.
        pytest.param([1, 1, 2, 2], [1, 1, 1, 1], 2 / 3, 0, id="merged"),
        pytest.param([1, 1, 1, 1], [1, 1, 2, 2], 2 / 3, 0, id="split"),
        # What the truth has no opinion on does not count, so two cells are found whole.
        pytest.param([1, 1, 0, 2, 2], [1, 1, 1, 2, 2], 1, 1, id="boundary of the truth"),
        # A pixel of the predicted boundary is alone: p = s = 3/4, 1/4; t = 1: (5/8) / (13/16).
        pytest.param([1, 1, 1, 1], [1, 1, 1, 0], 10 / 13, 0, id="boundary of the prediction"),
        # p: 1/4 four times; s = t = 1/2, 1/2: (1/4) / (1/2), and independent.
        pytest.param([1, 1, 2, 2], [1, 2, 1, 2], 1 / 2, 0, id="unrelated"),
        # p = 1/2, 1/4, 1/4; s = 1/2, 1/2; t = 3/4, 1/4: (3/8) / ((1/2 + 5/8) / 2).
        # H(S) = 1, H(T) = 0.811, H(S, T) = 1.5: 2 * (1.811 - 1.5) / 1.811.
        pytest.param([1, 1, 1, 2], [1, 1, 2, 2], 2 / 3, 0.3437, id="shifted"),
        pytest.param([1, 1, 1, 1], [2, 2, 2, 2], 1, 1, id="one segment"),
    ],
)
def test_scores_equal_values_by_hand(truth, prediction, rand, info):
    truth, prediction = np.array([truth]), np.array([prediction])
    assert v_rand(truth, prediction) == pytest.approx(rand)
    assert v_info(truth, prediction) == pytest.approx(info, abs=1e-4)


def test_a_truth_without_segments_has_no_score():
    nothing, something = np.zeros((2, 3), int), np.ones((2, 3), int)
    assert np.isnan(v_rand(nothing, something))
    assert np.isnan(v_info(nothing, something))
    # all pixels alone: p = s = 1/6 six times, t = 1: (1/6) / (7/12)
    assert v_rand(something, nothing) == pytest.approx(2 / 7)


def test_v_rand_is_the_f_score_of_pairs_of_pixels():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, (2, 6, 7))
    inside = truth > 0
    same_truth = same_prediction = same_both = 0
    points = list(zip(truth[inside], prediction[inside], strict=True))
    for n, (t, p) in enumerate(points):
        for m, (other_t, other_p) in enumerate(points):
            together = p == other_p and (p > 0 or n == m)
            same_truth += t == other_t
            same_prediction += together
            same_both += together and t == other_t
    precision, recall = same_both / same_prediction, same_both / same_truth
    expected = 2 * precision * recall / (precision + recall)
    assert v_rand(truth, prediction) == pytest.approx(expected)


def test_scores_agree_with_scikit_image():
    rng = np.random.default_rng(1)
    blocks = rng.integers(1, 6, (8, 8))
    truth = np.kron(blocks, np.ones((8, 8), int)) * (rng.uniform(size=(64, 64)) > 0.1)
    prediction = np.roll(np.kron(blocks, np.ones((8, 8), int)), 3, axis=1)
    table = contingency_table(truth, prediction, ignore_labels=[0], normalize=True).toarray()
    squares = [(p**2).sum() for p in (table, table.sum(axis=0), table.sum(axis=1))]
    assert v_rand(truth, prediction) == pytest.approx(2 * squares[0] / sum(squares[1:]))
    # scikit-image does not count pairs of a pixel with itself, 1 / 3700 of all pairs here
    error, _, _ = adapted_rand_error(truth, prediction, ignore_labels=[0])
    assert v_rand(truth, prediction) == pytest.approx(1 - error, abs=1e-3)
    shares = [table.sum(axis=n)[table.sum(axis=n) > 0] for n in (0, 1)]
    entropies = sum(-(p * np.log2(p)).sum() for p in shares)
    distance = sum(variation_of_information(truth, prediction, ignore_labels=[0]))
    assert v_info(truth, prediction) == pytest.approx(1 - distance / entropies)


def test_segments_are_connected_by_edges_not_by_corners():
    boundary = np.array([[0, 1, 1], [1, 0, 0]], bool)
    assert segment(boundary).tolist() == [[1, 0, 0], [0, 2, 2]]


def test_a_thick_boundary_becomes_one_pixel_wide():
    thick = np.zeros((3, 7), bool)
    thick[:, 1:6] = True
    # The middle of 1 0 0 0 0 0 2 is as near to both; the line lies there or next to it.
    row = thin(segment(thick))[1].tolist()
    assert row in ([1, 1, 1, 0, 2, 2, 2], [1, 1, 0, 2, 2, 2, 2], [1, 1, 1, 1, 0, 2, 2])


def test_a_boundary_that_separates_nothing_goes():
    dangling = np.zeros((5, 7), bool)
    dangling[:3, 3] = True
    assert (thin(segment(dangling)) == 1).all()


def test_thinning_keeps_segments_whole_and_apart():
    rng = np.random.default_rng(2)
    boundary = np.kron(rng.uniform(size=(12, 12)) > 0.45, np.ones((3, 3), bool))
    before = segment(boundary)
    after = thin(before)
    np.testing.assert_array_equal(after[~boundary], before[~boundary])
    for one, other in ((after[1:], after[:-1]), (after[:, 1:], after[:, :-1])):
        assert ((one == other) | (one == 0) | (other == 0)).all()
    assert (after == 0).sum() < 0.5 * boundary.sum()


def test_nothing_but_boundary_stays_so():
    assert (thin(segment(np.ones((3, 4), bool))) == 0).all()


def test_thickness_costs_nothing_after_thinning_and_a_gap_does():
    # Two cells of 7 and 8 columns and 10 rows.
    line = np.zeros((10, 16), bool)
    line[:, 7] = True
    thick = line.copy()
    thick[:, 5:9] = True
    gap = line.copy()
    gap[4, 7] = False
    truth = segment(line)
    assert v_rand(truth, segment(thick)) < 0.8
    assert v_rand(truth, thin(segment(thick))) > 0.9
    # p = t = 70/150, 80/150 merged into s = 1: 2 (49 + 64) / (225 + 49 + 64)
    assert v_rand(truth, thin(segment(gap))) == pytest.approx(226 / 338)
