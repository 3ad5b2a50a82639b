"""Covariates as numbers, by hand."""

import json

import numpy as np
import pytest

from segkit.covariates import encode
from segkit.covariates import entry_names
from segkit.covariates import fit_columns
from segkit.covariates import parse_values
from segkit.errors import DataError

# Ages: mean (50 + 60 + 70) / 3 = 60, variance (100 + 0 + 100) / 3; two of four cases are F.
STD = (200 / 3) ** 0.5
TRAINING = [
    {"age": 50.0, "sex": "F", "site": "A"},
    {"age": 60.0, "sex": "M", "site": "A"},
    {"age": None, "sex": "F", "site": "B"},
    {"age": 70.0, "sex": "M", "site": None},
]


@pytest.fixture
def columns():
    return json.loads(json.dumps(fit_columns(TRAINING)))  # what a manifest gives back


def test_columns_hold_the_statistics_of_the_training_cases(columns):
    age, sex, site = columns
    assert (age["kind"], age["mean"], age["missing"]) == ("number", 60, 1)
    assert age["std"] == pytest.approx(STD)
    assert (sex["categories"], sex["shares"], sex["missing"]) == (["F", "M"], [0.5, 0.5], 0)
    assert site["shares"] == pytest.approx([2 / 3, 1 / 3])


def test_numbers_are_standardised_and_categories_one_hot(columns):
    names = ["age", "age missing", "sex=F", "sex=M", "site=A", "site=B", "site missing"]
    assert entry_names(columns) == names
    found = encode(columns, {"age": "75", "sex": "M", "site": "B"})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [15 / STD, 0, 0, 1, 0, 1, 0], rtol=1e-6)


def test_missing_values_become_means_and_are_flagged_where_training_lacked_them_too(columns):
    expected = [0, 1, 0.5, 0.5, 0, 0, 1]
    for values in ({}, {"age": None, "sex": "", "site": "NA"}, {"age": "nan"}):
        np.testing.assert_allclose(encode(columns, values), expected)


def test_the_encoding_has_the_mean_of_the_training_cases_for_a_missing_category(columns):
    rows = [encode(columns, case) for case in TRAINING]
    np.testing.assert_allclose(np.mean(rows, axis=0)[2:4], encode(columns, {})[2:4])


def test_a_number_that_never_varies_stays_finite():
    columns = fit_columns([{"dose": 5.0}, {"dose": 5.0}])
    assert encode(columns, {"dose": 5}).tolist() == [0]
    assert encode(columns, {"dose": 7}).tolist() == [2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"age": "old"}, "'age' must be a number, got 'old'"),
        ({"age": "inf"}, "must be a number"),
        ({"sex": "X"}, "'sex' cannot be 'X', which no training case was. Known: F, M."),
        ({"sxe": "F"}, "unknown covariate 'sxe'. Did you mean 'sex'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(columns, values, message):
    with pytest.raises(DataError, match=message):
        encode(columns, values)


def test_a_column_without_any_value_is_refused():
    with pytest.raises(DataError, match="'age': no training case has a value"):
        fit_columns([{"age": None}, {"age": None}])


def test_values_are_parsed_from_text():
    assert parse_values("age=63, sex=F,site=") == {"age": "63", "sex": "F", "site": ""}
    assert parse_values('"site=A, north",a=b=c') == {"site": "A, north", "a": "b=c"}
    for text in ("", "age", "=3", "age=1,age=2"):
        with pytest.raises(DataError, match="must be like age=63,sex=F"):
            parse_values(text)
