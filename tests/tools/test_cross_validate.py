import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segkit.training import jobs
from tests.tools.trainings import TINY
from tests.tools.trainings import history
from tests.tools.trainings import wait_for
from tools.cross_validate import main

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = ("train.epochs=3", "train.learning_rate=0.125")


def arguments(data, out, *more, settings=EPOCHS):
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["--model", "unet", "--data", str(data), "--out", str(out), *sets, *map(str, more)]


@pytest.fixture
def validate(phantom_data, tmp_path, fake_tools, monkeypatch):
    """Runs the tool with the fake trainer; returns its exit code."""
    monkeypatch.setattr(jobs, "POLL_S", 0.02)

    def call(*more, settings=EPOCHS):
        argv = arguments(phantom_data, tmp_path / "cv", *more, settings=settings)
        return main(argv, tools=fake_tools.folder)

    return call


def trained(fake_tools):
    return [
        (call["run"], "--resume" in call["argv"])
        for call in fake_tools.calls()
        if call["tool"] == "train"
    ]


def test_every_fold_is_a_run_and_every_case_is_scored_once(validate, tmp_path, capsys):
    assert validate() == 0
    out = tmp_path / "cv"
    for fold in range(5):
        config = yaml.safe_load((out / f"fold{fold}" / "config.yaml").read_text())
        assert config["data"]["fold"] == fold
        assert "train.py" in (out / f"fold{fold}" / "log.txt").read_text()
    results = json.loads((out / "results.json").read_text())
    assert {case: entry["fold"] for case, entry in results["per_case"].items()} == {
        f"case-{n}": n for n in range(5)
    }
    # Dice of the folds 1, .9, .8, .7, .6: mean .8, squared deviations .04 + .01 + 0 + .01 + .04.
    assert results["mean_foreground_dice"] == pytest.approx(0.8)
    assert results["mean_foreground_dice_sd"] == pytest.approx((0.1 / 4) ** 0.5)
    assert results["classes"][1]["iou_sd"] == pytest.approx((0.1 / 4) ** 0.5)
    with open(out / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["case"]) for row in rows] == [(str(n), f"case-{n}") for n in range(5)]
    assert np.asarray(Image.open(out / "summary.png").convert("RGB")).std() > 10
    shown = capsys.readouterr().out
    assert "fold4  epoch 3/3  val Dice 0.3750  all folds 100%  ETA 0:00:00" in shown
    assert "no patient is in two folds" in shown
    line = next(x for x in shown.splitlines() if x.startswith("mean foreground"))
    assert line.split()[2:8] == ["1.000", "0.900", "0.800", "0.700", "0.600", "0.800"]


def test_repeating_the_command_trains_nothing_and_gives_the_same_results(
    validate, fake_tools, tmp_path, capsys
):
    assert validate("--folds", 0, 3) == 0
    before, count = (tmp_path / "cv" / "results.json").read_bytes(), len(fake_tools.calls())
    assert validate("--folds", 0, 3) == 0
    assert len(fake_tools.calls()) == count
    assert (tmp_path / "cv" / "results.json").read_bytes() == before
    assert "fold3  is finished. Mean foreground Dice 0.7000." in capsys.readouterr().out


def test_folds_trained_at_different_times_are_reported_together(validate, tmp_path):
    assert validate("--folds", 1) == 0
    one = json.loads((tmp_path / "cv" / "results.json").read_text())
    assert one["mean_foreground_dice_sd"] is None
    assert one["mean_foreground_dice_interval"] == [None, None]
    assert validate("--folds", 2, 2) == 0
    assert json.loads((tmp_path / "cv" / "results.json").read_text())["folds"] == [1, 2]


def test_a_fold_that_fails_is_told_in_one_line_and_leaves_the_others_alone(
    validate, fake_tools, tmp_path, capsys
):
    fake_tools.plan(
        fold0={"error": "the disk is full."},
        fold1={"crash": "no such layer"},
        fold2={"kill": 2, "signal": "SIGKILL"},
        fold3={"unscored": "no label."},
    )
    assert validate() == 2
    shown = capsys.readouterr()
    for line in (
        f"fold0  failed: the disk is full. (see {tmp_path / 'cv' / 'fold0' / 'log.txt'})",
        "fold1  failed: ValueError: no such layer (see",
        "fold2  failed: it was ended by SIGKILL, often for want of memory. (see",
        "fold3  failed: no label. (see",
        "fold4  is finished.",
    ):
        assert line in shown.out
    assert "error: 4 of 5 folds failed: fold0, fold1, fold2, fold3;" in shown.err
    assert shown.err.count("\n") == 1
    assert json.loads((tmp_path / "cv" / "results.json").read_text())["folds"] == [4]

    fake_tools.plan()
    (fake_tools.folder / "calls.jsonl").unlink()
    assert validate() == 0
    # 0 and 1 made no checkpoint; 2 has two, 3 was trained to its end.
    assert trained(fake_tools) == [
        ("fold0", False),
        ("fold1", False),
        ("fold2", True),
        ("fold3", True),
    ]
    assert json.loads((tmp_path / "cv" / "results.json").read_text())["folds"] == [0, 1, 2, 3, 4]


