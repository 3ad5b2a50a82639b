import numpy as np
import pytest
from scipy import linalg

from segkit.errors import DataError
from segkit.metrics.generation.frechet_distance import frechet_distance
from segkit.metrics.generation.frechet_distance import frechet_of_moments


def features(seed, number=60, size=5, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, size)) @ rng.normal(size=(size, size)) + shift


def by_sqrtm(real, made):
    first, second = np.cov(real, rowvar=False), np.cov(made, rowvar=False)
    offset = ((real.mean(axis=0) - made.mean(axis=0)) ** 2).sum()
    return offset + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_formula_with_scipys_matrix_root(seed):
    real, made = features(seed), features(seed + 10, number=40, shift=0.3)
    assert frechet_distance(real, made) == pytest.approx(by_sqrtm(real, made), rel=1e-9)


def test_the_distance_of_moments_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one, other = ((rng.normal(size=5), mix @ mix.T) for mix in rng.normal(size=(2, 5, 5)))
    cross = linalg.sqrtm(one[1] @ other[1]).real
    expected = ((one[0] - other[0]) ** 2).sum() + np.trace(one[1] + other[1] - 2 * cross)
    assert frechet_of_moments(*one, *other) == pytest.approx(expected, rel=1e-6)
    assert frechet_of_moments(*one, *one) == pytest.approx(0, abs=1e-9)


def test_gaussians_in_one_dimension_by_hand():
    # (3 - 1)^2 + (4 - 1)^2 with the standard deviations 4 and 1: 4 + 9.
    assert frechet_of_moments([3.0], [[16.0]], [1.0], [[1.0]]) == pytest.approx(13)


def test_covariances_that_commute_by_hand():
    # Standard deviations (1, 2, 3) against (3, 2, 0): 4 + 0 + 9, and a shift of 1 along one axis.
    first, second = np.diag([1.0, 4.0, 9.0]), np.diag([9.0, 4.0, 0.0])
    assert frechet_of_moments(np.zeros(3), first, [0, 1, 0], second) == pytest.approx(14)


def test_examples_in_one_dimension_by_hand():
    # Means 1 and 4, variances (1 + 0 + 1) / 2 = 1 and (4 + 0 + 4) / 2 = 4: 9 + (2 - 1)^2.
    assert frechet_distance([[0], [1], [2]], [[2], [4], [6]]) == pytest.approx(10)


def test_equal_examples_in_any_order_have_distance_0():
    real = features(0)
    made = np.random.default_rng(1).permutation(real)
    assert frechet_distance(real, made) == pytest.approx(0, abs=1e-9)


def test_a_rotation_of_the_features_changes_nothing_and_a_scale_is_squared():
    real, made = features(0), features(1, shift=1.0)
    turn = linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    expected = frechet_distance(real, made)
    assert frechet_distance(real @ turn, made @ turn) == pytest.approx(expected)
    assert frechet_distance(made, real) == pytest.approx(expected)
    assert frechet_distance(3 * real, 3 * made) == pytest.approx(9 * expected)


def test_too_few_examples_are_refused_with_the_number_needed():
    with pytest.raises(DataError, match="at least 6 made examples for 5 features, got 5"):
        frechet_distance(features(0), features(1, number=5))


def test_nan_and_shapes_that_do_not_fit_are_refused():
    broken = features(1)
    broken[7, 2] = np.nan
    with pytest.raises(DataError, match="1 made examples hold NaN .* number 7"):
        frechet_distance(features(0), broken)
    with pytest.raises(DataError, match="one extractor"):
        frechet_distance(features(0), features(1, size=4))
    with pytest.raises(DataError, match=r"\(examples, features\)"):
        frechet_distance(np.zeros(5), np.zeros(5))


def test_a_covariance_below_zero_is_refused():
    with pytest.raises(DataError, match="eigenvalue -1"):
        frechet_of_moments(np.zeros(2), np.eye(2), np.zeros(2), np.diag([1.0, -1.0]))
