"""Covariates: what is known of a case beside its images, as the numbers that a network takes.

A column is a dict, an entry of the manifest's `"covariates"`, and holds all that encoding a new
case takes:

    {"name": "age", "kind": "number", "mean": 61.5, "std": 9.8, "missing": 2}
    {"name": "sex", "kind": "category", "categories": ["F", "M"], "shares": [0.4, 0.6],
     "missing": 0}

where mean, standard deviation, categories, their shares and how many cases lack the value are
those of the training cases.
"""

import csv
import math
from collections import Counter

import numpy as np

from segkit.errors import DataError
from segkit.errors import nearest

NOT_KNOWN = ("", "na", "n/a", "nan", "null")


def fit_columns(values):
    """Returns the columns that encode the covariates of some cases.

    Args:
        values: Values of each training case, a list of dicts of the same keys: float, text, or
            `None` where the value is missing. A column holds either numbers or texts.

    Returns:
        List of columns, in the order of the keys.

    Raises:
        DataError: No training case has a value in a column.
    """
    return [_fit(name, [case[name] for case in values]) for name in values[0]]


def encode(columns, values):
    """Returns the covariates of a case as the network takes them.

    A number becomes its distance from the training mean, in standard deviations; a category a 1 at
    its place. A missing value becomes the training mean of these numbers: 0, or the shares of the
    categories. Where training cases lacked the value too, a further number says that it is
    missing, and the place of a category is left at 0 throughout.

    Args:
        columns: The manifest's `"covariates"`.
        values: Dict name -> number or text; names that are left out, `None` and the texts of
            `NOT_KNOWN` are missing values.

    Returns:
        float32, shape `(width,)`, in the order of `entry_names`.

    Raises:
        DataError: A name that is no column, a text that is no number, or an unknown category.
    """
    known = [column["name"] for column in columns]
    for name in values:
        if name not in known:
            raise DataError(f"unknown covariate {name!r}. {nearest(name, known)}")
    encoded = [_encode(column, values.get(column["name"])) for column in columns]
    return np.array([number for part in encoded for number in part], np.float32)


def entry_names(columns):
    """Returns a name for each number that `encode` returns: `age`, `sex=F`, `sex=M`, ..."""
    names = []
    for column in columns:
        name = column["name"]
        is_number = column["kind"] == "number"
        names += [name] if is_number else [f"{name}={c}" for c in column["categories"]]
        names += [f"{name} missing"] if column["missing"] else []
    return names


def parse_values(text):
    """Returns `{"age": "63", "sex": "F"}` for `"age=63,sex=F"`.

    Raises:
        DataError: The text is not like that, or names a covariate twice.
    """
    pairs = [pair.partition("=") for pair in next(csv.reader([text]), [])]
    values = {name.strip(): value.strip() for name, _, value in pairs}
    named = all(name.strip() and equals for name, equals, _ in pairs)
    if not pairs or not named or len(values) < len(pairs):
        raise DataError(f"covariates must be like age=63,sex=F, each once, got {text!r}.")
    return values


def read_row(path, names):
    """Returns the covariates in the one row of a CSV file; other columns are left out.

    Args:
        path: File with a header.
        names: Names of the covariates.

    Returns:
        Dict name -> text, of the columns that there are.

    Raises:
        DataError: The file cannot be read, has another number of rows or none of the columns.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"covariates: cannot read {path}: {error}.") from None
    if len(rows) != 1 or not set(names) & set(rows[0]):
        raise DataError(
            f"covariates: {path} must have one row, below columns such as {', '.join(names)}; it "
            f"has {len(rows)}."
        )
    return {name: value for name, value in rows[0].items() if name in names}


def as_number(value):
    """Returns a value as a float; `None` where it is missing, NaN where it is no number."""
    if is_missing(value):
        return None
    try:
        number = float(value)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def is_missing(value):
    """Returns whether a value is one of those that stand for a missing one."""
    return value is None or (isinstance(value, str) and value.strip().lower() in NOT_KNOWN)


def _fit(name, values):
    known = [value for value in values if value is not None]
    if not known:
        raise DataError(f"covariate {name!r}: no training case has a value. Leave the column out.")
    missing = {"missing": len(values) - len(known)}
    if isinstance(known[0], str):
        counts = sorted(Counter(known).items())
        shares = [count / len(known) for _, count in counts]
        categories = {"categories": [category for category, _ in counts], "shares": shares}
        return {"name": name, "kind": "category", **categories, **missing}
    mean, std = float(np.mean(known)), float(np.std(known))
    # A column that is the same in all training cases tells nothing; its encoding stays finite.
    return {"name": name, "kind": "number", "mean": mean, "std": std or 1.0, **missing}


def _encode(column, value):
    missing = is_missing(value)
    flag = [float(missing)] if column["missing"] else []
    if column["kind"] == "number":
        number = as_number(value)
        if number is None:
            return [0.0, *flag]
        if math.isnan(number):
            raise DataError(
                f"covariate {column['name']!r} must be a number, got {value!r}. Leave it out where "
                "it is not known."
            )
        return [(number - column["mean"]) / column["std"], *flag]
    categories = column["categories"]
    if missing:
        return [0.0] * len(categories) + flag if flag else list(column["shares"])
    if str(value) not in categories:
        raise DataError(
            f"covariate {column['name']!r} cannot be {str(value)!r}, which no training case was. "
            f"{nearest(value, categories)} Leave it out where it is not known."
        )
    return [float(str(value) == category) for category in categories] + flag
