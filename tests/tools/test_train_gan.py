"""Generators through the command line, on phantoms and on images without labels."""

import json

import numpy as np
import pytest
import tensorflow  # noqa: F401 - seen by conftest, which then gives it two devices
import yaml

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from segkit.training.run import load_run
from segkit.volume import Volume
from tests.tools.trainings import history
from tests.training.test_stop_and_go import state
from tools import cross_validate
from tools import evaluate
from tools import train

SPADE = {
    "model": {"name": "spade", "filters": 4, "upsamplings": 1, "hidden": 4, "noise": 4},
    "data": {"patch_size": [16, 16]},
    "loss": {
        "name": "adversarial",
        "critic": {"name": "patch", "filters": 4, "scales": 1, "downsamplings": 1},
        "feature_matching": 1.0,
    },
    "task": {"name": "labels"},
    "train": {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "validation_batches": 1},
}
DCGAN = {
    **SPADE,
    "model": {"name": "dcgan", "filters": 8, "upsamplings": 1, "noise": 4},
    "loss": {
        "name": "adversarial",
        "kind": "wasserstein",
        "critic": {"name": "global", "filters": 4, "downsamplings": 1, "spectral_norm": False},
        "gradient_penalty": 10.0,
        "critic_steps": 2,
    },
    "task": {"name": "noise"},
}


@pytest.fixture
def config_file(tmp_path):
    """Writes a config to a file; returns its path."""

    def write(config, **sections):
        changed = {name: {**config.get(name, {}), **more} for name, more in sections.items()}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**config, **changed}))
        return str(path)

    return write


def arguments(config, data, run, *more):
    return ["--config", config, "--data", str(data), "--run", str(run), *more]


def unlabelled(folder, patients):
    def read(case):
        rng = np.random.default_rng(int(case.id[1:]))
        return Volume(rng.integers(1, 99, size=(4, 20, 20)).astype(np.int16)), None

    cases = [RawCase(f"c{n}", f"p{n}", (__file__,)) for n in range(patients)]
    dataset = RawDataset("noise", ("MRI",), {}, tuple(cases), read=read)
    convert(dataset, folder, source=str(folder), options=Options(layout="none"))
    return folder


@pytest.mark.slow
def test_a_label_map_generator_is_trained_stopped_resumed_and_loaded(
    phantom_data, config_file, tmp_path, capsys, mistake
):
    config = config_file(SPADE, train={"epochs": 2, "deterministic": True})
    assert train.main(arguments(config, phantom_data, tmp_path / "whole")) == 0
    out = capsys.readouterr().out
    assert "Training spade (labels) on" in out
    assert "val realism -" in out
    assert "tools/synthesize.py --run" in out
    run = load_run(tmp_path / "whole")
    assert run.config.task.name == "labels"
    assert set(run.model.input) == {"label", "noise"}
    cut = tmp_path / "cut"
    argv = arguments(config, phantom_data, cut, "--set", "train.checkpoint_every=1")
    argv += ["--set", "train.keep_checkpoints=3"]
    assert train.main(argv) == 0
    (newest,) = cut.glob("checkpoints/step-00000004")
    (newest / "state.npz").write_bytes(b"")  # as if it was killed before its last checkpoint
    assert train.main([*argv, "--resume"]) == 0
    assert state(cut) == state(tmp_path / "whole")
    two = arguments(config, phantom_data, tmp_path / "two", "--devices", "cpu:2")
    assert train.main(two) == 0
    for column in ("train_loss", "train_loss/critic", "validation_loss", "validation_realism"):
        one, other = (float(history(tmp_path / n)[1][column]) for n in ("whole", "two"))
        assert one == pytest.approx(other, rel=1e-2), column
    assert "makes images (task labels)" in mistake(evaluate.main, "--run", tmp_path / "whole")


@pytest.mark.slow
def test_images_without_labels_train_a_generator_from_noise(config_file, tmp_path, capsys, mistake):
    data = unlabelled(tmp_path / "data", 3)
    config = config_file(DCGAN, train={"xla": True}, augment={"placement": "device"})
    assert train.main(arguments(config, data, tmp_path / "run")) == 0
    assert "validating on a part of test" in capsys.readouterr().out
    (row,) = history(tmp_path / "run")
    assert float(row["train_loss/gradient_penalty"]) > 0
    assert set(load_run(tmp_path / "run").model.input) == {"noise"}
    config = config_file(SPADE)
    line = mistake(train.main, *arguments(config, data, tmp_path / "other"))
    assert "makes images from label maps, and the data set has none" in line
    assert not (tmp_path / "other").exists()


def test_one_image_is_too_few(config_file, tmp_path, mistake):
    data = unlabelled(tmp_path / "data", 1)
    line = mistake(train.main, *arguments(config_file(DCGAN), data, tmp_path / "run"))
    assert "needs at least 2 patients in test, got 1" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"name": "unet"}}, "the task labels needs a generator, got the model 'unet'"),
        ({"loss": {"name": "ce_dice"}}, "is learned with the loss adversarial, got 'ce_dice'"),
        ({"task": {"name": "lables"}}, "Did you mean 'labels'"),
        ({"task": {"blur": 1}}, "has no option 'blur'"),
        ({"loss": {"critic": "pach"}}, "Did you mean 'patch'"),
        ({"loss": {"critic": {"name": "patch", "scale": 1}}}, "Did you mean 'scales'"),
        ({"loss": {"feature_matching": "much"}}, "loss.feature_matching must be float"),
        ({"data": {"style": "data/other"}}, "which the task labels does not take"),
    ],
)
def test_a_config_whose_parts_do_not_fit_is_refused(
    config_file, tmp_path, mistake, sections, message
):
    options = sections.get("loss", {}).get("name") == "ce_dice"
    base = {**SPADE, "loss": {}} if options else SPADE
    base = {**base, "model": {}} if sections.get("model") else base
    line = mistake(train.main, *arguments(config_file(base, **sections), "none", tmp_path / "run"))
    assert message in line


def test_a_generator_without_a_task_and_a_task_for_another_tool_are_refused(
    config_file, tmp_path, mistake
):
    config = config_file({name: v for name, v in SPADE.items() if name != "task"})
    line = mistake(train.main, *arguments(config, "none", tmp_path / "run"))
    assert "spade makes images, for which the config needs a section task" in line
    argv = ["--config", config_file(SPADE), "--data", "none", "--out", tmp_path / "out"]
    assert "this tool trains networks that segment" in mistake(cross_validate.main, *argv)


def test_classes_of_images_must_be_those_of_the_data_set(config_file, tmp_path, mistake):
    data = unlabelled(tmp_path / "data", 2)
    config = config_file(DCGAN, model={"classes": 3})
    line = mistake(train.main, *arguments(config, data, tmp_path / "run"))
    assert "model.classes is 3, and the data set's cases have 0 classes (none)" in line
    path = data / "dataset.json"
    manifest = json.loads(path.read_text())
    manifest["targets"] = ["no", "yes"]
    manifest["cases"]["c0"]["target"] = "no"
    path.write_text(json.dumps(manifest))
    config = config_file(DCGAN, model={"classes": 2})
    line = mistake(train.main, *arguments(config, data, tmp_path / "run"))
    assert "no class is known of 1 cases, such as c1" in line
