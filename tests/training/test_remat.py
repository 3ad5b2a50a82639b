"""Recomputing activations in the backward pass changes no number."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.layers.step_context import step_context
from segkit.losses import build_loss
from segkit.metrics.counts import class_counts
from segkit.models import build_model
from segkit.training.optimizers import build_optimizer
from segkit.training.remat import _segments
from segkit.training.remat import rematerialized
from segkit.training.step import make_train_step

PLAN = {"features_per_stage": [4, 6, 8], "n_conv_per_stage_decoder": 1}
RANDOM = {"dropout": 0.3, "spatial_dropout": 0.2, "residual": True, "stochastic_depth": 0.3}
NETWORKS = {
    "random layers": ("unet", (8, 12, 1), {"filters": 4, "downsamplings": 1, **RANDOM}),
    "batch norm": ("unet", (8, 8, 1), {"filters": 4, "downsamplings": 1, "normalization": "batch"}),
    "several outputs": ("unet_plus_plus", (8, 12, 1), {**PLAN, "deep_supervision": True}),
    "names of its own": ("fcn8s", (32, 64, 1), {"width": 0.01, "fc_kernel": 3}),
}
LOSS = build_loss("ce_dice")
KEYS = np.arange(8, dtype=np.uint32).reshape(4, 2)


def found(model, forward, shape):
    """Loss, gradients and updates of running statistics of a step on four examples."""
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=(4, *shape)), tf.float32)
    labels = tf.constant(rng.integers(0, 3, (4, *shape[:-1])), tf.int32)
    weights = [v.value for v in model.trainable_variables]

    @tf.function(autograph=False)
    def step():
        with step_context(tf.constant(KEYS)) as context, tf.GradientTape() as tape:
            loss = tf.reduce_mean(LOSS(labels, forward(images)))
        return loss, tape.gradient(loss, weights), context.updates

    return step()


def assert_same(model, shape, tolerance):
    expected = found(model, partial(model, training=True), shape)
    result = found(model, rematerialized(model), shape)
    assert result[2].keys() == expected[2].keys()
    for one, other in zip(tf.nest.flatten(result), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)


@pytest.mark.parametrize("network", NETWORKS)
def test_loss_gradients_and_statistics_stay_the_same(network):
    name, shape, options = NETWORKS[network]
    assert_same(build_model(name, 3, shape, **options), shape, 1e-5)


def test_a_network_with_covariates_and_classes_of_cases_stays_the_same():
    options = {"filters": 4, "downsamplings": 1, "covariates": 3, "case_classes": 2}
    model = build_model("fusion_unet", 3, (8, 12, 2), **options)
    rng = np.random.default_rng(0)
    shapes = {"image": (4, 8, 12, 2), "covariates": (4, 3)}
    inputs = {n: tf.constant(rng.normal(size=shape), tf.float32) for n, shape in shapes.items()}
    with step_context(tf.constant(KEYS)):
        expected, found = model(inputs, training=True), rematerialized(model)(inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
        assert np.std(value) > 0


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_stays_the_same(precision):
    name, shape, options = NETWORKS["random layers"]
    keras.config.set_dtype_policy(precision)
    try:
        model = build_model(name, 3, shape, **options)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_same(model, shape, 1e-4)


def curve(task, replicas, folder, *, remat, xla=False):
    """Losses of three steps, and the weights after them as saved and loaded again."""
    config = task.config().train
    strategy = task.strategy(replicas)
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model, loss = task.build(normalization="batch", **RANDOM)
        optimizer = build_optimizer(config)
        optimizer.build(model.trainable_variables)
    count = partial(class_counts, num_classes=2)
    shared = {"count": count, "batch_size": 4, "seed": 0, "xla": xla, "remat": remat}
    step = make_train_step(strategy, model, loss, optimizer, **shared)
    losses = [float(result["loss"]) for result in task.steps_of(strategy, step, 3)]
    model.save(folder / f"{replicas}.keras")
    loaded = keras.saving.load_model(folder / f"{replicas}.keras")
    return losses, loaded.get_weights()


@pytest.mark.slow
def test_two_replicas_with_xla_train_as_one_that_keeps_everything(task, tmp_path):
    losses, weights = curve(task, 1, tmp_path, remat=False)
    again, recomputed = curve(task, 2, tmp_path, remat=True, xla=True)
    np.testing.assert_allclose(again, losses, rtol=1e-4)
    for one, other in zip(recomputed, weights, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_only_what_stages_hand_to_each_other_is_kept():
    model = build_model("unet", 2, (8, 8, 1), filters=4, downsamplings=2, dropout=0.5)
    taken = [[t._keras_history.operation.name for t in s.taken] for s in _segments(model)]
    # The lone layers of upsampling and joining go with the stage of the decoder.
    assert taken == [
        ["image"],
        ["encoder0_relu2"],
        ["encoder1_relu2"],
        ["encoder2_relu2", "encoder1_relu2"],
        ["decoder1_relu2", "encoder0_relu2"],
        ["decoder0_relu2"],
    ]


@pytest.mark.slow
def test_the_peak_of_memory_is_lower():
    script = Path(__file__).parents[2] / "benchmarks" / "remat_memory.py"
    command = [sys.executable, script, "--model=unet", "--shape", "512", "512", "1", "--steps=2"]
    command += ["--set", "filters=16", "downsamplings=2"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = {line.split()[0]: float(line.split()[2]) for line in run.stdout.splitlines()}
    assert peak["remat"] < 0.8 * peak["keep"], peak


def test_networks_that_cannot_be_cut_are_refused():
    image = keras.Input((8, 8, 2))
    conv = keras.layers.Conv2D(2, 1)
    once, twice = conv(image), conv(conv(image))
    inner = keras.Model(image, once, name="inner")
    nested = inner(keras.layers.ReLU()(image))
    with pytest.raises(ConfigError, match="between its stages, got 0 of them in net"):
        rematerialized(keras.Model(image, once, name="net"))
    for output in (twice, nested):
        with pytest.raises(ConfigError, match="calls each layer once.*and net is none"):
            rematerialized(keras.Model(image, output, name="net"))
