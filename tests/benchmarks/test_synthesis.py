"""The benchmark of synthetic pairs without its trainings: what is run, on what, and the sums."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks import dpn
from benchmarks import runs
from benchmarks import synthesis

CONFIG = """
model: {name: unet}
data: {patch_size: [32, 32]}
train: {epochs: 3, steps_per_epoch: 5, batch_size: 4}
"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A data set of six cases, and tools that write what the benchmark reads of real ones.

    Returns a function that runs the benchmark and returns the calls of tools; a segmentation
    scores 0.5, and 0.1 more per unit of ratio.
    """
    calls = []

    def tool(name, *arguments):
        given = dict(zip(arguments[::2], arguments[1::2], strict=False))
        calls.append((name, given))
        folder = Path(given["--run"])
        if name == "train.py":
            folder.mkdir(parents=True, exist_ok=True)
            text = Path(given["--config"]).read_text()
            (folder / "config.yaml").write_text(text)
            rows = [str(n) for n in range(yaml.safe_load(text)["train"]["epochs"])]
            (folder / "history.csv").write_text("\n".join(["epoch", *rows]) + "\n")
        elif name == "evaluate.py":
            config = yaml.safe_load(
                (tmp_path / "out" / "configs" / f"{folder.name}.yaml").read_text()
            )
            dice = 0.5 + 0.1 * config["data"].get("synthetic", {}).get("ratio", 0)
            report = folder / "evaluation" / given["--split"] / "results.json"
            report.parent.mkdir(parents=True)
            cases = {"a": {"dice": [1.0, dice]}, "b": {"dice": [1.0, dice + 0.2]}}
            report.write_text(json.dumps({"per_case": cases}))
        else:
            Path(given["--out"]).mkdir()
            (Path(given["--out"]) / "dataset.json").touch()

    manifest = {
        "folds": 3,
        "cases": {f"c{n}": {"split": f"fold{n % 3}"} for n in range(6)},
    }
    for module in (runs, synthesis):
        monkeypatch.setattr(module, "tool", tool)
    monkeypatch.setattr(synthesis, "load_manifest", lambda folder: manifest)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)

    def start(*arguments):
        calls.clear()
        common = ["--data", "data", "--out", tmp_path / "out", "--config", config]
        options = [*common, "--gan-config", config, "--labels", 2, *arguments]
        synthesis.main([str(option) for option in options])
        return list(calls)

    return start


def test_equal_steps_the_same_few_cases_and_fold_0_in_all_arms(stage, tmp_path):
    calls = stage("--seeds", "1", "--ratio", "0.25", "0.5", "--count", "7", "--epochs", "4")
    tools = [tool for tool, _ in calls]
    made = ["synthesize.py", *["train.py", "evaluate.py"] * 2]
    assert tools == ["train.py", "evaluate.py", "train.py", *made]
    configs = {
        path.stem: yaml.safe_load(path.read_text())
        for path in (tmp_path / "out" / "configs").iterdir()
    }
    names = [f"mixed{ratio}-made-7-deform1-seed0" for ratio in (0.25, 0.5)]
    assert set(configs) == {"alone-seed0", "generator-seed0", *names}
    for name, config in configs.items():
        data, arm = config["data"], name != "generator-seed0"
        assert config["train"]["epochs"] == (4 if arm else 3)
        assert config["train"]["seed"] == data["fold"] == 0
        assert data["patch_size"] == [64, 64]
        assert set(data["repeats"].values()) == {0}
        assert len(data["repeats"]) == 2  # of the four cases of folds 1 and 2 two are left
        assert config.get("augment") == ({"policy": "nnunet"} if arm else None)
    assert len({json.dumps(config["data"]["repeats"]) for config in configs.values()}) == 1
    assert "synthetic" not in configs["alone-seed0"]["data"]
    folder = str(tmp_path / "out" / "made-7-deform1-seed0")
    assert configs[names[1]]["data"]["synthetic"] == {"path": folder, "ratio": 0.5}


def test_the_table_says_with_minus_without(stage, tmp_path, capsys):
    stage("--seeds", "2", "--ratio", "0.25", "0.5")
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["ratio"] for row in rows] == [0.25, 0.5]
    for row, gain in zip(rows, (0.025, 0.05), strict=True):
        assert row["without"] == pytest.approx(0.6)  # (0.5 + 0.7) / 2
        assert row["gain"] == pytest.approx(gain)
        assert row["interval"] == pytest.approx([gain, gain])
    assert (
        "| 0.5 | 2000 | 1 | 0.600 | 0.650 | +0.050 (+0.050 to +0.050) |" in capsys.readouterr().out
    )


def test_what_is_finished_is_not_done_again(stage, tmp_path):
    assert len(stage("--seeds", "1")) == 6
    assert stage("--seeds", "1") == []
    (tmp_path / "out" / "generator-seed0" / "finished").unlink()
    assert [tool for tool, _ in stage("--seeds", "1")] == ["train.py"]
    more = stage("--seeds", "1", "--deform", "0")
    assert [tool for tool, _ in more] == ["synthesize.py", "train.py", "evaluate.py"]


def test_a_stopped_training_is_not_scored(stage, tmp_path, monkeypatch):
    whole = runs.tool

    def stopped(name, *arguments):
        whole(name, *arguments)
        (arguments[1] / "history.csv").write_text("epoch\n0\n")

    monkeypatch.setattr(runs, "tool", stopped)
    with pytest.raises(SystemExit, match="alone-seed0 was stopped. Repeat the command"):
        stage("--seeds", "1")
    assert not (tmp_path / "out" / "alone-seed0" / "finished").exists()


def test_nothing_is_measured_without_data(capsys):
    for module in (synthesis, dpn):
        module.main([])
        assert "nothing measured" in capsys.readouterr().out
