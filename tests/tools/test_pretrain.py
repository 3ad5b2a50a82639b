import csv
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow  # noqa: F401 - seen by conftest, which then gives it two devices
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.manifest import load_manifest
from data_prep.splits import hold_out
from segkit.errors import DataError
from segkit.volume import Volume
from tests.tools.trainings import TINY
from tests.tools.trainings import history
from tests.training.test_stop_and_go import state
from tools import evaluate
from tools import pretrain
from tools import train


def arguments(data, run, *more, settings=(), model="dpn"):
    sets = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    return ["--model", model, "--data", str(data), "--run", str(run), *sets, *more]


def masked(data, run, *more, settings=("train.epochs=2",)):
    return pretrain.main(arguments(data, run, "--pretext", "masked", *more, settings=settings))


@pytest.fixture(scope="module")
def finished(phantom_data, tmp_path_factory):
    """A pre-training with fold 0 left out, from a copy of the data that lacks that fold."""
    root = tmp_path_factory.mktemp("pretrained")
    data = shutil.copytree(phantom_data, root / "data")
    for shard in data.glob("fold0-*.tfrecord"):
        shard.unlink()
    assert masked(data, root / "pre") == 0
    return SimpleNamespace(folder=root / "pre", data=data)


def test_it_reads_the_other_folds_and_writes_a_run_folder(finished):
    for name in ("config.yaml", "dataset.json", "environment.json", "model.keras", "history.csv"):
        assert (finished.folder / name).is_file()
    config = yaml.safe_load((finished.folder / "config.yaml").read_text())
    assert config["pretext"] == {"name": "masked"}
    assert config["loss"] == {"name": "squared_error"}
    assert config["data"]["foreground_fraction"] == 0
    rows = history(finished.folder)
    assert len(rows) == 2
    assert float(rows[1]["validation_loss"]) < float(rows[0]["validation_loss"])
    assert float(rows[1]["validation_r2"]) > float(rows[0]["validation_r2"])
    log = EventAccumulator(str(finished.folder / "logs/validation"), {"tensors": 0}).Reload()
    wanted = {f"input_target_output/{n}" for n in range(4)} | {"loss", "r2"}
    assert wanted <= set(log.Tags()["tensors"])
    assert len(log.Tensors("input_target_output/0")) == 2


def test_replicas_and_placement_change_nothing(phantom_data, finished, tmp_path):
    settings = ("train.epochs=2", "augment.placement=device")
    assert masked(phantom_data, tmp_path / "two", "--devices", "cpu:2", settings=settings) == 0
    for column in ("train_loss", "train_r2", "validation_loss"):
        one, two = (
            [float(r[column]) for r in history(f)] for f in (finished.folder, tmp_path / "two")
        )
        np.testing.assert_allclose(two, one, rtol=1e-4, err_msg=column)


