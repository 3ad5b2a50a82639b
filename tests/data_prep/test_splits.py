import numpy as np
import pytest

from data_prep.splits import assign_folds
from data_prep.splits import draw_test_cases
from segkit.errors import ConfigError
from segkit.errors import DataError


def random_cases(seed):
    """1 to 4 cases for each of 5 to 30 patients."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, rng.integers(5, 31))
    return {f"case-{p}-{n}": f"patient-{p}" for p, count in enumerate(counts) for n in range(count)}


@pytest.mark.parametrize("seed", range(20))
def test_no_patient_is_in_two_folds_and_every_fold_has_one(seed):
    cases = random_cases(seed)
    folds = assign_folds(cases, seed=seed)
    assert folds.keys() == cases.keys()
    assert set(folds.values()) == set(range(5))
    for patient in set(cases.values()):
        assert len({folds[c] for c, p in cases.items() if p == patient}) == 1


@pytest.mark.parametrize("seed", range(20))
def test_folds_differ_by_at_most_one_patient(seed):
    cases = random_cases(seed)
    folds = assign_folds(cases, folds=3)
    sizes = [len({cases[c] for c, f in folds.items() if f == fold}) for fold in range(3)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("scheme", ["kfold", "nnunet"])
def test_the_order_of_the_cases_does_not_matter(scheme):
    cases = {f"c{n}": f"p{n}" for n in range(23)}
    turned = dict(reversed(cases.items()))
    assert assign_folds(cases, scheme=scheme) == assign_folds(turned, scheme=scheme)


def test_another_seed_gives_other_folds():
    cases = {f"c{n}": f"p{n}" for n in range(50)}
    assert assign_folds(cases, seed=0) == assign_folds(cases, seed=0)
    assert assign_folds(cases, seed=0) != assign_folds(cases, seed=1)


def test_folds_follow_the_hash_of_seed_and_patient():
    # sha256("0:a") = 17b6.., "0:b" = 47f7.., "0:c" = 8d82.. (sha256sum): dealt a, b, c
    import hashlib

    order = sorted("abc", key=lambda p: hashlib.sha256(f"0:{p}".encode()).hexdigest())
    folds = assign_folds({p: p for p in "abc"}, folds=3)
    assert [folds[p] for p in order] == [0, 1, 2]


def test_the_nnunet_scheme_gives_the_folds_of_nnunet():
    # Validation cases of generate_crossval_split(seed=12345, n_splits=5) of nnU-Net v2, run on
    # these ten ids.
    expected = [("c000", "c007"), ("c003", "c009"), ("c004", "c006"), ("c001", "c008")]
    expected.append(("c002", "c005"))
    cases = {f"c{n:03d}": f"c{n:03d}" for n in range(10)}
    folds = assign_folds(cases, scheme="nnunet")
    found = [tuple(sorted(c for c, f in folds.items() if f == fold)) for fold in range(5)]
    assert found == expected


def test_the_nnunet_scheme_gives_the_first_folds_the_odd_cases():
    # 13 cases in 5 folds: 13 = 3 + 3 + 3 + 2 + 2, as KFold does
    folds = assign_folds({f"c{n}": f"p{n}" for n in range(13)}, scheme="nnunet")
    assert [list(folds.values()).count(f) for f in range(5)] == [3, 3, 3, 2, 2]


def test_the_nnunet_scheme_refuses_patients_with_several_cases():
    cases = {f"c{n}": f"p{n // 2}" for n in range(20)}
    with pytest.raises(DataError, match=r"has 2 cases: .* Use the scheme kfold"):
        assign_folds(cases, scheme="nnunet")


def test_fewer_patients_than_folds_are_refused():
    cases = {f"c{n}": f"p{n % 4}" for n in range(12)}
    with pytest.raises(DataError, match=r"5 folds need as many patients, got 4 \(12 cases\)"):
        assign_folds(cases)


def test_an_unknown_scheme_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'kfold'"):
        assign_folds({}, scheme="k-fold")


def test_one_fold_is_refused():
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        assign_folds({"a": "a"}, folds=1)


@pytest.mark.parametrize("seed", range(5))
def test_whole_patients_are_held_back_for_testing(seed):
    cases = random_cases(seed)
    test = draw_test_cases(cases, 0.3, seed=seed)
    held_back = {cases[case] for case in test}
    assert len(held_back) == round(0.3 * len(set(cases.values())))
    assert test == {case for case, patient in cases.items() if patient in held_back}
    assert test == draw_test_cases(dict(reversed(cases.items())), 0.3, seed=seed)
    assert test != draw_test_cases(cases, 0.3, seed=seed + 100)


def test_no_patient_is_held_back_unless_asked():
    assert draw_test_cases(random_cases(0), 0.0) == set()


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.01])
def test_a_share_of_test_patients_out_of_range_is_refused(share):
    with pytest.raises(ConfigError, match="share"):
        draw_test_cases({f"c{n}": f"p{n}" for n in range(10)}, share)
