import json

import pytest

from benchmarks import equal_budget
from benchmarks.cpu_budget import Spent

SCORES = {"mean_foreground_dice": 0.75, "mean_foreground_dice_interval": [0.5, 0.9]}


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Calls the script with trainings that cost nothing; returns what they were asked for."""
    asked = []

    def train_for(minutes, folder, arguments, settings):
        asked.append((minutes, arguments, settings))
        run = folder / "run"
        place = run / "evaluation" / "fold1"
        place.mkdir(parents=True)
        finds_objects = "mask_rcnn" in arguments[1]
        report = {"groups": {}, "semantic": SCORES} if finds_objects else SCORES
        (place / "results.json").write_text(json.dumps(report))
        (run / "config.yaml").write_text("data: {patch_size: [64, 32]}")
        return Spent(200, 0.5, 120.0)

    monkeypatch.setattr(equal_budget, "train_for", train_for)
    monkeypatch.setattr(equal_budget, "tool", lambda *arguments: 0.0)
    monkeypatch.setattr(equal_budget, "parameters", lambda run: 12345)

    def call(*models):
        argv = ["--data", "d", "--out", str(tmp_path), "--fold", "1", "--cpu-minutes", "2"]
        equal_budget.main([*argv, "--set", "train.seed=3", "--models", *models])
        return asked

    return call


def test_each_model_has_a_row_and_is_trained_once(trained, capsys):
    asked = trained("fcn8s", "mask_rcnn_hippocampus")
    assert asked[0][1:] == (
        ("--model", "fcn8s", "--data", "d"),
        ["data.patch_size=[64,64]", "train.seed=3", "data.fold=1"],
    )
    assert asked[1][2] == ["train.seed=3", "data.fold=1"]
    lines = capsys.readouterr().out.splitlines()
    row = "| 64 x 32 | 12,345 | 200 | 2.0 min | 0.750 (0.500-0.900) |"
    assert [line for line in lines if row in line] == [
        f"| `fcn8s` {row}",
        f"| `mask_rcnn_hippocampus` {row}",  # the classes that its objects paint
    ]
    assert len(trained("fcn8s")) == 2


def test_without_data_nothing_is_measured(capsys):
    equal_budget.main([])
    assert "nothing measured" in capsys.readouterr().out
