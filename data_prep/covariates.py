"""Covariates and targets of cases, from the layout to the manifest and from there to vectors.

They lie in the manifest and never in the records, whose bytes do not depend on them.
"""

import numpy as np

from segkit.covariates import encode
from segkit.covariates import fit_columns
from segkit.errors import DataError


def stated(case):
    """Returns what the manifest says of a case beside its geometry; empty for most data sets.

    Args:
        case: `RawCase`.
    """
    facts = {
        "covariates": case.covariates,
        "target": case.target,
        "missing_channels": case.missing_channels,
        "kind": case.kind,
    }
    return {name: value for name, value in facts.items() if value}


def fit(cases, splits):
    """Returns the manifest's entries that encode the cases; empty for most data sets.

    Args:
        cases: Case id -> dict with what `stated` returned among others, of all cases in use.
        splits: Case id -> split. Statistics are those of the cases that are not `"test"`; of all
            cases where all are.

    Returns:
        Dict with `covariates`, see `segkit.covariates`, and `targets`, the sorted names of the
        classes of cases, as far as there are any.

    Raises:
        DataError: A covariate that no training case has, or a category or target that only cases
            of the test split have.
    """
    counted = [case for case in cases if splits[case] != "test"] or list(cases)
    entries = {}
    if any("covariates" in case for case in cases.values()):
        entries["covariates"] = fit_columns([cases[case]["covariates"] for case in counted])
        for case, facts in cases.items():
            try:
                encode(entries["covariates"], facts["covariates"])
            except DataError as error:
                raise DataError(f"case {case}: {error}") from error
    names = sorted({cases[case]["target"] for case in counted if "target" in cases[case]})
    if names:
        entries["targets"] = names
    for case, facts in cases.items():
        if "target" in facts and facts["target"] not in names:
            raise DataError(
                f"case {case}: the target {facts['target']!r} is that of no training case. Leave "
                "the case out."
            )
    return entries


def target_indices(manifest):
    """Returns the classes of all cases.

    Args:
        manifest: The data set's manifest, as a dict, with targets.

    Returns:
        `(ids, indices)`: list of case ids, and int32 `(cases,)`: the place in `"targets"`, -1 for
        a case whose class is not known.
    """
    names, cases = manifest["targets"], manifest["cases"]
    found = [names.index(e["target"]) if "target" in e else -1 for e in cases.values()]
    return list(cases), np.array(found, np.int32)


def covariate_vectors(manifest):
    """Returns the covariates of all cases as the network takes them.

    Args:
        manifest: The data set's manifest, as a dict.

    Returns:
        `(ids, vectors)`: list of case ids, and float32 `(cases, width)`; without covariates a
        width of 0.
    """
    columns, cases = manifest.get("covariates", []), manifest["cases"]
    vectors = [encode(columns, entry.get("covariates", {})) for entry in cases.values()]
    return list(cases), np.stack(vectors)
