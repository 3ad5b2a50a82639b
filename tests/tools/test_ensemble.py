import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.manifest import load_manifest
from data_prep.manifest import patients_of
from segkit.training import jobs
from segkit.training.ensembles import bootstrap_repeats
from tests.tools.trainings import TINY
from tests.tools.trainings import history
from tests.tools.trainings import wait_for
from tools.ensemble import main

ROOT = Path(__file__).resolve().parents[2]
REGIONS = ["--set", "loss.name=region_ce_dice", "--set", "loss.regions={all: [1, 2], one: [2]}"]
TRAINING = ["fold1", "fold2", "fold3", "fold4"]


@pytest.fixture
def build(phantom_data, tmp_path, fake_tools, make_threshold_model, monkeypatch):
    """Runs the tool with the fake trainer, whose networks are thresholds; returns its code."""
    monkeypatch.setattr(jobs, "POLL_S", 0.02)
    make_threshold_model((32, 32), 1.0).save(fake_tools.folder / "model.keras")

    def call(method, *more, epochs=2):
        argv = ["--method", method, "--model", "unet", "--data", str(phantom_data)]
        argv += ["--out", str(tmp_path / "out"), "--set", f"train.epochs={epochs}"]
        argv += ["--set", "train.learning_rate=0.125", "--set", "train.seed=5"]
        return main([*argv, *map(str, more)], tools=fake_tools.folder)

    return call


def config_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def cases_of(phantom_data):
    manifest = load_manifest(phantom_data)
    return {entry["split"]: case for case, entry in manifest["cases"].items()}


def test_bagging_trains_on_patients_drawn_anew_and_compares(
    build, phantom_data, tmp_path, fake_tools, capsys
):
    held_out = cases_of(phantom_data)["fold0"]
    fake_tools.plan(
        member0={"scores": {held_out: 0.5}},
        member1={"scores": {held_out: 0.7}},
        out={"scores": {held_out: 0.75}},
    )
    assert build("bagging", "--members", 2) == 0
    out, patients = tmp_path / "out", patients_of(load_manifest(phantom_data), TRAINING)
    for number in (0, 1):
        config = config_of(out / f"member{number}")
        assert config["data"]["repeats"] == bootstrap_repeats(patients, 5, number)
        assert config["train"]["seed"] == 5 + number
    # One case: mean member (0.5 + 0.7) / 2, the ensemble 0.15 better.
    results = json.loads((out / "results.json").read_text())
    assert results["mean_member"]["dice"] == pytest.approx(0.6)
    assert results["difference"]["dice"] == pytest.approx(0.15)
    whole = config_of(out)
    about = {"members": ["member0", "member1"], "models": ["unet"]}
    assert whole["model"] == {"name": "ensemble", **about}
    assert whole["data"]["repeats"] == {}
    shown = capsys.readouterr().out
    assert "member1  epoch 2/2  val Dice 0.2500  all members 100%  ETA 0:00:00" in shown
    assert "mean member" in shown

    (fake_tools.folder / "calls.jsonl").unlink()
    assert build("bagging", "--members", 2) == 0
    assert [(c["tool"], c["run"]) for c in fake_tools.calls()] == [("evaluate", "out")]


def test_boosting_repeats_the_cases_that_went_wrong(build, phantom_data, tmp_path, fake_tools):
    case = cases_of(phantom_data)
    dice = dict(zip([case[split] for split in TRAINING], (0.6, 0.8, 1.0, 0.96), strict=True))
    fake_tools.plan(
        member0={"scores": dice},
        member1={"scores": dict.fromkeys(dice, 0.5)},
        member2={"scores": dict.fromkeys(dice, 0.9)},
    )
    assert build("boosting", "--members", 4) == 0
    out = tmp_path / "out"
    # Errors 0.4, 0.2, 0, 0.04, their mean 0.16: half of the cases are wrong. The weights are
    # 1, 1, 1/2, 1/2 over 3/4; in quarters 5.33, 5.33, 2.67, 2.67.
    expected = dict(zip(dice, (5, 5, 3, 3), strict=True))
    assert config_of(out / "member0")["data"]["repeats"] == {}
    assert config_of(out / "member1")["data"]["repeats"] == expected
    # The second is wrong everywhere: it is left out. The third is nowhere: boosting ends.
    assert config_of(out / "member2")["data"]["repeats"] == expected
    results = json.loads((out / "results.json").read_text())
    assert [r["error_rate"] for r in results["rounds"]] == pytest.approx([0.5, 1.0, 0.0])
    assert results["threshold"] == pytest.approx(0.16)
    assert results["weights"] == pytest.approx([np.log(2), np.log(8)])
    assert list(results["members"]) == ["member0", "member2"]
    assert not (out / "member3").exists()


