"""From a table to a mask: covariates, classes of cases and missing channels through all tools."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import scan_source
from segkit.config import Component
from segkit.covariates import encode
from segkit.io import read_label
from segkit.io.nifti import write_nifti
from segkit.models.ensemble import average
from segkit.training.run import create_run
from segkit.training.run import load_run
from segkit.training.run import save_model
from segkit.volume import Volume
from tools import evaluate
from tools import export
from tools import predict
from tools import train

SHAPE = (3, 20, 18)
COLUMNS = ("image_T1", "image_FLAIR", "label", "split", "age", "sex", "target")
TINY = (
    "model.filters=4",
    "model.downsamplings=1",
    "data.patch_size=[16, 16]",
    "augment.policy=none",
    "train.epochs=1",
    "train.steps_per_epoch=2",
    "train.batch_size=4",
    "train.validation_batches=1",
)


def write_table(folder):
    """Six cases; the label is where both channels are bright, and case 1 lacks FLAIR."""
    rng, rows = np.random.default_rng(0), []
    for n in range(6):
        images = rng.normal(100, 30, (2, *SHAPE)).astype(np.float32)
        label = (images.min(axis=0) > 100).astype(np.uint8)
        files = [f"{n}_t1.nii.gz", f"{n}_flair.nii.gz", f"{n}_seg.nii.gz"]
        for name, array in zip(files, (*images, label), strict=True):
            write_nifti(folder / name, Volume(array, np.diag([2.0, 1.0, 1.0, 1.0])))
        if n == 1:
            files[1] = ""
        age = "" if n == 2 else str(40 + 5 * n)
        rows.append([*files, "test" if n == 5 else "train", age, "FM"[n % 2], "ab"[n // 3]])
    with open(folder / "cases.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder / "cases.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Folders `raw` and `data`, and the arguments of a training on them."""
    raw, data = (tmp_path_factory.mktemp("table") for _ in range(2))
    source = write_table(raw)
    options = Options(layout="table", folds=2, spacing_mm="keep")
    convert(scan_source("table", source), data, source=source, options=options)

    def arguments(run, *settings):
        sets = [part for one in (*TINY, *settings) for part in ("--set", one)]
        return ["--model", "fusion_unet", "--data", data, "--run", run, "--no-evaluate", *sets]

    return SimpleNamespace(raw=raw, data=data, arguments=arguments)


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    """A run with covariates and classes of cases."""
    run = tmp_path_factory.mktemp("runs") / "run"
    # age, age missing, sex=F, sex=M; targets a and b
    options = ("model.covariates=4", "model.case_classes=2", "train.accumulation_steps=2")
    assert train.main([str(a) for a in table.arguments(run, *options)]) == 0
    return run


