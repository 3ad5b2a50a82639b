import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import yaml
from PIL import Image

from segkit.config import load_config
from segkit.training.search import parse_search
from segkit.training.search import suggest
from tests.tools.trainings import TINY
from tests.tools.trainings import history
from tests.tools.trainings import wait_for
from tools import tune
from tools.tune import main

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("error:The reported value is ignored")
RATE = "train.learning_rate=log(0.001, 0.1)"


def arguments(data, out, *more, settings=("train.epochs=3",)):
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["--model", "unet", "--data", str(data), "--out", str(out), *sets, *map(str, more)]


@pytest.fixture
def search(phantom_data, tmp_path, fake_tools, monkeypatch):
    """Runs the tool with the fake trainer; returns its exit code."""
    monkeypatch.setattr(tune, "POLL_S", 0.02)

    def call(*more, out="tune", settings=("train.epochs=3",)):
        argv = arguments(phantom_data, tmp_path / out, *more, settings=settings)
        return main(argv, tools=fake_tools.folder)

    return call


def table(folder):
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def rates(folder):
    return [row["train.learning_rate"] for row in table(folder)]


def test_each_trial_is_a_run_and_the_best_one_is_a_config(search, tmp_path, capsys):
    options = ["--search", RATE, "--search", "model.filters=choice(4, 8)", "--trials", 4]
    assert search(*options, "--search", "data.patch_size=choice([32, 32], [64, 64])") == 0
    rows = table(tmp_path / "tune")
    assert [row["trial"] for row in rows] == list("0123")
    for row in rows:
        rate = float(row["train.learning_rate"])
        assert 0.001 <= rate <= 0.1
        assert float(row["dice"]) == pytest.approx(3 * rate)  # the fake's Dice after epoch 3
        run = tmp_path / "tune" / f"trial-000{row['trial']}"
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["train"]["learning_rate"] == rate
        assert config["model"]["filters"] == int(row["model.filters"])
        assert config["data"]["patch_size"] == yaml.safe_load(row["data.patch_size"])
    best = max(rows, key=lambda row: float(row["dice"]))
    config = (tmp_path / "tune" / "best.yaml").read_text()
    assert config == (tmp_path / "tune" / f"trial-000{best['trial']}" / "config.yaml").read_text()
    picture = np.asarray(Image.open(tmp_path / "tune" / "search.png").convert("RGB"))
    assert picture.std() > 10
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    header = next(n for n, line in enumerate(lines) if line.startswith("trial  "))
    assert lines[header + 1].split()[:2] == [best["trial"], f"{float(best['dice']):.4f}"]
    assert "4 trials: 4 complete" in shown
    for run in (tmp_path / "tune").glob("trial-*"):
        shutil.rmtree(run)
    assert search(*options, "--search", "data.patch_size=choice([32, 32], [64, 64])") == 0
    assert (tmp_path / "tune" / "best.yaml").read_text() == config


def draw(folder, stops, seed=0):
    """The learning rates of a study whose Dice is the learning rate, opened anew at each stop."""
    config, found = load_config(ROOT / "configs" / "unet.yaml"), []
    folder.mkdir()
    for trials in stops:
        args = SimpleNamespace(out=folder, trials=trials, seed=seed, pruner="none")
        study = tune.open_study(optuna, args, config, parse_search([RATE]))
        while trial := tune.next_trial(optuna, study, args):
            (rate,) = suggest(trial, parse_search([RATE])).values()
            study.tell(trial, rate)
            found.append(rate)
    return found


def test_the_same_seed_gives_the_same_trials_however_often_it_is_interrupted(tmp_path):
    whole = draw(tmp_path / "whole", [14])
    # The sampler draws without looking ten times, and then learns from what it has seen.
    assert draw(tmp_path / "parts", [2, 11, 12, 14]) == whole
    assert len(set(whole)) == 14
    assert np.mean(whole[10:]) > np.mean(whole[:10])
    assert draw(tmp_path / "other", [2], seed=1) != whole[:2]


