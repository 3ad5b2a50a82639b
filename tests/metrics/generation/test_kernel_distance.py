import numpy as np
import pytest
from scipy import linalg

from segkit.errors import DataError
from segkit.metrics.generation.kernel_distance import kernel_distance
from segkit.metrics.generation.kernel_distance import subset_kernel_distances


def by_loops(real, made):
    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(points):
        n = len(points)
        pairs = ((i, j) for i in range(n) for j in range(n) if i != j)
        return sum(kernel(points[i], points[j]) for i, j in pairs) / (n * (n - 1))

    between = sum(kernel(x, y) for x in real for y in made) / (len(real) * len(made))
    return within(real) + within(made) - 2 * between


def test_points_on_a_line_by_hand():
    # Real 0 and 1: k = 1. Made 1 and 2: k = 27. Between: k(0, .) = 1 twice, k(1, 1) = 8,
    # k(1, 2) = 27, mean 37 / 4. So 1 + 27 - 37 / 2.
    assert kernel_distance([[0], [1]], [[1], [2]]) == pytest.approx(9.5)


@pytest.mark.parametrize("seed", range(3))
def test_random_points_agree_with_a_pair_at_a_time(seed):
    rng = np.random.default_rng(seed)
    real, made = rng.normal(size=(9, 4)), rng.normal(1, 2, size=(6, 4))
    assert kernel_distance(real, made) == pytest.approx(by_loops(real, made))


def test_it_is_unbiased_so_equal_distributions_score_around_0():
    rng = np.random.default_rng(0)
    found = [kernel_distance(rng.normal(size=(8, 3)), rng.normal(size=(5, 3))) for _ in range(4000)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0
    shifted = kernel_distance(rng.normal(size=(200, 3)), rng.normal(0.5, 1, size=(200, 3)))
    assert shifted > 20 * error


def test_order_and_rotation_change_nothing():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(20, 4)), rng.normal(1, 2, size=(20, 4))
    turn = linalg.qr(rng.normal(size=(4, 4)))[0]
    expected = kernel_distance(real, made)
    assert kernel_distance(real @ turn, made @ turn) == pytest.approx(expected)
    assert kernel_distance(rng.permutation(real), rng.permutation(made)) == pytest.approx(expected)
    assert kernel_distance(made, real) == pytest.approx(expected)


def test_subsets_have_the_mean_of_the_whole_and_a_spread():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(80, 3)), rng.normal(1, 1, size=(60, 3))
    found = subset_kernel_distances(real, made, subsets=300, seed=1)
    error = found.std() / np.sqrt(len(found))
    assert found.shape == (300,)
    assert error > 0
    assert abs(found.mean() - kernel_distance(real, made)) < 4 * error
    np.testing.assert_array_equal(found, subset_kernel_distances(real, made, subsets=300, seed=1))
    whole = subset_kernel_distances(real[:60], made, subsets=2, size=60)
    np.testing.assert_allclose(whole, kernel_distance(real[:60], made))


def test_too_few_examples_and_nan_are_refused():
    with pytest.raises(DataError, match="at least 2 made examples .* got 1"):
        kernel_distance(np.zeros((3, 2)), np.zeros((1, 2)))
    with pytest.raises(DataError, match="at least 4 real examples .* got 3"):
        subset_kernel_distances(np.zeros((3, 2)), np.zeros((9, 2)))
    with pytest.raises(DataError, match="at least 10 examples of each kind .* 4 real and 9 made"):
        subset_kernel_distances(np.zeros((4, 2)), np.zeros((9, 2)), size=10)
    with pytest.raises(DataError, match="NaN"):
        kernel_distance(np.zeros((3, 2)), np.full((3, 2), np.inf))
