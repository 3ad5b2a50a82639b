"""Shares of steps: decay over the stages, frozen layers, on one and two replicas."""

import shutil
from functools import partial

import keras
import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.metrics.counts import class_counts
from segkit.training.layer_rates import build_layer_rates
from segkit.training.layer_rates import stage_of
from segkit.training.learner import build_learner
from tests.training.test_fit import history
from tests.training.test_fit import train
from tests.training.test_stop_and_go import state

PLAIN = {"name": "sgd", "momentum": 0.0, "nesterov": False}
COUNT = partial(class_counts, num_classes=2)


def weights_after(task, steps, *, replicas=1, model=None, **settings):
    """Weights before and after so many steps, dicts by path."""
    train = task.config(**settings).train
    strategy = task.strategy(replicas)
    learner = build_learner(train, strategy, partial(task.build, **(model or {})))
    step, _ = learner.make_steps(train, strategy, COUNT)
    before = {v.path: v.numpy() for v in learner.model.weights}
    task.steps_of(strategy, step, steps)
    return before, {v.path: v.numpy() for v in learner.model.weights}


def same_bits(a, b):
    return a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("layer", "stage"),
    [
        ("encoder0_conv1", "encoder0"),
        ("up2", "decoder2"),
        ("decoder2_norm1", "decoder2"),
        ("logits_1", "logits"),
        ("upscore2", "upscore2"),
        ("conv5_3", "conv5"),
    ],
)
def test_layers_belong_to_stages(layer, stage):
    assert stage_of(layer) == stage


@pytest.mark.parametrize(("optimizer", "replicas"), [(PLAIN, 1), ("adam", 2)])
def test_each_stage_takes_its_share_of_the_step(task, optimizer, replicas):
    # Two downsamplings: logits 1, decoder0 0.5, decoder1 0.25, encoder2 ... encoder0 down to 1/32.
    settings = {"optimizer": optimizer, "weight_decay": 0.1, "replicas": replicas}
    settings |= {"model": {"downsamplings": 2}}
    start, whole = weights_after(task, 1, **settings)
    other, scaled = weights_after(task, 1, layer_decay=0.5, **settings)
    shares = {"logits": 1, "decoder0": 1 / 2, "decoder1": 1 / 4}
    shares |= {"encoder2": 1 / 8, "encoder1": 1 / 16, "encoder0": 1 / 32}
    for path in start:
        assert same_bits(start[path], other[path])
        share = shares[stage_of(path.split("/")[0])]
        expected = share * (whole[path] - start[path])
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(scaled[path] - start[path], expected, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("replicas", [1, 2])
def test_frozen_weights_and_running_statistics_keep_their_bits(task, replicas):
    settings = {"freeze": ["encoder*", "up0"], "weight_decay": 0.1, "replicas": replicas}
    settings |= {"model": {"normalization": "batch"}}
    before, after = weights_after(task, 3, **settings)
    kept = {path for path in before if same_bits(before[path], after[path])}
    assert kept == {path for path in before if path.startswith(("encoder", "up0/"))}
    assert "encoder0_norm1/moving_mean" in kept


def test_frozen_weights_thaw_after_the_stated_epochs_on_a_resumed_run_too(task, tmp_path):
    settings = {"epochs": 3, "steps_per_epoch": 2, "freeze": ["encoder*"], "freeze_epochs": 1}
    settings |= {"layer_decay": 0.8, "keep_checkpoints": 3}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(task, whole, **settings)
    for late in sorted((shutil.copytree(whole, cut) / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(late)
    train(task, cut, resume=True, **settings)
    assert state(cut) == state(whole)
    losses = [[row["train_loss"] for row in history(run)] for run in (whole, cut)]
    assert losses[0] == losses[1]
    kernels = []
    for checkpoint in sorted((whole / "checkpoints").glob("step-*")):
        with np.load(checkpoint / "state.npz") as file:
            kernels.append(file["model/0000"])  # of encoder0_conv1
    keras.utils.set_random_seed(0)
    model, _ = task.build()
    assert same_bits(kernels[0], model.weights[0].numpy())
    assert not same_bits(kernels[1], kernels[0])


def test_what_makes_no_sense_is_refused(task):
    model, _ = task.build()
    assert build_layer_rates(model, task.config().train) is None
    with pytest.raises(ConfigError, match="has the name 'encodr0_conv1'. Did you mean 'encoder0"):
        build_layer_rates(model, task.config(freeze=["encodr0_conv1"]).train)
    with pytest.raises(ConfigError, match="covers every layer"):
        build_layer_rates(model, task.config(freeze=["*"]).train)
    build_layer_rates(model, task.config(freeze=["*"], freeze_epochs=1).train)
    with pytest.raises(ConfigError, match="layer_decay must be above 0 and at most 1, got 0"):
        task.config(layer_decay=0)
    for wrong in ({"freeze_epochs": 1}, {"freeze": ["up0"], "freeze_epochs": 2}):
        with pytest.raises(ConfigError, match="freeze_epochs must be below train.epochs, and 0"):
            task.config(**wrong)
