"""The benchmark of synthetic pairs without its trainings: what is run, on what, and the sums."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import dpn
from benchmarks import runs
from benchmarks import synthesis
from benchmarks.guessed_labels import write_guessed
from data_prep.layouts import scan_source
from segkit.io.nifti import write_nifti
from segkit.volume import Volume

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
        "cases": {f"c{n}": {"split": f"fold{n % 3}"} for n in range(6)} | {"t": {"split": "test"}},
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
    assert set(configs) == {"alone-seed0", "generator-made-seed0", *names}
    for name, config in configs.items():
        data, arm = config["data"], name != "generator-made-seed0"
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
    row = "| 0.5 | 2000 | 1 | 0.600 | 0.650 | +0.050 (+0.050 to +0.050) |"
    assert f"| made of the labelled cases {row}" in capsys.readouterr().out


def test_unlabelled_images_have_guessed_labels_with_a_generator_and_without(
    stage, tmp_path, monkeypatch, capsys
):
    guessed = []

    def prepare_guessed(out, manifest, source, run, unlabelled):
        guessed.append((run.name, sorted(unlabelled)))
        return out

    monkeypatch.setattr(synthesis, "prepare_guessed", prepare_guessed)
    arms = ("--seeds", "1", "--ratio", "0.2", "--count", "7", "--unlabelled", tmp_path)
    trained = [given for tool, given in stage(*arms) if tool == "train.py"]
    data = {Path(given["--run"]).name: str(given["--data"]) for given in trained}
    ours = str(tmp_path / "out" / "guessed-seed0")
    assert data == {
        "alone-seed0": "data",
        "generator-made-seed0": "data",
        "mixed0.2-made-7-deform1-seed0": "data",
        "generator-made_guessed-seed0": ours,
        "mixed0.2-made_guessed-7-deform1-seed0": "data",
        "guessed0.2-seed0": ours,
    }
    configs = {
        name: yaml.safe_load((tmp_path / "out" / "configs" / f"{name}.yaml").read_text())["data"]
        for name in data
    }
    few = configs["alone-seed0"]["repeats"]
    assert guessed == [("alone-seed0", sorted(few))] * 2
    assert configs["generator-made_guessed-seed0"]["repeats"] == {}
    # Two labelled cases, four times each, and two others: a fifth of what is seen.
    labelled = {"c1", "c2", "c4", "c5"} - set(few)
    assert configs["guessed0.2-seed0"]["repeats"] == dict.fromkeys(sorted(labelled), 4)
    assert "| all themselves, labels guessed | 0.2 | - | - |" in capsys.readouterr().out


def test_the_ceiling_is_trained_on_all_labels(stage, tmp_path, capsys):
    stage("--seeds", "1", "--ceiling")
    config = yaml.safe_load((tmp_path / "out" / "configs" / "ceiling-seed0.yaml").read_text())
    assert config["data"]["repeats"] == {}
    assert config["augment"] == {"policy": "nnunet"}
    assert "synthetic" not in config["data"]
    row = "| all themselves, true labels | - | - | - | 0.600 | 0.600 | +0.000"
    assert row in capsys.readouterr().out


def test_guessed_label_maps_take_the_place_of_those_that_are_not_to_be_used(tmp_path, monkeypatch):
    source, affine = tmp_path / "source", np.diag([1.0, 1.0, 2.0, 1.0])
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
        for case in "ab":
            write_nifti(source / folder / f"{case}.nii.gz", Volume(np.ones((2, 3, 4)), affine))
    pairs = [{"image": f"imagesTr/{c}.nii.gz", "label": f"labelsTr/{c}.nii.gz"} for c in "ab"]
    named = {"modality": {"0": "MRI"}, "labels": {"0": "background", "5": "organ"}}
    (source / "dataset.json").write_text(json.dumps({"name": "x", "training": pairs, **named}))
    found = np.zeros((2, 3, 4), np.uint8)
    found[1, 2, 3] = 1

    def predict_volume(network, volume):
        assert (network, volume.shape) == ("network of run", (2, 3, 4))
        return Volume(found, volume.affine)

    monkeypatch.setattr("segkit.training.run.load_run", lambda folder: folder)
    monkeypatch.setattr("segkit.inference.predictor.predictor_of", "network of {}".format)
    monkeypatch.setattr("segkit.inference.predictor.predict_volume", predict_volume)
    write_guessed(tmp_path / "raw", source, "run", {"b"})
    ours = scan_source("msd", tmp_path / "raw")
    image, label = ours.read(ours.cases[1])
    np.testing.assert_array_equal(label.array, 5 * found)
    np.testing.assert_array_equal(image.array, 1)
    kept = [folder / "labelsTr" / "a.nii.gz" for folder in (source, tmp_path / "raw")]
    assert kept[0].read_bytes() == kept[1].read_bytes()


@pytest.mark.parametrize("ratio", ["0", "1.5"])
def test_a_share_of_nothing_or_of_more_than_all_is_refused(ratio, capsys):
    with pytest.raises(SystemExit):
        synthesis.main(["--data", "data", "--ratio", ratio])
    assert "--ratio must be above 0, and 1 at most" in capsys.readouterr().err


def test_what_is_finished_is_not_done_again(stage, tmp_path):
    assert len(stage("--seeds", "1")) == 6
    assert stage("--seeds", "1") == []
    (tmp_path / "out" / "generator-made-seed0" / "finished").unlink()
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
