"""One optimizer step over all replicas, and one validation step.

Forward, loss and backward run per replica and, with XLA, are compiled per replica; gradients
are reduced and applied outside the compiled part, because Keras 3 cannot compile a step that
holds a collective on CPUs. The mean over the *global* batch is taken here and nowhere else.
"""

import tensorflow as tf

from segkit.metrics.counts import class_counts


def make_train_step(
    strategy, model, loss, optimizer, *, num_classes, batch_size, xla, prepare=None
):
    """Returns a compiled function that trains on one global batch.

    Args:
        strategy: A `tf.distribute.Strategy` in whose scope model and optimizer were built.
        model: `keras.Model` from images to logits.
        loss: Function `(labels, logits) -> (batch,)` float32.
        optimizer: From `build_optimizer`, already built on the model's trainable variables.
        num_classes: Number of classes, background included.
        batch_size: Size of the global batch.
        xla: Compile forward, loss and backward with XLA.
        prepare: Function from a replica's part of a batch to `(images, labels)`, run and
            compiled with the rest (augmentation); `None`: the batch is that already.

    Returns:
        Function `*batch -> dict` of float32 tensors: `loss` (mean over the global batch),
        `gradient_norm` (before clipping), `counts` `(num_classes, 3)`: true positives,
        false positives and false negatives over the global batch.
    """
    variables = model.trainable_variables
    weights = [v.value for v in variables]
    share = batch_size // strategy.num_replicas_in_sync

    def forward_backward(batch, loss_scale):
        # `tf.distribute` forgets the batch's size where it splits a batch.
        batch = [tf.ensure_shape(part, (share, *part.shape[1:])) for part in batch]
        images, labels = prepare(*batch) if prepare else batch
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            batch_loss = tf.reduce_sum(loss(labels, logits)) / batch_size
            scaled = batch_loss * loss_scale
        counts = class_counts(labels, logits, num_classes)
        return tape.gradient(scaled, weights), batch_loss, counts

    compiled = tf.function(forward_backward, jit_compile=True) if xla else forward_backward

    def replica_step(*batch):
        scale = _loss_scale(optimizer)
        gradients, batch_loss, counts = compiled(batch, scale)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm([tf.cast(g, tf.float32) for g in gradients]) / scale
        shares = [g / strategy.num_replicas_in_sync for g in gradients]
        optimizer.apply(shares, variables)
        return {"loss": batch_loss, "counts": counts, "gradient_norm": norm}

    @tf.function
    def step(*batch):
        results = strategy.run(replica_step, args=batch)
        norm = strategy.experimental_local_results(results["gradient_norm"])[0]
        return {**_summed(strategy, results, ("loss", "counts")), "gradient_norm": norm}

    return step


def make_validation_step(strategy, model, loss, *, num_classes, batch_size):
    """Returns a compiled function that scores one global batch without training.

    Args:
        strategy: As in `make_train_step`.
        model: As in `make_train_step`.
        loss: As in `make_train_step`.
        num_classes: As in `make_train_step`.
        batch_size: As in `make_train_step`.

    Returns:
        Function `(images, labels) -> dict` with `loss` and `counts` as in `make_train_step`.
    """

    def replica_step(images, labels):
        logits = model(images, training=False)
        batch_loss = tf.reduce_sum(loss(labels, logits)) / batch_size
        return {"loss": batch_loss, "counts": class_counts(labels, logits, num_classes)}

    @tf.function
    def step(images, labels):
        return _summed(strategy, strategy.run(replica_step, args=(images, labels)))

    return step


def _summed(strategy, results, keys=("loss", "counts")):
    return {k: strategy.reduce(tf.distribute.ReduceOp.SUM, results[k], axis=None) for k in keys}


def _loss_scale(optimizer):
    """The factor on the loss in mixed float16, 1 otherwise."""
    return tf.convert_to_tensor(optimizer.scale_loss(tf.ones(())))
