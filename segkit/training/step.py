"""One optimizer step over all replicas, and one validation step.

Forward, loss and backward run per replica and, with XLA, are compiled per replica. What they find
is summed over accumulation steps and replicas, all in one reduction, and applied outside of the
compiled part. The mean over the *global* batch is taken in `replica.shares` and nowhere else.
"""

from functools import partial
from typing import NamedTuple

import tensorflow as tf

from segkit.layers.step_context import step_context
from segkit.training.penalties import penalty
from segkit.training.penalties import penalty_gradients
from segkit.training.remat import rematerialized
from segkit.training.replica import accumulated
from segkit.training.replica import assign_updates
from segkit.training.replica import first
from segkit.training.replica import loss_scale
from segkit.training.replica import replica_keys
from segkit.training.replica import shares
from segkit.training.replica import summed


class Found(NamedTuple):
    """What forward and backward find, as sums over the examples of the global batch.

    Attributes:
        gradients: Of the scaled loss, one per trainable variable.
        terms: Dict term of the loss -> float32 scalar, divided by the batch size.
        counts: float32, shape `(rows, 3)`, see `segkit.metrics.counts`.
        updates: Dict path of a variable -> value, divided by the number of parts of the batch.
    """

    gradients: list
    terms: dict
    counts: object
    updates: dict


def make_train_step(
    strategy,
    model,
    loss,
    optimizer,
    *,
    count,
    batch_size,
    xla,
    seed,
    accumulation_steps=1,
    l1=0.0,
    l2=0.0,
    layer_rates=None,
    prepare=None,
    remat=False,
):
    """Returns a compiled function that trains on one global batch.

    Args:
        strategy: A `tf.distribute.Strategy` in whose scope model and optimizer were built.
        model: `keras.Model` from images, or a dict of inputs, to logits, or to a dict of them,
            full resolution first.
        loss: From `segkit.losses.build_loss`.
        optimizer: From `build_optimizer`, already built on the model's trainable variables.
        count: Function of labels and all outputs that returns counts, see
            `segkit.metrics.counts`.
        batch_size: Size of the global batch.
        xla: Compile forward, loss and backward with XLA; `"step"`: the whole step, optimizer and
            reduction included, which needs GPUs or a single replica.
        seed: Seed of the random numbers of layers.
        accumulation_steps: Number of parts that each replica's share is cut into, one after the
            other, to save memory.
        l1: Weight of the sum of absolute kernel weights, added to the loss.
        l2: Weight of the sum of squared kernel weights, added to the loss.
        layer_rates: `LayerRates`, or `None`: every weight takes its whole step.
        prepare: Function from a part of a batch to `(inputs, labels)`, run and compiled with the
            rest (augmentation, pretext tasks); it draws random numbers as layers do. `None`: the
            batch is that already.
        remat: Compute activations again in the backward pass, see `rematerialized`.

    Returns:
        Function `(batch, first_example, stop) -> dict` of float32 tensors, with `batch` the share
        of each replica, `first_example` the number of the global batch's first example in the
        stream (int64) and `stop` whether this worker was asked to stop (float32, 0 or 1):
        `terms` (dict, the terms of the loss, means over the global batch), `loss` (their sum),
        `gradient_norm` (before clipping), `counts` `(rows, 3)` (true positives, false positives
        and false negatives over the global batch), `stop` (workers asked to stop).
    """
    replicas = strategy.num_replicas_in_sync
    share = batch_size // replicas
    part = share // accumulation_steps
    variables = model.trainable_variables
    weights = [v.value for v in variables]
    running = {v.path: v for v in model.non_trainable_variables}
    forward = rematerialized(model) if remat else partial(model, training=True)

    def forward_backward(data, scale):
        *batch, keys = data
        batch = tf.nest.map_structure(lambda x: tf.ensure_shape(x, (part, *x.shape[1:])), batch)
        with step_context(keys) as context:
            inputs, labels = prepare(*batch) if prepare else batch
            with tf.GradientTape() as tape:
                logits = forward(inputs)
                terms = shares(loss.parts(labels, logits), batch_size)
                scaled = sum(terms.values()) * scale
        gradients = tape.gradient(scaled, weights)
        counts = count(labels, logits)
        parts = replicas * accumulation_steps
        updates = {path: value / parts for path, value in context.updates.items()}
        return Found(gradients, terms, counts, updates)

    compiled = tf.function(forward_backward, jit_compile=xla is True, autograph=False)

    def replica_step(batch, first_example, stop):
        scale = loss_scale(optimizer)
        data = (*batch, replica_keys(seed, first_example, share))
        local = accumulated(compiled, data, scale, steps=accumulation_steps, part=part)
        found, stops = summed((local, tf.identity(stop)))  # each replica needs its own
        gradients, terms = found.gradients, found.terms
        if l1 or l2:
            terms = {**terms, "penalty": penalty(variables, l1=l1, l2=l2)}
            extra = penalty_gradients(variables, l1=l1, l2=l2)
            gradients = [g + scale * e for g, e in zip(gradients, extra, strict=True)]
        norm = tf.linalg.global_norm(gradients) / scale
        optimizer.apply(gradients, variables)
        assign_updates(running, found.updates)
        results = {"loss": sum(terms.values()), "terms": terms, "counts": found.counts}
        return {**results, "gradient_norm": norm, "stop": stops}

    if xla == "step":
        replica_step = tf.function(replica_step, jit_compile=True, autograph=False)

    @tf.function(autograph=False)
    def step(batch, first_example, stop):
        before = layer_rates.read() if layer_rates else []
        results = first(strategy, strategy.run(replica_step, args=(batch, first_example, stop)))
        if layer_rates:
            layer_rates.scale(strategy, before, first_example // batch_size)
        return results

    return step


def make_validation_step(strategy, model, loss, *, count, batch_size):
    """Returns a compiled function that scores one global batch without training.

    Args:
        strategy: As in `make_train_step`.
        model: As in `make_train_step`.
        loss: As in `make_train_step`.
        count: As in `make_train_step`.
        batch_size: As in `make_train_step`.

    Returns:
        Function `batch -> dict` with `loss`, `terms` and `counts` as in `make_train_step`;
        `batch` is `(inputs, labels)`.
    """

    def replica_step(batch):
        inputs, labels = batch
        logits = model(inputs, training=False)
        terms = shares(loss.parts(labels, logits), batch_size)
        counts = count(labels, logits)
        terms, counts = summed((terms, counts))
        return {"loss": sum(terms.values()), "terms": terms, "counts": counts}

    @tf.function(autograph=False)
    def step(batch):
        return first(strategy, strategy.run(replica_step, args=(batch,)))

    return step


def full_resolution(logits):
    """Returns the logits at full resolution of a network that may have several outputs."""
    return next(iter(logits.values())) if isinstance(logits, dict) else logits