def test_training_minimises_the_loss_of_voxels_and_of_cases(trained):
    with open(trained / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    terms = [float(row[f"train_loss/{name}"]) for name in ("cross_entropy", "dice", "case")]
    assert float(row["train_loss"]) == pytest.approx(sum(terms), rel=1e-4)
    assert terms[-1] > 0
    model = load_run(trained).model
    assert model.input["covariates"].shape == (None, 4)
    assert set(model.output) == {"logits", "case_logits"}


def test_evaluate_scores_the_classes_of_cases_with_the_covariates_of_each(trained):
    assert evaluate.main(["--run", str(trained), "--split", "test", "--devices", "cpu"]) == 0
    report = json.loads((trained / "evaluation" / "test" / "results.json").read_text())
    (found,) = (scores["case_class"] for scores in report["per_case"].values())
    assert found["target"] == "b"
    assert sum(found["probabilities"]) == pytest.approx(1)
    assert report["case_accuracy"] == float(found["predicted"] == "b")


def run_predict(table, run, output, *more, inputs=("0_t1", "0_flair")):
    named = [part for name in inputs for part in ("--input", table.raw / f"{name}.nii.gz")]
    arguments = ["--run", run, *named, "--output", output, "--devices", "cpu", *more]
    return [str(a) for a in arguments]


def test_covariates_may_be_written_or_come_from_a_file(table, trained, tmp_path, capsys):
    text = run_predict(table, trained, tmp_path / "a.nii.gz", "--covariates", "age=40,sex=F")
    assert predict.main(text) == 0
    (tmp_path / "c.csv").write_text("name,sex,age\nx,F,40\n")
    file = run_predict(table, trained, tmp_path / "b.nii.gz", "--covariates", tmp_path / "c.csv")
    assert predict.main(file) == 0
    other = run_predict(table, trained, tmp_path / "c.nii.gz", "--covariates", "sex=M")
    capsys.readouterr()
    assert predict.main(other) == 0
    captured = capsys.readouterr()
    assert "note: not known, taken as missing: age" in captured.err
    assert "class of the case a: 0." in captured.out
    reports = [json.loads((tmp_path / f"{n}.json").read_text())["case_classes"] for n in "abc"]
    assert reports[0] == reports[1] != reports[2]
    assert sum(reports[0].values()) == pytest.approx(1)


def test_a_missing_channel_is_one_of_zeros(table, trained, tmp_path):
    known = ("--covariates", "age=40,sex=F")
    write_nifti(
        tmp_path / "zeros.nii.gz", Volume(np.zeros(SHAPE, np.float32), np.diag([2.0, 1, 1, 1]))
    )
    without = ["--missing", "FLAIR", *known]
    output = tmp_path / "a.nii.gz"
    assert predict.main(run_predict(table, trained, output, *without, inputs=["0_t1"])) == 0
    assert json.loads((tmp_path / "a.json").read_text())["missing_channels"] == ["FLAIR"]
    zeros = ["--input", tmp_path / "zeros.nii.gz", *known]
    output = tmp_path / "b.nii.gz"
    assert predict.main(run_predict(table, trained, output, *zeros, inputs=["0_t1"])) == 0
    masks = [read_label(tmp_path / f"{name}.nii.gz").array for name in "ab"]
    np.testing.assert_array_equal(*masks)


def test_the_export_takes_encoded_covariates(trained, tmp_path):
    assert export.main(["--run", str(trained), "--out", str(tmp_path), "--check", "1"]) == 0
    card = json.loads((tmp_path / "1" / "assets" / "segkit.json").read_text())
    signature = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    image = tf.random.stateless_normal((2, 20, 18, 2), [0, 0])
    found = [
        signature(
            image=image,
            spacing_mm=tf.constant([2.0, 1.0, 1.0]),
            covariates=tf.constant(encode(card["covariates"], {"age": age, "sex": "F"})),
        )["probabilities"].numpy()
        for age in (40, 80)
    ]
    assert found[0].shape == (2, 20, 18, 2)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_an_ensemble_of_networks_with_covariates_is_exported_and_scored(trained, tmp_path):
    run = load_run(trained)
    config = replace(run.config, model=Component("ensemble", {"members": ["one"]}))
    create_run(tmp_path / "ensemble", config, run.manifest)
    save_model(average([run.model]), tmp_path / "ensemble" / "model.keras")
    folder = ["--run", str(tmp_path / "ensemble")]
    assert export.main([*folder, "--out", str(tmp_path / "model"), "--check", "1"]) == 0
    card = json.loads((tmp_path / "model" / "1" / "assets" / "segkit.json").read_text())
    assert card["covariates"] == run.manifest["covariates"]
    assert evaluate.main([*folder, "--split", "test", "--devices", "cpu"]) == 0
    report = tmp_path / "ensemble" / "evaluation" / "test" / "results.json"
    (scores,) = json.loads(report.read_text())["per_case"].values()
    assert scores["dice"][0] > 0
    assert "case_class" not in scores  # ensembles give masks only


def test_wrong_covariates_are_one_line(table, trained, tmp_path, mistake):
    def refusal(*more):
        return mistake(predict.main, *run_predict(table, trained, tmp_path / "m.nii.gz", *more))

    assert "the run takes the covariates age, sex. Give --covariates" in refusal()
    assert "'sex' cannot be 'X'" in refusal("--covariates", "sex=X")
    assert "'age' must be a number, got 'old'" in refusal("--covariates", "age=old")
    assert "unknown covariate 'weight'" in refusal("--covariates", "weight=3")
    assert "must be like age=63,sex=F" in refusal("--covariates", "63")
    assert "cannot read" in refusal("--covariates", tmp_path / "no.csv")
    (tmp_path / "two.csv").write_text("age,sex\n1,F\n2,F\n")
    assert "must have one row" in refusal("--covariates", tmp_path / "two.csv")
    assert "'FLAR' is no channel of the run. Did you mean 'FLAIR'" in refusal("--missing", "FLAR")
    assert "takes 1 channel(s) (T1), --input has 2" in refusal("--missing", "FLAIR")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.covariates=3"], "the data set has 4 (age, age missing, sex=F, sex=M). Set model"),
        (["model.case_classes=3"], "the data set has 2 (a, b). Set model.case_classes=2"),
        (["model.covariates=4", "augment.policy=[{cutmix: {}}]"], "cutmix mixes cases"),
    ],
)
def test_training_refuses_what_does_not_fit_the_table(table, tmp_path, mistake, settings, message):
    assert message in mistake(train.main, *table.arguments(tmp_path / "run", *settings))


def test_a_data_set_without_a_table_has_no_covariates(phantom_data, tmp_path, mistake):
    sets = [part for one in (*TINY, "model.covariates=2") for part in ("--set", one)]
    arguments = ["--model", "fusion_unet", "--data", phantom_data, "--run", tmp_path / "r", *sets]
    assert "the data set has 0 (none). Prepare it from a table" in mistake(train.main, *arguments)
