from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.metrics.counts import class_counts
from segkit.training.learner import distribute
from segkit.training.optimizers import build_optimizer
from segkit.training.step import make_train_step
from segkit.training.step import make_validation_step

COUNT = partial(class_counts, num_classes=2)
SHARED = {"count": COUNT, "batch_size": 4, "seed": 0}


def loss_curve(task, replicas, *, xla=False, steps=20, **train):
    """Trains on the same global batches; returns loss and gradient norm of each step."""
    config = task.config(epochs=1, steps_per_epoch=20, **train).train
    strategy = task.strategy(replicas)
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model, loss = task.build()
        optimizer = build_optimizer(config)
        optimizer.build(model.trainable_variables)
    step = make_train_step(strategy, model, loss, optimizer, xla=xla, **SHARED)
    results = task.steps_of(strategy, step, steps)
    losses = np.array([float(r["loss"]) for r in results])
    norms = np.array([float(r["gradient_norm"]) for r in results])
    return losses, norms, np.array([r["counts"].numpy() for r in results])


@pytest.fixture(scope="module")
def reference(task):
    return loss_curve(task, 1)


def test_training_lowers_the_loss(reference):
    losses, _, _ = reference
    assert losses[-5:].mean() < 0.6 * losses[0]


@pytest.mark.parametrize("xla", [False, True])
def test_two_replicas_give_the_loss_curve_of_one(task, reference, xla):
    losses, norms, counts = loss_curve(task, 2, xla=xla)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-4)
    np.testing.assert_allclose(norms, reference[1], rtol=1e-3)
    np.testing.assert_allclose(counts.sum(axis=(1, 2)), reference[2].sum(axis=(1, 2)), rtol=1e-2)


def test_xla_changes_nothing_on_one_replica(task, reference):
    losses, _, _ = loss_curve(task, 1, xla=True)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-4)


@pytest.mark.parametrize("replicas", [1, 2])
def test_clipping_acts_on_the_gradient_of_the_global_batch(task, replicas):
    # SGD without momentum moves the weights by learning_rate * clipped gradient: the norm of
    # the first move is therefore learning_rate * clip_norm when the gradient is longer.
    plain = {"name": "sgd", "momentum": 0.0, "nesterov": False}
    config = task.config(clip_norm=0.01, learning_rate=1.0, optimizer=plain)
    strategy = task.strategy(replicas)
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model, loss = task.build()
        optimizer = build_optimizer(config.train)
        optimizer.build(model.trainable_variables)
    step = make_train_step(strategy, model, loss, optimizer, xla=False, **SHARED)
    before = [v.numpy() for v in model.trainable_variables]
    task.steps_of(strategy, step, 1)
    moves = [v.numpy() - b for v, b in zip(model.trainable_variables, before, strict=True)]
    norm = np.sqrt(sum((m**2).sum() for m in moves))
    np.testing.assert_allclose(norm, 0.01, rtol=1e-3)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_mixed_precision_follows_the_float32_curve(task, reference, precision, replicas):
    keras.config.set_dtype_policy(precision)
    try:
        losses, norms, _ = loss_curve(task, replicas, steps=8, precision=precision)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(losses, reference[0][:8], rtol=0.02)
    np.testing.assert_allclose(norms[0], reference[1][0], rtol=0.05)


def test_a_float16_overflow_on_one_replica_skips_the_step_on_all(task):
    config = task.config(precision="mixed_float16").train
    strategy = task.strategy(2)
    with strategy.scope():
        model, loss = task.build()
        optimizer = build_optimizer(config)
        optimizer.build(model.trainable_variables)
    step = make_train_step(strategy, model, loss, optimizer, xla=False, **SHARED)
    images, labels = task.images[:4].copy(), task.labels[:4]
    images[3] = np.inf  # the second replica's share only
    batch = tf.data.Dataset.from_tensors((images, labels)).unbatch().batch(4, drop_remainder=True)
    before = [v.numpy() for v in model.trainable_variables]
    scale = optimizer.dynamic_scale.numpy()
    stream = iter(distribute(strategy, 4, lambda part: batch))
    step(next(stream), tf.constant(0, tf.int64), tf.constant(0.0))
    for variable, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    assert optimizer.dynamic_scale.numpy() == scale / 2


def test_validation_loss_is_the_mean_over_the_global_batch(task):
    for replicas in (1, 2):
        strategy = task.strategy(replicas)
        with strategy.scope():
            keras.utils.set_random_seed(3)
            model, loss = task.build()
        step = make_validation_step(strategy, model, loss, count=COUNT, batch_size=4)
        data = task.validation_batches()
        images, labels = next(iter(data))
        expected = np.mean(loss(labels, model(images)))
        result = step(next(iter(distribute(strategy, 4, task.validation_batches))))
        np.testing.assert_allclose(float(result["loss"]), expected, rtol=1e-5)
        counts = result["counts"].numpy()
        # Every voxel is a true positive or a false negative of exactly one class.
        assert counts[:, 0].sum() + counts[:, 2].sum() == 4 * 16 * 16
