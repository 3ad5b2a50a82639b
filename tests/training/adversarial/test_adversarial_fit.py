"""Whole runs: what they write, and that they go on to the bit."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segkit.training.adversarial.learner import build_adversarial_learner
from segkit.training.adversarial.objective import build_objective
from segkit.training.devices import make_strategy
from segkit.training.fit import fit
from segkit.training.run import load_run
from tests.training.adversarial.games import BATCHES
from tests.training.adversarial.games import SHAPE
from tests.training.adversarial.games import builder
from tests.training.adversarial.games import config_of
from tests.training.adversarial.games import validation_batches
from tests.training.test_fit import MANIFEST
from tests.training.test_fit import history
from tests.training.test_stop_and_go import at_step
from tests.training.test_stop_and_go import state

pytestmark = pytest.mark.slow

SETTINGS = {"epochs": 3, "averaging": {"name": "ema", "decay": 0.5}}
LOSS = {"feature_matching": 1.0, "critic_steps": 2, "critic_augment": ["translation", "color"]}


def train(folder, *, resume=False, lines=None, watch=None):
    config = config_of("spade", LOSS, **SETTINGS)
    task, build = builder(config)
    return fit(
        folder,
        config,
        MANIFEST,
        make_strategy("cpu:1"),
        build,
        BATCHES,
        objective=build_objective(task),
        learn=build_adversarial_learner,
        watch=watch,
        resume=resume,
        report=(lines if lines is not None else []).append,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder, progress and lines of a run whose watch warns after every epoch."""
    folder, lines = tmp_path_factory.mktemp("runs") / "whole", []
    progress = train(folder, lines=lines, watch=lambda rows: [f"{len(rows)} epochs"])
    return folder, progress, lines


def be_killed(folder):
    """Of a child process: goes on, and is killed when the first step of epoch 3 is done."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 5, lambda: os.kill(os.getpid(), signal.SIGKILL))
        train(Path(folder), resume=True)


def test_a_run_stopped_within_an_epoch_then_killed_goes_on_to_the_bit(whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 2, (folder / "STOP").touch)
        assert train(folder).stopped == "STOP"
    process = multiprocessing.get_context("spawn").Process(target=be_killed, args=(str(folder),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(history(folder)) == 2
    progress = train(folder, resume=True)
    assert progress.stopped == ""
    assert progress.epoch == 3
    assert state(folder) == state(whole[0])


def test_the_run_tells_of_both_networks(whole):
    folder, progress, lines = whole
    rows = history(folder)
    assert len(rows) == 3
    for column in (
        "train_loss/critic",
        "train_loss/adversarial",
        "train_loss/feature_matching",
        "train_critic_accuracy",
        "train_critic_gradient_norm",
        "validation_critic_accuracy",
        "validation_realism",
        "validation_realism/spread",
    ):
        assert np.isfinite(float(rows[-1][column])), column
    assert "train_realism" not in rows[-1]
    assert float(rows[-1]["validation_realism"]) == progress.scores[-1]
    assert "val realism -" in lines[0]
    assert "(spread " in lines[0]
    assert lines[1] == "warning: 1 epochs"
    train_log = EventAccumulator(str(folder / "logs/train"), {"tensors": 0}).Reload()
    tags = set(train_log.Tags()["tensors"])
    assert {"loss/critic", "critic_accuracy", "critic_accuracy_per_step"} <= tags
    assert len(train_log.Tensors("critic_accuracy_per_step")) == 6
    assert len(train_log.Tensors("warnings")) == 3
    held_out = EventAccumulator(str(folder / "logs/validation"), {"tensors": 0}).Reload()
    pictures = held_out.Tensors("condition_real_made/0")
    assert len(pictures) == 3


def test_the_model_is_the_averaged_generator_of_the_best_epoch(whole):
    folder, progress, _ = whole
    model = load_run(folder).model
    assert model.name == "spade"
    best = progress.best_epoch * 2
    with np.load(folder / "checkpoints" / f"step-{best:08d}" / "state.npz") as file:
        names = sorted(n for n in file.files if n.startswith("average/"))
        averages = [file[name] for name in names]
    for weight, average in zip(model.weights, averages, strict=True):
        np.testing.assert_array_equal(weight.numpy(), average)
    inputs = {"label": tf.zeros((2, *SHAPE[:-1]), tf.int32), "noise": tf.zeros((2, 4))}
    assert model(inputs).shape == (2, *SHAPE)


def test_samples_are_the_same_after_every_epoch_and_in_any_part(whole):
    config = config_of("spade", LOSS, **SETTINGS)
    _, build = builder(config)
    learner = build_adversarial_learner(config.train, make_strategy("cpu:1"), build)
    inputs, labels = next(iter(validation_batches()))
    once, again = (learner.predict(inputs, labels)["fake"].numpy() for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(once[0], once[1])
    halves = [next(iter(validation_batches((n, 2)))) for n in range(2)]
    parts = [learner.predict(*half)["fake"].numpy() for half in halves]
    np.testing.assert_allclose(np.concatenate(parts), once, rtol=1e-4, atol=1e-5)


def test_what_is_watched_is_kept_within_an_epoch(whole):
    with np.load(sorted((whole[0] / "checkpoints").glob("step-*"))[-1] / "state.npz") as file:
        progress = json.loads(file["progress"].tobytes())
    assert progress["results"]["watched"] == {}
    assert len(progress["scores"]) == 3
