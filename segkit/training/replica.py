"""What steps have in common: they run on every replica, in parts, and add up what these find.

Sums over accumulation steps and replicas are taken outside of what XLA compiles, because TensorFlow
cannot compile a collective on CPUs.
"""

import tensorflow as tf

from segkit.hashing import pcg4d

_LAYERS = 0x6C617965  # tells the keys of layers from those of augmentation, of the same example


def example_keys(seed, numbers):
    """Returns keys of the random numbers of examples in a step, uint32 `(n, 2)`.

    Args:
        seed: Seed of the run.
        numbers: Numbers of the examples in the stream, int64 `(n,)`.
    """
    low, high = tf.unstack(tf.bitcast(numbers, tf.uint32), axis=-1)
    word = tf.constant(seed % 2**32, tf.uint32)
    words = pcg4d(tf.bitwise, low, high, word, tf.constant(_LAYERS, tf.uint32))
    return tf.stack(words[:2], axis=-1)


def replica_keys(seed, first_example, share):
    """Returns the keys of this replica's share of a global batch, see `example_keys`.

    Args:
        seed: Seed of the run.
        first_example: Number of the global batch's first example, int64.
        share: Examples per replica.
    """
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    first = first_example + share * tf.cast(number, tf.int64)
    return example_keys(seed, first + tf.range(share, dtype=tf.int64))


def accumulated(function, data, *more, steps, part):
    """Calls a function on one part of the data after the other, and adds up what it returns.

    Args:
        function: Called with a part of `data`, and `more`; returns nested tensors.
        data: Nested tensors whose first axis is cut into parts.
        *more: Further arguments, whole.
        steps: Number of parts.
        part: Examples per part.
    """

    def cut(x):
        return tf.reshape(x, (steps, part, *x.shape[1:]))

    parts = tf.nest.map_structure(cut, data)

    def one(n):
        return function(tf.nest.map_structure(lambda x: x[n], parts), *more)

    def add(n, total):
        return n + 1, tf.nest.map_structure(tf.add, total, one(n))

    total = one(0)
    if steps > 1:
        _, total = tf.while_loop(lambda n, _: n < steps, add, (1, total), parallel_iterations=1)
    return total


def shares(terms, batch_size):
    """Returns the sums of terms `(batch,)`, divided by the size of the global batch."""
    return {name: tf.reduce_sum(values) / batch_size for name, values in terms.items()}


def summed(tensors):
    """Sums nested tensors over all replicas, in one reduction."""
    context = tf.distribute.get_replica_context()
    flat = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.nest.flatten(tensors))
    return tf.nest.pack_sequence_as(tensors, flat)


def first(strategy, results):
    """Returns the results of one replica, where all have the same."""
    return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], results)


def loss_scale(optimizer):
    """Returns the factor on the loss in mixed float16, 1 otherwise."""
    return tf.convert_to_tensor(optimizer.scale_loss(tf.ones(())))


def assign_updates(running, updates):
    """Assigns what layers found, where it is finite.

    Args:
        running: Dict name -> variable.
        updates: Dict name -> value, of some of them.
    """
    for name, value in updates.items():
        old = running[name]
        old.assign(tf.where(tf.reduce_all(tf.math.is_finite(value)), value, old))