def test_a_member_that_fails_leaves_the_others_and_is_tried_again(build, fake_tools, capsys):
    fake_tools.plan(member0={"error": "the disk is full."})
    assert build("bagging", "--members", 2) == 2
    shown = capsys.readouterr()
    assert "member0  failed: the disk is full. (see" in shown.out
    assert "member1  is finished." in shown.out
    assert "error: member0 failed; the reasons stand above." in shown.err
    fake_tools.plan()
    assert build("bagging", "--members", 2, epochs=3) == 2
    assert "train.epochs differs" in capsys.readouterr().err
    assert build("bagging", "--members", 2) == 0


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("bagging", ["--members", "1"], "--members must be at least 2, got 1"),
        ("bagging", ["--jobs", "0"], "--jobs must be at least 1"),
        ("boosting", ["--jobs", "2"], "each member needs the one before it"),
        ("bagging", ["--model", "unet", "fcn8s"], "bagging takes one --model, got unet, fcn8s"),
        ("bagging", ["--set", "data.fold=7"], "data.fold must be below 5"),
        ("bagging", ["--set", "data.repeats={a: 2}"], "data.repeats is set by the ensemble"),
        ("bagging", REGIONS, "learns overlapping regions"),
        ("bagging", ["--model", "unett"], "Did you mean 'unet'"),
        ("stacking", ["--members", "3"], "every fold is a member"),
        ("stacking", ["--set", "data.fold=1"], "--set data.fold does not go with stacking"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(
    method, more, message, phantom_data, tmp_path, mistake
):
    argv = ["--method", method, "--out", tmp_path / "out", "--data", phantom_data, *more]
    argv += [] if "--model" in more else ["--model", "unet"]
    assert message in mistake(main, *argv)
    assert not (tmp_path / "out").exists()


def test_stack_needs_its_method_and_nothing_else(tmp_path, mistake):
    stack = ["--stack", tmp_path / "cv", "--out", tmp_path / "out"]
    assert "--stack does not go with bagging" in mistake(main, "--method", "bagging", *stack)
    more = ["--method", "stacking", *stack, "--set", "train.epochs=3"]
    assert "Drop --data and --set" in mistake(main, *more)


@pytest.fixture(scope="module")
def validations(labelled_mr_run, make_threshold_model, tmp_path_factory):
    """Cross-validations of a threshold that is right and of one that finds lesion everywhere."""
    root = tmp_path_factory.mktemp("validations")
    for name, threshold in {"good": 1.4, "poor": -3.0}.items():
        for fold in range(3):
            folder = root / name / f"fold{fold}"
            shutil.copytree(labelled_mr_run.folder, folder)
            config = config_of(folder)
            config["data"]["fold"] = fold
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            (folder / "history.csv").write_text("epoch,validation_dice\n1,0.5\n")
            make_threshold_model((8, 16, 16), threshold).save(folder / "model.keras")
    return root


@pytest.fixture(scope="module")
def stacked(validations, tmp_path_factory):
    out = tmp_path_factory.mktemp("stacked") / "stack"
    folders = [str(validations / name) for name in ("poor", "good")]
    assert main(["--method", "stacking", "--stack", *folders, "--out", str(out)]) == 0
    return out


def test_stacking_finds_the_member_that_is_right(stacked):
    results = json.loads((stacked / "results.json").read_text())
    poor, good, mean, stack = results["cross_entropy"].values()
    assert stack < good < mean < poor
    # Log odds of lesion per log odds of a base, in the model x * kernel.
    weights = [
        np.trace(part) - np.fliplr(part).trace()
        for part in np.split(np.array(results["kernel"]), 2)
    ]
    assert weights[1] > 3 * abs(weights[0])


def test_a_stack_is_a_run_to_predict_with_and_to_export(
    stacked, labelled_mr_run, tmp_path, mistake
):
    from segkit.io import read_label
    from tools.evaluate import main as evaluate
    from tools.export import main as export
    from tools.predict import main as predict

    image = labelled_mr_run.source / "imagesTr" / "case_1_0000.nii.gz"
    argv = ["--run", stacked, "--input", image, "--output", tmp_path / "mask.nii.gz"]
    assert predict([str(a) for a in argv]) == 0
    mask = read_label(tmp_path / "mask.nii.gz").array == 7
    truth = read_label(labelled_mr_run.source / "labelsTr" / "case_1.nii.gz").array == 7
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
    assert export(["--run", str(stacked), "--check", "1", "--out", str(tmp_path / "saved")]) == 0
    assert (tmp_path / "saved" / "1" / "saved_model.pb").exists()
    # Every case was in the training of a member: none is scored as if it were held out.
    assert "no case of" in mistake(evaluate, "--run", stacked)


def test_a_stack_on_data_prepared_anew_is_refused(validations, tmp_path, mistake):
    shutil.copytree(validations / "good", tmp_path / "cv")
    for path in tmp_path.glob("cv/fold*/dataset.json"):
        manifest = json.loads(path.read_text())
        manifest["shards"][0]["sha256"] = "0" * 64
        path.write_text(json.dumps(manifest))
    argv = ["--method", "stacking", "--stack", tmp_path / "cv", "--out", tmp_path / "out"]
    assert "was prepared anew since" in mistake(main, *argv)
    assert not (tmp_path / "out" / "model.keras").exists()


def test_a_mean_of_members_is_a_run_to_evaluate(mr_run, make_threshold_model, tmp_path):
    from segkit.models.ensemble import average
    from tools.evaluate import main as evaluate

    shutil.copytree(mr_run.folder, tmp_path / "run")
    members = [make_threshold_model((8, 16, 16), threshold) for threshold in (1.2, 1.5, 1.4)]
    average(members).save(tmp_path / "run" / "model.keras")
    assert evaluate(["--run", str(tmp_path / "run"), "--split", "fold1", "--devices", "cpu"]) == 0
    results = json.loads((tmp_path / "run/evaluation/fold1/results.json").read_text())
    assert results["cases"] == 2
    assert max(scores["dice"][1] for scores in results["per_case"].values()) > 0.9


def test_folds_that_are_missing_or_do_not_fit_are_named(validations, tmp_path, mistake):
    def stack(name):
        folders = [validations / "good", tmp_path / name]
        return mistake(main, "--method", "stacking", "--stack", *folders, "--out", tmp_path / "o")

    shutil.copytree(validations / "good", tmp_path / "short")
    shutil.rmtree(tmp_path / "short" / "fold2")
    assert f"{tmp_path / 'short' / 'fold2'} is not trained to its end" in stack("short")
    shutil.copytree(validations / "good", tmp_path / "other")
    path = tmp_path / "other" / "fold1" / "dataset.json"
    manifest = json.loads(path.read_text())
    manifest["preprocess"]["spacing_mm"] = [3.0, 1.0, 1.0]
    path.write_text(json.dumps(manifest))
    assert "do not fit each other: preprocess differs" in stack("other")
    shutil.copytree(validations / "good", tmp_path / "same")
    shutil.rmtree(tmp_path / "same" / "fold1")
    shutil.copytree(tmp_path / "same" / "fold0", tmp_path / "same" / "fold1")
    assert "holds out another fold than 1" in stack("same")


@pytest.mark.slow
def test_a_killed_ensemble_goes_on_where_it_was(phantom_data, tmp_path):
    out = tmp_path / "bag"
    settings = (*TINY, "train.steps_per_epoch=10", "train.epochs=3")
    argv = ["--method", "bagging", "--model", "unet", "--data", str(phantom_data)]
    argv += ["--out", str(out), "--members", "2", "--jobs", "2", "--devices", "cpu"]
    argv += [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, str(ROOT / "tools" / "ensemble.py"), *argv]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE)
    wait_for(lambda: list(out.glob("member0/checkpoints/step-*")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # The training ends itself when its parent is gone, and with it the lock.
    wait_for(lambda: main(argv) == 0)
    assert "Resumed" in (out / "member0" / "log.txt").read_text()
    results = json.loads((out / "results.json").read_text())
    for number in (0, 1):
        assert [row["epoch"] for row in history(out / f"member{number}")] == list("123")
        own = json.loads((out / f"member{number}/evaluation/fold0/results.json").read_text())
        dice = results["members"][f"member{number}"]["dice"]
        assert dice == pytest.approx(own["mean_foreground_dice"])
    assert os.path.getsize(out / "model.keras") > os.path.getsize(out / "member0" / "model.keras")
