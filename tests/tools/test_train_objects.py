"""Training a network that finds objects: what is refused, and a run from beginning to end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.detectors import fit_detector
from data_prep.layouts import scan_source
from data_prep.manifest import load_manifest
from segkit.config import load_config
from segkit.training.jobs import is_complete
from segkit.training.jobs import read_history
from tests.tools.trainings import history
from tools import cross_validate
from tools import ensemble
from tools import pretrain
from tools import train

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "model.filters=8",
    "model.levels=[2, 3]",
    "model.pyramid_filters=8",
    "model.units=16",
    "model.mask_convs=1",
    "model.max_objects=20",
    "model.anchor_samples=32",
    "model.region_samples=16",
    "model.candidates=64",
    "model.proposals=24",
    "model.detections=10",
    "data.patch_size=[64, 64]",
    "train.epochs=1",
    "train.steps_per_epoch=2",
    "train.batch_size=2",
    "train.validation_batches=1",
    "train.warmup_steps=0",
    "train.averaging=null",
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "cells"
    options = Options(layout="phantom", folds=3)
    convert(scan_source("phantom", "cells:6"), folder, source="cells:6", options=options)
    return folder


def arguments(data, run, *more, settings=()):
    sets = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    given = ["--data", str(data)] if data else []
    return ["--model", "mask_rcnn", *given, "--run", str(run), "--no-evaluate", *sets, *more]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.patch_size=[8, 64, 64]"], "mask_rcnn sees slices: data.patch_size must be"),
        (["data.patch_size=[64, 100]"], "Nearest to 100: 96 or 128"),
        (["data.patch_size=[20, 64]"], "Nearest to 20: 32 or 32"),
        (["augment.policy=[flip: {}, mixup: {}]"], "mixup puts objects of two examples"),
        (["loss.name=ce_dice"], "mask_rcnn learns by the loss mask_rcnn, got 'ce_dice'"),
        (["train.remat=true"], "train.remat needs a network in stages"),
        (["data.foreground_fraction=1.5"], "data.foreground_fraction must be between 0 and 1"),
        (["model.anchor_side=[3.0]"], "Did you mean 'anchor_sides'"),
    ],
)
def test_a_mistake_gets_one_line(settings, message, cells, tmp_path, capsys):
    assert train.main(arguments(cells, tmp_path / "run", settings=settings)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_loss_of_objects_is_refused_for_other_networks(cells, tmp_path, capsys):
    config = yaml.safe_load((ROOT / "configs" / "unet.yaml").read_text())
    config["loss"] = {"name": "mask_rcnn"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    assert train.main(["--config", str(tmp_path / "mine.yaml"), "--data", str(cells)]) == 2
    assert "the loss mask_rcnn belongs to --model mask_rcnn" in capsys.readouterr().err


def test_without_model_garden_it_says_what_to_install(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "official", None)
    assert train.main(arguments(cells, tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert 'pip install "segkit[maskrcnn]"' in error
    assert error.count("\n") == 1
    argv = ["--model", "unet", "--data", str(cells), "--run", str(tmp_path), "--set", "data.fold=9"]
    assert train.main(argv) == 2  # others do not ask for it
    assert "data.fold must be below 3" in capsys.readouterr().err


@pytest.mark.slow
def test_no_other_network_imports_model_garden(cells, tmp_path):
    code = (
        "import sys\n"
        "from segkit.losses import LOSSES\n"
        "from segkit.models import DETECTORS, MODELS\n"
        "from segkit.tables import load\n"
        "from tools import train\n"
        "for table, kind in ((MODELS, 'model'), (LOSSES, 'loss')):\n"
        "    for name in table.keys() - set(DETECTORS):\n"
        "        load(table, name, kind)\n"
        "code = train.main(sys.argv[1:])\n"
        "packages = {name.partition('.')[0] for name in sys.modules}\n"
        "print(code, packages & {'official', 'tf_keras', 'pycocotools'} or 'none')\n"
    )
    settings = ["model.filters=4", "train.epochs=1", "train.steps_per_epoch=1"]
    sets = [part for text in settings for part in ("--set", text)]
    argv = ["--model", "unet", "--data", str(cells), "--run", str(tmp_path / "run"), *sets]
    command = [sys.executable, "-c", code, *argv]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "0 none"
    assert (tmp_path / "run" / "evaluation").is_dir()


def test_a_data_set_without_objects_is_refused_before_tensorflow_is_imported(cells, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(cells, plain)
    manifest = json.loads((plain / "dataset.json").read_text())
    del manifest["instances"]
    (plain / "dataset.json").write_text(json.dumps(manifest))
    code = (
        "import sys; from tools import train; code = train.main(sys.argv[1:]); "
        "print(code, 'tensorflow' in sys.modules or 'official' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *arguments(plain, tmp_path / "run")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["2", "False"]
    assert f"the data set {plain} has none. Prepare it with --instances" in found.stderr
    assert found.stderr.count("\n") == 1


def test_the_second_stage_of_a_cascade_is_refused(cells, tmp_path, capsys):
    staged = tmp_path / "staged"
    shutil.copytree(cells, staged)
    manifest = json.loads((staged / "dataset.json").read_text())
    manifest["channels"].append("prior:cell")
    (staged / "dataset.json").write_text(json.dumps(manifest))
    assert train.main(arguments(staged, tmp_path / "run")) == 2
    assert "cannot be the second stage of a cascade" in capsys.readouterr().err


def test_ensembles_pretraining_and_first_stages_are_refused(cells, tmp_path, capsys):
    out, sets = tmp_path / "out", [part for text in TINY for part in ("--set", text)]
    common = ["--model", "mask_rcnn", "--data", str(cells)]
    for method in ("bagging", "stacking"):
        argv = ["--method", method, *common, "--out", str(out), *sets]
        assert ensemble.main(argv) == 2
        assert "mask_rcnn finds objects. Use a network for classes" in capsys.readouterr().err
    argv = [*common, "--pretext", "masked", "--run", str(out), "--set", "data.patch_size=[64, 64]"]
    assert pretrain.main(argv) == 2
    assert "pre-training builds dpn, got the model 'mask_rcnn'" in capsys.readouterr().err
    assert not out.exists()


def test_anchors_are_those_of_the_data_set_where_the_config_has_none(cells):
    manifest = load_manifest(cells)
    known = manifest["instances"]
    config = load_config(ROOT / "configs" / "mask_rcnn.yaml")
    found = fit_detector(config, manifest).model.options
    assert found["anchor_sides"] == known["anchor_sides"]
    assert found["anchor_aspects"] == known["anchor_aspects"]
    own = load_config(ROOT / "configs" / "mask_rcnn.yaml", ["model.anchor_sides=[7.0]"])
    found = fit_detector(own, manifest).model.options
    assert found["anchor_sides"] == [7.0]
    assert found["anchor_aspects"] == known["anchor_aspects"]
    unet = load_config(ROOT / "configs" / "unet.yaml")
    assert fit_detector(unet, manifest) is unet


def test_cross_validation_trains_each_fold_and_goes_on(cells, tmp_path, fake_tools, capsys):
    sets = [part for text in TINY for part in ("--set", text)]
    argv = ["--model", "mask_rcnn", "--data", str(cells), "--out", str(tmp_path / "cv"), *sets]
    for count in (3, 3):  # the second time nothing is left to do
        assert cross_validate.main(argv, tools=fake_tools.folder) == 0
        assert len([c for c in fake_tools.calls() if c["tool"] == "train"]) == count
        shown = capsys.readouterr().out
        assert f"Those of each fold: {tmp_path / 'cv'}/fold*/evaluation" in shown
    config = yaml.safe_load((tmp_path / "cv" / "fold1" / "config.yaml").read_text())
    assert config["model"]["anchor_sides"] == load_manifest(cells)["instances"]["anchor_sides"]


def test_both_placements_give_the_network_the_same_maps(cells, tmp_path):
    found = []
    for placement in ("input", "device"):
        settings = [f"augment.placement={placement}", "data.foreground_fraction=1.0"]
        args = train.parse_args(arguments(cells, tmp_path, settings=settings))
        config, manifest = train.find_data(train.read_config(args))
        augment, change = train.build_augmentation(
            config, manifest, 2, tf.distribute.get_strategy()
        )
        splits = ((("fold1", "fold2"), {}), (("fold0",), {}))
        batches = train.build_batches(config, cells, manifest, augment, *splits)
        batches, _, prepare = train.with_objects(batches, manifest, change)
        inputs, labels = prepare(*next(iter(batches.train(0, (0, 1)))))
        assert {name: tuple(x.shape) for name, x in inputs.items()} == {
            "image": (2, 64, 64, 1),
            "label": (2, 64, 64),
            "instance": (2, 64, 64),
        }
        assert all((inputs[name].numpy() == labels[name].numpy()).all() for name in labels)
        assert (inputs["instance"].numpy() > 0).any(axis=(1, 2)).all()
        found.append(inputs)
        held_out, _ = next(iter(batches.validation((0, 1))))
        assert sorted(held_out) == sorted(inputs)
    for name, values in found[0].items():
        np.testing.assert_allclose(values, found[1][name], atol=1e-4)


@pytest.mark.slow
def test_a_run_is_recorded_and_resumes(cells, tmp_path, capsys):
    run, known = tmp_path / "run", load_manifest(cells)["instances"]
    argv = arguments(cells, run, "--devices", "cpu:1", settings=["augment.placement=device"])
    assert train.main(argv) == 0
    assert "Best validation F1 of objects" in capsys.readouterr().out
    (row,) = history(run)
    assert "nan" not in row.values()
    assert 0 <= float(row["validation_instance_f1"]) <= 1
    assert not [name for name in row if name.startswith("train_instance_f1")]
    assert read_history(run) == ((1, float(row["validation_instance_f1"])),)
    assert is_complete(run)
    assert (run / "progress.png").is_file()
    found = yaml.safe_load((run / "config.yaml").read_text())["model"]
    for key in ("anchor_sides", "anchor_aspects"):
        assert found[key] == known[key]
    terms = {f"loss/{name}" for name in ("rpn_score", "rpn_box", "class", "box", "mask")}
    assert terms <= tags_of(run, "train")
    shown = tags_of(run, "validation")
    assert terms | {"instance_f1", "image_truth_proposals_detections/0"} <= shown
    # The anchors of the data set are no difference to the config that the run was started with.
    assert train.main([*argv, "--resume"]) == 0
    assert "after epoch 1 of 1" in capsys.readouterr().out.replace("epochs", "epoch")
    assert train.main([*argv, "--resume", "--set", "model.anchor_sides=[9.0]"]) == 2
    assert "model.anchor_sides differs from the run's config.yaml" in capsys.readouterr().err


def tags_of(run, split):
    """The tags of the events of a run."""
    found = set()
    for path in (run / "logs" / split).glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            found |= {value.tag for value in event.summary.value}
    return found
