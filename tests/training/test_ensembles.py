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


def test_the_numbers_of_adaboost_rt_are_those_of_the_paper():
    # One of four cases is wrong, equal weights: beta = 1/4, the others are weighted with it.
    errors = {"a": 0.4, "b": 0.2, "c": 0.0, "d": 0.04}
    result = boost(dict.fromkeys("abcd", 1.0), errors, threshold=0.2)
    assert result.error_rate == pytest.approx(0.25)
    assert result.member_weight == pytest.approx(math.log(4))
    # Weights 1, 1/4, 1/4, 1/4 over their mean, 7/16.
    expected = {"a": 16 / 7, "b": 4 / 7, "c": 4 / 7, "d": 4 / 7}
    assert result.weights == pytest.approx(expected)
    # Then b is wrong: beta = (4/7) / 4 = 1/7; weights 16/49, 4/7, 4/49, 4/49 over 13/49.
    second = boost(result.weights, {"a": 0.0, "b": 0.3}, threshold=0.2)
    assert second.error_rate == pytest.approx(1 / 7)
    assert second.member_weight == pytest.approx(math.log(7))
    expected = {"a": 16 / 13, "b": 28 / 13, "c": 4 / 13, "d": 4 / 13}
    assert second.weights == pytest.approx(expected)


def test_boosting_ends_at_a_member_without_a_wrong_case_which_counts_as_half_a_case():
    right = boost({"a": 1.0, "b": 1.0}, {"a": 0.3, "b": 0.3}, threshold=0.3)
    assert right == (0.0, pytest.approx(math.log(4)), None)


def test_a_member_that_is_wrong_everywhere_has_no_weight_and_leaves_the_cases_as_they_are():
    weights = {"a": 1.5, "b": 0.5}
    assert boost(weights, {"a": 0.4, "b": 0.5}, threshold=0.3) == (1.0, 0.0, weights)


def test_weights_become_quarters_of_the_mean():
    # Mean 1; in quarters 0.4, 0.5, 2.4, 4.7 and 12; halves are rounded up.
    weights = {"a": 0.1, "b": 0.125, "c": 0.6, "d": 1.175, "e": 3.0}
    assert as_repeats(weights) == {"a": 0, "b": 1, "c": 2, "d": 5, "e": 12}
    assert set(as_repeats(dict.fromkeys("xyz", 0.3)).values()) == {4}
