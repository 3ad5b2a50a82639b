"""Pretext tasks by name: what pre-training learns from patches without labels.

A task is an objective of `fit` (`reconstruction.py`, `puzzles.py`) that also makes inputs and
targets from patches (`prepare`), builds the network that learns them (`network`) and has the loss.
"""

from typing import NamedTuple

import tensorflow as tf

from segkit.layers.step_context import step_context
from segkit.tables import check_options
from segkit.tables import load
from segkit.training import PRETEXTS
from segkit.training.replica import example_keys


class Patches(NamedTuple):
    """What a pretext task is given.

    Attributes:
        shape: `([depth,] height, width, channels)`, all given.
        upright: Whether pictures keep the first row on top, see `overlay.panel`.
    """

    shape: tuple
    upright: bool = False


def build_pretext(name, patches, **options):
    """Returns a pretext task.

    Args:
        name: Key of `segkit.training.PRETEXTS`.
        patches: `Patches`.
        **options: Keyword-only arguments of the task.

    Raises:
        ConfigError: Unknown name or option, or a value of the wrong type or out of range.
        ShapeError: The patches do not fit the task.
    """
    check_options(PRETEXTS, name, options, "pretext")
    return load(PRETEXTS, name, "pretext")(patches, **options)


def prepare_fixed(task, batches, *, seed, batch_size, part=(0, 1)):
    """Returns batches made to inputs and targets, the same ones in every iteration.

    Args:
        task: From `build_pretext`.
        batches: `tf.data.Dataset` of `(images, labels)`, the labels not used.
        seed: Seed of the random numbers.
        batch_size: Size of the global batch.
        part: Which part of every global batch it holds: `(number, count)`.
    """
    number, count = part
    share = batch_size // count

    def prepare(batch, data):
        first = batch * batch_size + number * share
        with step_context(example_keys(seed, first + tf.range(share, dtype=tf.int64))):
            return task.prepare(data[0])

    return batches.enumerate().map(prepare)
