"""The logistic model of covariates against closed forms."""

import numpy as np
import pytest

from segkit.inference.covariate_classifier import classify
from segkit.inference.covariate_classifier import fit_classifier
from segkit.inference.covariate_classifier import out_of_fold
from segkit.inference.covariate_classifier import scores

# 30 cases with x = 0, of which 10 are of class 1; 20 with x = 1, of which 15 are.
X = np.repeat([0.0, 1.0], [30, 20])[:, None]
Y = np.repeat([0, 1, 0, 1], [20, 10, 5, 15])


def test_without_penalty_the_model_gives_the_shares_of_each_group():
    kernel, bias = fit_classifier(X, Y, 2, ridge=1e-9)
    found = classify([[0.0], [1.0]], kernel, bias)[:, 1]
    np.testing.assert_allclose(found, [1 / 3, 3 / 4], atol=1e-4)
    log_odds = kernel[0, 1] - kernel[0, 0]
    assert log_odds == pytest.approx(np.log(3 / (1 / 2)), abs=1e-3)


def test_the_penalty_shrinks_the_kernel_but_not_the_shares_of_the_classes():
    kernel, bias = fit_classifier(X, Y, 2, ridge=0.1)
    assert 0 < kernel[0, 1] - kernel[0, 0] < 1
    assert classify(X, kernel, bias)[:, 1].mean() == pytest.approx(0.5, abs=1e-5)


def test_no_case_is_predicted_by_a_model_that_saw_it():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 30))  # as many columns as cases: fitted without end
    targets, folds = rng.integers(0, 2, 40), np.arange(40) % 4
    fitted = scores(classify(noise, *fit_classifier(noise, targets, 2)), targets)
    held_out = scores(out_of_fold(noise, targets, folds, 2), targets)
    assert fitted["accuracy"] > 0.95
    assert held_out["accuracy"] < 0.75
    changed = targets.copy()
    changed[folds == 0] = 1 - changed[folds == 0]
    before, after = (out_of_fold(noise, t, folds, 2) for t in (targets, changed))
    np.testing.assert_array_equal(before[folds == 0], after[folds == 0])


def test_scores_worked_out_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    found = scores(probabilities, [0, 0, 1, 1])
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == (1.0 + 0.5) / 2
    expected = -np.log([0.9, 0.8, 0.4, 0.7]).mean()
    assert found["cross_entropy"] == pytest.approx(expected)
    assert scores(probabilities[:2], [0, 0])["balanced_accuracy"] == 1
