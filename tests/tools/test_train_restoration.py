"""Inpainters, restorers and translators, from training to the image file."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from data_prep.manifest import load_manifest
from segkit.config import load_config
from segkit.io.nifti import read_nifti
from segkit.io.nifti import write_nifti
from segkit.volume import Volume
from tools.restore import main as restore
from tools.train import main as train

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SMALL = {
    "inpaint_gan": ["model.filters=4", "model.downsamplings=2"],
    "enhance_gan": ["model.filters=4", "model.downsamplings=1"],
    "cycle_gan": ["model.filters=4", "model.blocks=1"],
}
CRITIC = "loss.critic={name: patch, filters: 4, downsamplings: 1, scales: 1, normalization: none}"
SHORT = ["data.patch_size=[16,16]", "train.epochs=1", "train.steps_per_epoch=2"]
SHORT += ["train.batch_size=2", "train.validation_batches=1"]


def trained(model, data, run, *settings):
    """Trains for two steps; returns the run folder."""
    settings = [*SMALL.get(model, ["model.filters=4"]), *SHORT, *settings]
    settings += [CRITIC] if model in SMALL else []
    options = [part for text in settings for part in ("--set", text)]
    options += [] if model in SMALL else ["--no-evaluate"]
    assert train(["--model", model, "--data", str(data), "--run", str(run), *options]) == 0
    return run


@pytest.fixture
def study(tmp_path):
    array = np.random.default_rng(0).normal(60, 200, (5, 20, 24)).astype(np.int16)
    write_nifti(tmp_path / "study.nii.gz", Volume(array))
    return tmp_path / "study.nii.gz", array


@pytest.mark.slow
@pytest.mark.parametrize("model", ["inpaint_gan", "enhance_gan"])
def test_a_network_is_trained_and_restores_an_image_file(model, phantom_data, study, tmp_path):
    path, array = study
    run = trained(model, phantom_data, tmp_path / "run")
    columns = (run / "history.csv").read_text().splitlines()[0].split(",")
    assert "validation_psnr" in columns
    options = ["--slices", "2"] if model == "inpaint_gan" else []
    output = tmp_path / "out.nii.gz"
    arguments = ["--run", run, "--input", path, "--output", output, *options]
    assert restore([str(a) for a in arguments]) == 0
    found = read_nifti(output).array
    assert found.dtype == array.dtype
    changed = (found != array).any(axis=(1, 2)).tolist()
    assert changed == [model == "enhance_gan" or n == 2 for n in range(5)]


@pytest.mark.slow
def test_a_translator_is_trained_with_a_segmenter_and_restores(phantom_data, study, tmp_path):
    segmenter = trained("unet", phantom_data, tmp_path / "segmenter")
    more = [f"data.style={phantom_data}", f"task.segmenter={segmenter}", "loss.consistency=1.0"]
    run = trained("cycle_gan", phantom_data, tmp_path / "run", *more)
    rows = (run / "history.csv").read_text().splitlines()
    row = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
    terms = {name for name in row if "consistency" in name or "cycle" in name}
    assert any("train" in name and "consistency" in name for name in terms)
    style = load_manifest(phantom_data)
    assert load_manifest(run)["style"] == {
        "name": style["name"],
        "preprocess": style["preprocess"],
    }
    path, array = study
    arguments = ["--run", run, "--input", path, "--output", tmp_path / "out.nii.gz"]
    assert restore([str(a) for a in arguments]) == 0
    assert read_nifti(tmp_path / "out.nii.gz").shape == array.shape


def test_the_second_data_set_comes_in_an_order_of_its_own(phantom_data, tmp_path):
    tool = runpy.run_path(str(TOOLS / "train_gan.py"))
    settings = [f"data.style={phantom_data}", f"data.path={phantom_data}", *SHORT]
    config = load_config(TOOLS.parent / "configs" / "cycle_gan.yaml", settings)
    other, manifest = tool["style_config"](config), load_manifest(phantom_data)

    def batches(config):
        build = tool["training"].build_batches
        chosen = ((("fold1", "fold2"), {}), (("fold0",), {}))
        return build(config, phantom_data, manifest, None, *chosen)

    streams, both = [batches(c) for c in (config, other)], tool["joined"]
    zipped, prepare = both(streams[0], None, streams[1], None)
    assert prepare is None
    pairs = zipped.train(0, (0, 1)).as_numpy_iterator()
    images, label = next(pairs)
    resumed, _ = next(zipped.train(2, (0, 1)).as_numpy_iterator())
    for name, image in next(pairs)[0].items():
        np.testing.assert_array_equal(resumed[name], image)
    alone, expected = next(streams[0].train(0, (0, 1)).as_numpy_iterator())
    np.testing.assert_array_equal(images["image"], alone)
    np.testing.assert_array_equal(label, expected)
    assert images["style"].shape == alone.shape
    assert not np.array_equal(images["style"], alone)


def test_what_does_not_go_together_is_refused(phantom_data, tmp_path, mistake):
    def refusal(model, *settings):
        options = [part for text in (*SHORT, *settings) for part in ("--set", text)]
        run = ("--data", phantom_data, "--run", tmp_path / "run")
        return mistake(train, "--model", model, *run, *options)

    assert "name its folder in data.style" in refusal("cycle_gan")
    style = f"data.style={phantom_data}"
    assert "consistency and task.segmenter go together" in refusal(
        "cycle_gan", style, "loss.consistency=1.0"
    )
    assert "no prepared data set in" in refusal("cycle_gan", f"data.style={tmp_path}")
    assert not (tmp_path / "run").exists()
