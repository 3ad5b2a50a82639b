import math
from collections import Counter

import numpy as np
import pytest

from segkit.training.ensembles import as_repeats
from segkit.training.ensembles import boost
from segkit.training.ensembles import bootstrap_repeats

PATIENTS = [["a1", "a2", "a3"], ["b"], ["c1", "c2"], ["d"], ["e"], ["f"]]


def test_cases_of_a_patient_are_drawn_together_and_as_many_patients_as_there_are():
    for member in range(20):
        repeats = bootstrap_repeats(PATIENTS, 7, member)
        assert list(repeats) == [case for patient in PATIENTS for case in patient]
        assert all(len({repeats[case] for case in patient}) == 1 for patient in PATIENTS)
        assert sum(repeats[patient[0]] for patient in PATIENTS) == len(PATIENTS)


def test_draws_depend_on_seed_and_member_and_leave_out_the_expected_share():
    draws = [bootstrap_repeats(PATIENTS, 7, member) for member in range(300)]
    assert draws[3] == bootstrap_repeats(PATIENTS, 7, 3)
    assert draws[3] not in (draws[4], bootstrap_repeats(PATIENTS, 8, 3))
    # A patient is missing with probability (5/6)^6 = 0.335.
    missing = np.mean([draw["b"] == 0 for draw in draws])
    assert missing == pytest.approx(0.335, abs=0.1)
    assert Counter(draw["c1"] for draw in draws).keys() >= {0, 1, 2, 3}


def test_the_numbers_of_adaboost_r2_are_those_of_the_paper():
    # Losses 1, 0.5, 0, 0.1 at equal weights: mean 0.4, beta = 0.4 / 0.6 = 2/3.
    errors = {"a": 0.4, "b": 0.2, "c": 0.0, "d": 0.04}
    result = boost(dict.fromkeys("abcd", 1.0), errors)
    assert result.mean_loss == pytest.approx(0.4)
    assert result.member_weight == pytest.approx(math.log(1.5))
    # Weights beta^(1 - L): 1, 0.81650, 0.66667, 0.69425; their sum is 3.17742.
    expected = {"a": 1.25889, "b": 1.02788, "c": 0.83926, "d": 0.87398}
    assert result.weights == pytest.approx(expected, rel=1e-4)
    # Second round with these weights and losses 0, 1, 0, 0: mean 1.02788 / 4.
    second = boost(result.weights, {"a": 0.0, "b": 0.3})
    assert second.mean_loss == pytest.approx(0.25697, rel=1e-4)
    assert second.member_weight == pytest.approx(math.log(0.74303 / 0.25697), rel=1e-4)


def test_boosting_ends_at_a_mean_loss_of_a_half_and_at_a_member_without_error():
    # All cases equally wrong: each loss is 1.
    assert boost({"a": 1.0, "b": 1.0}, {"a": 0.3, "b": 0.3}) == (1.0, 0.0, None)
    assert boost({"a": 1.0, "b": 1.0}, {"a": 0.3, "b": 0.0}) == (0.5, 0.0, None)
    assert boost({"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}) == (0.0, 1.0, None)
    assert boost({"a": 0.0, "b": 1.0}, {"a": 0.3, "b": 0.0}) == (0.0, 1.0, None)


def test_weights_become_quarters_of_the_mean():
    # Mean 1; in quarters 0.4, 0.5, 2.4, 4.7 and 12; halves are rounded up.
    weights = {"a": 0.1, "b": 0.125, "c": 0.6, "d": 1.175, "e": 3.0}
    assert as_repeats(weights) == {"a": 0, "b": 1, "c": 2, "d": 5, "e": 12}
    assert set(as_repeats(dict.fromkeys("xyz", 0.3)).values()) == {4}
