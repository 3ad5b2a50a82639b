import numpy as np
import pytest

from segkit.errors import DataError
from segkit.inference.comparison import compare
from segkit.inference.comparison import comparison_table


def report(dice):
    return {"per_case": {f"c{n}": {"dice": [1.0, value]} for n, value in enumerate(dice)}}


def test_the_difference_is_taken_case_by_case():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.2, 0.8, size=30)  # cases differ much, methods by 0.05 and 0.15
    members = {"member0": report(hard), "member1": report(hard + 0.1)}
    result = compare(members, report(hard + 0.2))
    assert result["mean_member"]["dice"] == pytest.approx(hard.mean() + 0.05)
    assert result["difference"]["dice"] == pytest.approx(0.15)
    assert result["difference"]["interval"] == pytest.approx([0.15, 0.15])
    low, high = result["ensemble"]["interval"]
    assert high - low > 0.1
    assert comparison_table(result).splitlines()[-1].split()[-4:] == [
        "+0.150",
        "+0.150",
        "-",
        "+0.150",
    ]


def test_cases_without_a_score_are_left_out_and_one_case_has_no_interval():
    result = compare({"a": report([0.5, None, 0.7])}, report([0.6, None, None]))
    assert result["mean_member"]["dice"] == pytest.approx(0.6)
    assert result["ensemble"]["dice"] == pytest.approx(0.6)
    single = compare({"a": report([0.5])}, report([0.75]))
    assert single["difference"] == {"dice": 0.25, "interval": [None, None]}
    assert " - " in comparison_table(single)


def test_scores_of_other_cases_are_refused():
    with pytest.raises(DataError, match="member1 was scored on other cases"):
        compare({"member1": report([0.5, 0.6])}, report([0.5]))
