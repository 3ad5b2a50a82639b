import json

import numpy as np
import pytest

from tools.classify import main

COLUMNS = [
    {"name": "age", "kind": "number", "mean": 60, "std": 10, "missing": 1},
    {
        "name": "sex",
        "kind": "category",
        "categories": ["F", "M"],
        "shares": [0.5, 0.5],
        "missing": 0,
    },
]
EMPTY = {"channels": ["CT"], "classes": [], "preprocess": {}, "options": {}, "fingerprint": {}}


def write_manifest(folder, **changes):
    """Sixty cases, most of them `high` above 60 years and `low` below; ten are held back."""
    rng, cases = np.random.default_rng(0), {}
    for n in range(60):
        age = float(rng.normal(60, 10))
        covariates = {"age": age if n else None, "sex": "FM"[rng.integers(2)]}
        target = "high" if age + rng.normal(0, 2) > 60 else "low"
        split = "test" if n >= 50 else f"fold{n % 5}"
        cases[f"case_{n}"] = {"split": split, "covariates": covariates, "target": target}
    del cases["case_7"]["target"]
    manifest = {"schema": 1, "name": "toy", "layout": "table", "folds": 5, "shards": [], **EMPTY}
    manifest |= {"cases": cases, "covariates": COLUMNS, "targets": ["high", "low"], **changes}
    kept = {key: value for key, value in manifest.items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(kept))
    return folder


def test_covariates_that_tell_the_class_score_above_the_shares(tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert main(["--data", str(write_manifest(tmp_path)), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    found = report["scores"]["out of fold"]
    assert found["cases"] == 49
    assert found["accuracy"] > 0.85 > 0.7 > found["without_covariates"]["accuracy"]
    assert found["cross_entropy"] < found["without_covariates"]["cross_entropy"]
    assert report["scores"]["test"]["cases"] == 10
    high, low = report["kernel"]["age"]
    assert high == pytest.approx(-low)
    assert high > 0.5
    printed = capsys.readouterr().out
    assert "out of fold" in printed
    assert "sex=F" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"covariates": None}, "has no covariates. Prepare it from a table"),
        ({"targets": None}, "has no column of targets"),
    ],
)
def test_a_data_set_that_lacks_something_is_refused(tmp_path, mistake, changes, message):
    assert message in mistake(main, "--data", write_manifest(tmp_path, **changes))


def test_one_fold_is_refused(tmp_path, mistake):
    folder = write_manifest(tmp_path)
    manifest = json.loads((folder / "dataset.json").read_text())
    for case in manifest["cases"].values():
        case["split"] = "fold0"
    (folder / "dataset.json").write_text(json.dumps(manifest))
    assert "has 1 fold(s)" in mistake(main, "--data", folder)
