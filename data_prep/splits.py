"""Test split and cross-validation folds: all cases of a patient lie in one of them."""

import hashlib
from collections import Counter

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import nearest

NNUNET_SEED = 12345
HELD_OUT = 0.1  # share of the patients that choose the best epoch of a run without folds


def split_cases(dataset, options):
    """Deals all cases of a data set into folds and test split, as its options say.

    Bad cases are dealt too, so that leaving one out moves no other.

    Args:
        dataset: `RawDataset`; what it holds back is in the test split.
        options: `data_prep.convert.Options`.

    Returns:
        Dict case id -> `"test"`, `"fold0"`, `"fold1"`, ...; all `"test"` without classes.

    Raises:
        ConfigError, DataError: As `assign_folds` and `draw_test_cases`.
    """
    splits = {case.id: "test" for case in dataset.cases}
    patients = {case.id: case.patient for case in dataset.cases if not case.held_back}
    for case in draw_test_cases(patients, options.test_share, seed=options.seed):
        del patients[case]
    if patients and dataset.classes:
        scheme = {"scheme": options.splits, "folds": options.folds, "seed": options.seed}
        splits |= {case: f"fold{n}" for case, n in assign_folds(patients, **scheme).items()}
    return splits


def assign_folds(cases, *, scheme: str = "kfold", folds: int = 5, seed: int = 0):
    """Deals cases into folds.

    Args:
        cases: Mapping case id -> patient.
        scheme: `"kfold"`: patients in the order of a keyed hash are dealt round robin, so the
            result does not depend on the order of `cases`. `"nnunet"`: the folds of nnU-Net
            (scikit-learn's `KFold(folds, shuffle=True, random_state=12345)` over the sorted
            ids), to compare with its published results; needs one case per patient.
        folds: Number of folds, at least 2.
        seed: Key of the hash; `"nnunet"` has its own.

    Returns:
        Dict case id -> fold, from 0 to `folds - 1`.

    Raises:
        ConfigError: Unknown scheme, or fewer than 2 folds.
        DataError: Fewer patients than folds, or a patient with several cases under `"nnunet"`.
    """
    schemes = {"kfold": _by_hash, "nnunet": _as_nnunet}
    if scheme not in schemes:
        raise ConfigError(f"unknown split scheme {scheme!r}. {nearest(scheme, schemes)}")
    if folds < 2:
        raise ConfigError(f"folds must be at least 2, got {folds}.")
    patients = set(cases.values())
    if len(patients) < folds:
        raise DataError(
            f"{folds} folds need as many patients, got {len(patients)} ({len(cases)} cases). "
            "Lower folds, or check how patients are told apart."
        )
    return schemes[scheme](cases, folds, seed)


def draw_test_cases(cases, share, *, seed: int = 0):
    """Draws the patients of the test split, in the order of a keyed hash.

    Args:
        cases: Mapping case id -> patient.
        share: Share of the patients, in [0, 1); rounded to whole patients.
        seed: Key of the hash.

    Returns:
        Set of case ids.

    Raises:
        ConfigError: `share` is out of range, or so small that no patient would be drawn.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"the share of test patients must be from 0 to below 1, got {share}.")
    rank = _ranks(cases.values(), f"test:{seed}")
    count = round(share * len(rank))
    if share and not count:
        raise ConfigError(f"{share} of {len(rank)} patients is none; raise the share for testing.")
    return {case for case, patient in cases.items() if rank[patient] < count}


def hold_out(splits, repeats, manifest):
    """Deals the patients of splits into those that train and those that choose the best epoch.

    A tenth of them, at least one, is held out, in the order of a hash.

    Args:
        splits: Names of the splits.
        repeats: `data.repeats` of the config: how often a case is seen, by id.
        manifest: Manifest of the data set.

    Returns:
        `(training, held_out)`, each `{case: repeats}`, in which the other's cases have 0.

    Raises:
        DataError: If there are less than two patients.
    """
    patients = {
        case: entry["group"]
        for case, entry in manifest["cases"].items()
        if entry["split"] in splits and repeats.get(case, 1)
    }
    number = len(set(patients.values()))
    if number < 2:
        raise DataError(
            f"training without folds needs at least 2 patients in {', '.join(splits)}, got "
            f"{number}: one of them to choose the best epoch. Add images, or name more splits in "
            "data.splits."
        )
    held_out = draw_test_cases(patients, max(HELD_OUT, 1 / number))
    others = {case: 0 for case in manifest["cases"] if case not in held_out}
    return {**repeats, **dict.fromkeys(held_out, 0)}, others


def _by_hash(cases, folds, seed):
    rank = _ranks(cases.values(), seed)
    return {case: rank[patient] % folds for case, patient in cases.items()}


def _ranks(patients, key):
    def digest(patient):
        return hashlib.sha256(f"{key}:{patient}".encode()).digest()

    return {patient: n for n, patient in enumerate(sorted(set(patients), key=digest))}


def _as_nnunet(cases, folds, _seed):
    patient, count = Counter(cases.values()).most_common(1)[0]
    if count > 1:
        raise DataError(
            f"patient {patient} has {count} cases: the nnunet scheme would put them into several "
            "folds, and validation would see training patients. Use the scheme kfold."
        )
    ids = sorted(cases)
    order = np.arange(len(ids))
    np.random.RandomState(NNUNET_SEED).shuffle(order)
    parts = np.array_split(order, folds)
    return {ids[n]: fold for fold, part in enumerate(parts) for n in part}
