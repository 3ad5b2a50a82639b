"""Weights of one run as the first ones of another, and the report about them."""

import csv

import numpy as np
import pytest

from segkit.config import config_from_dict
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.models import build_model
from segkit.models.dpn import reconstructor
from segkit.training.run import create_run
from segkit.training.run import load_run
from segkit.training.transfer import describe
from segkit.training.transfer import read_weights
from segkit.training.transfer import transfer
from tests.training.test_fit import MANIFEST
from tests.training.test_fit import train

OPTIONS = {"filters": 4, "downsamplings": 1}
CONFIG = {
    "model": {"name": "dpn"},
    "data": {"patch_size": [16, 16]},
    "loss": {"name": "squared_error"},
    "pretext": {"name": "masked"},
    "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 1},
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Run folder of a pre-training on patches of 16 x 16, whose weights are all different."""
    folder = tmp_path_factory.mktemp("runs") / "pre"
    create_run(folder, config_from_dict(CONFIG), MANIFEST)
    model = reconstructor((16, 16, 1), **OPTIONS)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape).astype(np.float32) / 9 for w in model.weights])
    model.save(folder / "model.keras")
    return folder


def by_status(report):
    return {
        status: {tensor.name for tensor in report if tensor.status == status}
        for status in ("transferred", "skipped", "left", "new", "unused")
    }


@pytest.mark.parametrize("name", ["dpn", "unet"])
def test_everything_but_the_head_goes_into_a_network_of_the_family(pretrained, name):
    weights = read_weights(pretrained)
    model = build_model(name, 3, (32, 32, 1), **OPTIONS)
    found = by_status(transfer(model, weights))
    assert found["new"] == {"logits/kernel", "logits/bias"}
    assert found["unused"] == {"reconstruction/kernel", "reconstruction/bias"}
    assert found["skipped"] == set()
    assert found["transferred"] == {v.path for v in model.weights} - found["new"]
    for variable in model.weights:
        if variable.path in found["transferred"]:
            np.testing.assert_array_equal(variable, weights[variable.path])


def test_a_tensor_of_another_shape_is_skipped_and_named_with_both(pretrained):
    weights = read_weights(pretrained)
    model = build_model("unet", 2, (16, 16, 3), **OPTIONS)
    before = model.weights[0].numpy()
    report = transfer(model, weights)
    assert by_status(report)["skipped"] == {"encoder0_conv1/kernel"}
    np.testing.assert_array_equal(model.weights[0], before)
    assert "encoder0_conv1/kernel (3x3x3x4 here, 3x3x1x4 there)" in describe(report)


def test_only_the_layers_asked_for_are_taken_over(pretrained):
    weights, model = read_weights(pretrained), build_model("unet", 3, (16, 16, 1), **OPTIONS)
    before = {variable.path: variable.numpy() for variable in model.weights}
    found = by_status(transfer(model, weights, ["encoder*"]))
    assert {name.partition("_")[0] for name in found["transferred"]} == {"encoder0", "encoder1"}
    assert {name.partition("_")[0] for name in found["left"]} == {
        "decoder0",
        "up0/kernel",
        "up0/bias",
    }
    for variable in model.weights:
        taken = variable.path in found["transferred"]
        expected = weights[variable.path] if taken else before[variable.path]
        np.testing.assert_array_equal(variable, expected)


def test_a_pattern_that_names_no_layer_of_both_is_refused(pretrained):
    model = build_model("unet", 3, (16, 16, 1), **OPTIONS)
    with pytest.raises(ConfigError, match=r"initial_layers: no layer of both .* 'logits'"):
        transfer(model, read_weights(pretrained), ["encoder*", "logits"])


def test_networks_with_nothing_in_common_are_refused(pretrained):
    model = build_model("fcn8s", 2, (32, 32, 1), width=0.01, fc_kernel=3)
    with pytest.raises(ConfigError, match="no weight there has a name and shape of fcn8s's"):
        transfer(model, read_weights(pretrained))


def test_a_run_starts_from_the_weights_reports_them_and_resumes_without_their_run(
    task, pretrained, tmp_path
):
    source, folder, lines = tmp_path / "pre", tmp_path / "run", []
    source.symlink_to(pretrained)
    settings = {"epochs": 2, "initial_weights": str(source), "learning_rate": 1e-12}
    train(task, folder, lines=lines, averaging="ema", **settings)
    weights, model = read_weights(pretrained), load_run(folder).model
    for variable in model.weights:
        if not variable.path.startswith("logits"):
            # No step is large enough to change what was taken over.
            np.testing.assert_allclose(variable, weights[variable.path], atol=1e-9)
    assert lines[0].startswith(f"Weights of {source}:\n  transferred (taken over) ")
    assert "new (not there) 2: logits/kernel, logits/bias" in lines[0]
    with open(folder / "transfer.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(model.weights) + 2
    assert rows[0] == {
        "name": "encoder0_conv1/kernel",
        "status": "transferred",
        "shape": "3x3x1x4",
        "source_shape": "3x3x1x4",
    }
    source.unlink()
    train(task, folder, resume=True, averaging="ema", **settings)
    with pytest.raises(DataError, match="is not a trained run"):
        train(task, tmp_path / "other", **settings)
    assert not (tmp_path / "other").exists()


def test_a_pretraining_tells_no_classes_apart(pretrained):
    with pytest.raises(ConfigError, match="is a pre-training .masked., .* Fine-tune it first"):
        _ = load_run(pretrained).outputs