def test_a_training_that_was_stopped_from_outside_is_not_scored(validate, fake_tools, capsys):
    # Both ways to leave on SIGTERM: at once, and with code 0 after saving.
    fake_tools.plan(fold0={"kill": 1, "signal": "SIGTERM"}, fold1={"leave": 2})
    assert validate("--folds", 0, 1) == 2
    shown = capsys.readouterr().out
    assert "fold0  failed: it was ended by SIGTERM." in shown
    assert "fold1  failed: its training was stopped from outside before the last epoch." in shown
    assert [call["tool"] for call in fake_tools.calls()] == ["train", "train"]


def test_what_a_void_attempt_told_is_not_shown(validate, tmp_path, capsys):
    for fold in (0, 1):
        folder = tmp_path / "cv" / f"fold{fold}"
        folder.mkdir(parents=True)
        (folder / "history.csv").write_text("epoch,validation_dice\n1,0.9\n2,0.95\n")
    assert validate("--folds", 0, 1) == 0
    assert "val Dice 0.9" not in capsys.readouterr().out


def test_a_training_that_stopped_early_is_finished(validate, fake_tools):
    settings = ["train.epochs=9", "train.early_stopping=2"]
    fake_tools.plan(fold0={"dice": [0.2, 0.6, 0.5, 0.6], "leave": 4})
    assert validate("--folds", 0, settings=settings) == 0


def test_an_evaluation_older_than_the_training_is_made_again(validate, fake_tools, tmp_path):
    assert validate("--folds", 0) == 0
    history = tmp_path / "cv" / "fold0" / "history.csv"
    later = (tmp_path / "cv/fold0/evaluation/fold0/results.json").stat().st_mtime + 5
    os.utime(history, (later, later))
    assert validate("--folds", 0) == 0
    assert [call["tool"] for call in fake_tools.calls()] == ["train", "evaluate"] * 2


def test_a_changed_setting_is_refused_by_name(validate, fake_tools, capsys):
    fake_tools.plan(fold2={"kill": 2, "signal": "SIGKILL"})
    assert validate("--folds", 2) == 2
    capsys.readouterr()
    assert validate("--folds", 1, settings=["train.epochs=4", EPOCHS[1]]) == 2
    assert "fold2: train.epochs differs" in capsys.readouterr().err
    assert trained(fake_tools) == [("fold2", False)]


def test_data_prepared_anew_is_refused(validate, tmp_path, capsys):
    assert validate("--folds", 0) == 0
    path = tmp_path / "cv" / "fold0" / "dataset.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "name": "other"}))
    assert validate() == 2
    assert "was prepared anew" in capsys.readouterr().err


def test_jobs_run_at_once_share_out_the_gpus_and_end_on_sigterm(
    validate, fake_tools, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    fake_tools.plan(fold0={"stop": 1})  # waits for a minute
    last = tmp_path / "cv" / "fold2" / "evaluation" / "fold2" / "results.json"

    def stop():
        wait_for(last.exists, seconds=40)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert validate("--folds", 0, 1, 2, "--jobs", 2, "--devices", "gpu:2") == 130
    assert "Repeat the command to go on" in capsys.readouterr().err
    trainings = {c["run"]: c for c in fake_tools.calls() if c["tool"] == "train"}
    assert [trainings[f"fold{n}"]["gpus"] for n in range(3)] == ["4,5", "6,7", "6,7"]
    assert "gpu:2" in trainings["fold0"]["argv"]
    with pytest.raises(ProcessLookupError):
        os.kill(trainings["fold0"]["pid"], 0)
    assert validate("--folds", 0, 1, 2) == 0
    assert trained(fake_tools)[3:] == [("fold0", True)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "5"], "--folds must be from 0 to 4"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--set", "data.fold=1"], "Use --folds"),
        (["--set", "train.epohcs=1"], "Did you mean 'epochs'"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(more, message, phantom_data, tmp_path, mistake):
    assert message in mistake(main, *arguments(phantom_data, tmp_path / "cv", *more))
    assert not (tmp_path / "cv").exists()


def command(*argv):
    return [sys.executable, str(ROOT / "tools" / "cross_validate.py"), *argv]


@pytest.mark.slow
def test_a_killed_cross_validation_goes_on_where_it_was(phantom_data, tmp_path, capsys):
    out = tmp_path / "cv"
    settings = (*TINY, "train.steps_per_epoch=20", "train.epochs=6")
    argv = arguments(phantom_data, out, "--folds", 0, 1, "--devices", "cpu", settings=settings)
    process = subprocess.Popen(command(*argv), cwd=tmp_path, stdout=subprocess.PIPE)
    wait_for(lambda: list(out.glob("fold0/checkpoints/step-*")))
    assert main(argv) == 2
    assert f"is in use by process {process.pid}" in capsys.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # The training ends itself when its parent is gone, and with it the lock.
    wait_for(
        lambda: (
            main([*argv, "--set", "train.seed=1"]) == 2
            and "seed differs" in capsys.readouterr().err
        )
    )
    assert main(argv) == 0
    assert "Resumed" in (out / "fold0" / "log.txt").read_text()
    assert [row["epoch"] for row in history(out / "fold0")] == list("123456")
    results = json.loads((out / "results.json").read_text())
    cases = {"fold0": "ct-0003", "fold1": "ct-0004"}
    assert list(results["per_case"]) == list(cases.values())
    for fold, case in cases.items():
        own = json.loads((out / fold / "evaluation" / fold / "results.json").read_text())
        assert own["per_case"][case]["dice"] == results["per_case"][case]["dice"]
        assert results["per_fold"][fold]["mean_foreground_dice"] == own["mean_foreground_dice"]