GOOD = [0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


def test_a_poor_trial_is_pruned_at_the_epoch_that_shows_it(search, fake_tools, tmp_path):
    plan = {f"trial-{n:04d}": {"dice": GOOD} for n in range(5)}
    # Epoch 1 is warm-up, a quarter of 8. Then the best Dice so far is held against the median of
    # the five at the same epoch: 0 < .2 at epoch 2, though this one trains on to a Dice of .99;
    # .3 >= .2 at epoch 2, but < .5 at epoch 3, where this one waits; .97 is never below, and .9
    # not before the last epoch, where nothing is left to save.
    plan["trial-0005"] = {"dice": [0.0, 0.0, 0.4, 0.4, 0.4, 0.4, 0.4, 0.99]}
    plan["trial-0006"] = {"dice": [0.3] * 8, "stop": 3}
    plan["trial-0007"] = {"dice": [0.0, 0.97, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]}
    plan["trial-0008"] = {"dice": [0.9] * 8}
    fake_tools.plan(**plan)
    assert search("--search", RATE, "--trials", 9, settings=["train.epochs=8"]) == 0
    rows = table(tmp_path / "tune")
    states = ["complete"] * 5 + ["pruned", "pruned", "complete", "complete"]
    assert [row["state"] for row in rows] == states
    assert [int(row["epochs"]) for row in rows[5:]] == [2, 3, 8, 8]
    assert (rows[7]["dice"], rows[7]["best_epoch"]) == ("0.97", "2")
    pid = next(call["pid"] for call in fake_tools.calls() if call["run"] == "trial-0006")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    best = yaml.safe_load((tmp_path / "tune" / "best.yaml").read_text())
    assert str(best["train"]["learning_rate"]) == rows[7]["train.learning_rate"]


@pytest.mark.parametrize(("pruner", "pruned"), [("median", True), ("none", False)])
def test_the_pruner_is_the_one_that_was_asked_for(pruner, pruned, tmp_path):
    args = SimpleNamespace(out=tmp_path, trials=9, seed=0, pruner=pruner)
    config = load_config(ROOT / "configs" / "unet.yaml", ["train.epochs=8"])
    study = tune.open_study(optuna, args, config, parse_search([RATE]))
    for _ in range(5):
        trial = study.ask()
        trial.report(0.5, 2)
        study.tell(trial, 0.5)
    trial = study.ask()
    trial.report(0.4, 1)
    assert not trial.should_prune()  # warm-up, a quarter of 8
    trial.report(0.4, 2)
    assert trial.should_prune() == pruned
    if pruned:  # a kill between that and the note of it: nothing is started again
        nothing = {"tool": None, "devices": None, "lock": None}
        assert tune.train_trial(study, trial, tmp_path / "run", [], **nothing) == "pruned"


def test_a_trial_that_fails_is_noted_and_the_search_goes_on(search, fake_tools, tmp_path, capsys):
    fake_tools.plan(
        **{
            "trial-0000": {"error": "the patch does not fit."},
            "trial-0001": {"crash": "out of memory"},
            "trial-0003": {"kill": 2, "signal": "SIGKILL"},
        }
    )
    assert search("--search", RATE, "--trials", 5) == 0
    rows = table(tmp_path / "tune")
    assert [row["state"] for row in rows] == ["fail", "fail", "complete", "fail", "complete"]
    assert rows[0]["error"] == "the patch does not fit."
    assert rows[1]["error"] == "ValueError: out of memory"
    assert rows[3]["error"] == "it was ended by SIGKILL, often for want of memory."
    shown = capsys.readouterr().out
    log = tmp_path / "tune" / "trial-0000" / "log.txt"
    assert f"trial-0000  failed: the patch does not fit. (see {log})" in shown
    assert "5 trials: 2 complete, 3 fail" in shown


def test_a_search_of_which_nothing_succeeds_stops_after_three(search, fake_tools, capsys):
    fake_tools.plan(**{f"trial-{n:04d}": {"error": "no such disk."} for n in range(9)})
    assert search("--search", RATE, "--trials", 9) == 2
    assert "all of the 3 trials failed, the last with: no such disk." in capsys.readouterr().err
    assert len(fake_tools.calls()) == 3
    fake_tools.plan()
    assert search("--search", RATE, "--trials", 4) == 0  # mended: it goes on


def test_a_trial_stopped_from_outside_goes_on_with_the_same_values(
    search, fake_tools, tmp_path, capsys
):
    fake_tools.plan(**{"trial-0001": {"leave": 2}})
    assert search("--search", RATE, "--trials", 3) == 2
    assert "trial-0001 was stopped from outside" in capsys.readouterr().err
    fake_tools.plan(**{"trial-0001": {"kill": 3, "signal": "SIGTERM"}})
    assert search("--search", RATE, "--trials", 3) == 2
    assert search("--search", RATE, "--trials", 3) == 0
    calls = [(call["run"], call["argv"]) for call in fake_tools.calls()]
    assert [run[-1] for run, _ in calls] == list("01112")
    assert calls[2][1] == calls[3][1] == [*calls[1][1], "--resume"]
    fake_tools.plan()
    assert search("--search", RATE, "--trials", 3, out="whole") == 0
    assert rates(tmp_path / "tune") == rates(tmp_path / "whole")


def test_a_journal_torn_by_a_kill_is_mended(search, tmp_path):
    assert search("--search", RATE, "--trials", 1) == 0
    journal = tmp_path / "tune" / "study.journal"
    whole, lock = journal.read_bytes(), Path(f"{journal}.lock")
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    lock.symlink_to(journal)
    tune.mend(journal)
    assert journal.read_bytes() == whole
    assert not os.path.lexists(lock)
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    assert search("--search", RATE, "--trials", 2) == 0
    assert len(table(tmp_path / "tune")) == 2


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        (["--search", RATE, "--seed", 1], ["train.epochs=3"], "--seed differs"),
        (["--search", RATE, "--pruner", "none"], ["train.epochs=3"], "--pruner differs"),
        (["--search", "train.seed=int(0, 9)"], ["train.epochs=3"], "--search differs"),
        (["--search", RATE], ["train.epochs=4"], "train.epochs differs"),
    ],
)
def test_a_changed_setting_is_refused_by_name(search, capsys, more, settings, message):
    assert search("--search", RATE, "--trials", 1) == 0
    assert search(*more, "--trials", 2, settings=settings) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["train.learning_ratee=log(0.1, 1)"], "Did you mean 'learning_rate'"),
        (["model.filters=float(4, 8)"], "model.filters must be int, got 4.0"),
        (["train.optimizer=choice(adam, sdg)"], "Did you mean 'sgd'"),
        (["train.batch_size=int(0, 4)"], "train.batch_size must be above 0, got 0"),
        ([RATE, "--set", "train.learning_rate=0.1"], "stands in --set and in --search"),
        ([RATE, "--trials", "0"], "--trials must be above 0"),
        ([RATE, "--set", "train.epohcs=1"], "Did you mean 'epochs'"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(more, message, phantom_data, tmp_path, mistake):
    argv = arguments(phantom_data, tmp_path / "tune", "--trials", 3, "--search", *more)
    assert message in mistake(main, *argv)
    assert not (tmp_path / "tune").exists()


def test_without_optuna_one_line_says_what_to_install(phantom_data, tmp_path, mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    argv = arguments(phantom_data, tmp_path / "tune", "--trials", 3, "--search", RATE)
    assert "pip install optuna" in mistake(main, *argv)


def test_a_command_that_cannot_be_parsed_imports_neither_optuna_nor_tensorflow(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tools.tune import main\n"
        "assert main(['--model', 'unet', '--out', 'x', '--trials', '1', '--search', 'a']) == 2\n"
        "assert not {'optuna', 'tensorflow', 'matplotlib'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_trial_at_work(phantom_data, tmp_path):
    out = tmp_path / "tune"
    settings = (*TINY, "train.steps_per_epoch=20", "train.epochs=6")
    argv = arguments(phantom_data, out, "--trials", 1, "--search", RATE, settings=settings)
    tool = [sys.executable, str(ROOT / "tools" / "tune.py")]
    process = subprocess.Popen([*tool, *argv], cwd=tmp_path, stdout=subprocess.PIPE)
    wait_for(lambda: list(out.glob("trial-0000/checkpoints/step-*")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: main(argv) == 0)  # until its training has ended, too
    (row,) = table(out)
    dice = [float(line["validation_dice"]) for line in history(out / "trial-0000")]
    assert row["state"] == "complete"
    assert len(dice) == 6
    assert float(row["dice"]) == max(dice)
    assert (out / "trial-0000" / "model.keras").is_file()
    log = (out / "trial-0000" / "log.txt").read_text()
    assert log.count("$ python") == 2
    assert "Resumed" in log