def test_it_resumes_to_the_bit(phantom_data, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert masked(phantom_data, run) == 0
    shutil.copytree(run, whole)
    shutil.rmtree(sorted((run / "checkpoints").glob("step-*"))[-1])
    assert masked(phantom_data, run, "--resume") == 0
    assert state(run) == state(whole)


def test_training_starts_from_its_weights_but_not_to_validate_on_what_they_have_seen(
    phantom_data, finished, tmp_path, mistake, capsys
):
    settings = ["train.epochs=1", f"train.initial_weights={finished.folder}"]
    argv = arguments(
        phantom_data, tmp_path / "run", "--no-evaluate", settings=settings, model="unet"
    )
    assert train.main(argv) == 0
    assert "new (not there) 2: logits/kernel, logits/bias" in capsys.readouterr().out
    with open(tmp_path / "run" / "transfer.csv", newline="") as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert sorted(set(statuses)) == ["new", "transferred", "unused"]
    line = mistake(train.main, *argv, "--run", tmp_path / "other", "--set", "data.fold=1")
    assert "was trained on 1 cases of fold1, such as ct-000" in line
    assert not (tmp_path / "other").exists()
    asked = shutil.copytree(finished.folder, tmp_path / "asked")
    config = yaml.safe_load((asked / "config.yaml").read_text())
    config["data"]["splits"] = ["fold1", "fold2"]
    (asked / "config.yaml").write_text(yaml.safe_dump(config))
    argv += ["--run", str(tmp_path / "fine"), "--set", f"train.initial_weights={asked}"]
    assert train.main([*argv, "--set", "data.fold=1"]) == 0


def test_a_pretraining_is_not_evaluated(finished, mistake):
    assert "is a pre-training (masked)" in mistake(evaluate.main, "--run", finished.folder)


def test_images_without_labels_will_do(tmp_path, mistake, capsys):
    def read(case):
        rng = np.random.default_rng(int(case.id[1:]))
        return Volume(rng.integers(1, 99, size=(6, 36, 36)).astype(np.int16)), None

    cases = [RawCase(f"c{n}", f"p{n}", (__file__,)) for n in range(3)]
    dataset = RawDataset("noise", ("MRI",), {}, tuple(cases), read=read)
    convert(dataset, tmp_path / "data", source=str(tmp_path), options=Options(layout="none"))
    capsys.readouterr()
    options = ["--pretext", "rotation"]
    argv = arguments(tmp_path / "data", tmp_path / "run", *options, settings=["train.epochs=1"])
    assert pretrain.main(argv) == 0
    out = capsys.readouterr().out
    assert "(rotation) on test of" in out
    assert "note: without flip and quarter_turns" in out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    steps = [name for step in config["augment"]["policy"] for name in step]
    assert "rotation" in steps
    assert "flip" not in steps
    assert 0 <= float(history(tmp_path / "run")[0]["validation_accuracy"]) <= 1


def test_patients_are_held_out_whole_and_those_of_the_validation_fold_not_at_all(phantom_data):
    manifest = load_manifest(phantom_data)
    cases = manifest["cases"]
    for number, entry in enumerate(cases.values()):
        entry |= {"group": number // 2, "split": f"fold{number % 3}"}
    splits = ("fold1", "fold2")
    training, held_out = hold_out(splits, {}, manifest)
    kept = {c for c, e in cases.items() if e["split"] in splits and training.get(c, 1)}
    judged = {c for c, e in cases.items() if e["split"] in splits and held_out.get(c, 1)}
    assert kept | judged == {c for c, e in cases.items() if e["split"] != "fold0"}
    assert not kept & judged
    assert len({cases[c]["group"] for c in judged}) == 1
    assert not {cases[c]["group"] for c in judged} & {cases[c]["group"] for c in kept}
    others = [c for c in cases if c not in judged]
    with pytest.raises(DataError, match="needs at least 2 patients in fold1, fold2, got 1"):
        hold_out(splits, dict.fromkeys(others, 0), manifest)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "dpn"], "pre-training needs a task: --pretext masked"),
        (["--model", "dpn", "--pretext", "maskd"], "Did you mean 'masked'"),
        (["--model", "dpn", "--pretext", "masked", "--set", "pretext.blok=3"], "'block'"),
        (
            ["--model", "unet", "--pretext", "masked"],
            "pre-training builds dpn, got the model 'unet'",
        ),
    ],
)
def test_a_mistake_gets_one_line(argv, message, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in mistake(pretrain.main, *argv)
    assert list(tmp_path.iterdir()) == []


def test_splits_are_named_or_refused(phantom_data, tmp_path, mistake):
    argv = arguments(phantom_data, tmp_path / "run", "--pretext", "masked")
    line = mistake(pretrain.main, *argv, "--set", "data.splits=[fold7]")
    assert "no records in split 'fold7'" in line
    argv = arguments(phantom_data, tmp_path / "run", "--no-evaluate")
    line = mistake(train.main, *argv, "--set", "data.splits=[fold0, fold1]")
    assert "data.splits holds fold0, on which data.fold=0 validates" in line
    line = mistake(train.main, *argv, "--set", "data.splits=[fold1, test]")
    assert "data.splits holds test, whose cases are held back" in line
    line = mistake(train.main, *argv, "--set", "pretext.name=masked")
    assert "use tools/pretrain.py" in line
    assert not (tmp_path / "run").exists()


def test_the_splits_are_all_other_folds_the_images_without_labels_or_those_named():
    manifest, data = {"classes": [{}], "folds": 3}, SimpleNamespace(fold=1, splits=[])
    assert train.training_splits(data, manifest) == ("fold0", "fold2")
    assert train.training_splits(data, {"classes": [], "folds": 0}) == ("test",)
    data.splits = ["fold2", "test"]
    assert train.training_splits(data, manifest) == ("fold2", "test")
