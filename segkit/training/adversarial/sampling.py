"""What a trained generator makes of the examples of its task, as arrays."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from segkit.layers.step_context import step_context
from segkit.training.adversarial.game import Player
from segkit.training.adversarial.game import added_inputs
from segkit.training.replica import example_keys


class Sampled(NamedTuple):
    """Examples with what was made of them; the first axis is theirs.

    Attributes:
        cases: Ids of their cases, list of str.
        real: Real images, float32 `(examples, *sides, channels)`.
        labels: Label maps, int32 `(examples, *sides)`.
        made: Images of the generator, whole, as `real`.
        given: Image that the generator was given, as `real`, or `None`.
        mask: 1 in holes, float32 `(examples, *sides, 1)`, or `None`.
    """

    cases: list
    real: np.ndarray
    labels: np.ndarray
    made: np.ndarray
    given: np.ndarray | None
    mask: np.ndarray | None


def sample(task, generator, batches, *, count, seed):
    """Makes an image of each of the first examples of a stream.

    Noise, holes and the like depend on the seed and the number of the example alone.

    Args:
        task: From `segkit.training.adversarial.tasks.build_task`.
        generator: `keras.Model` of a run of this task.
        batches: Iterable of `(cases, images, labels)`, as `data_prep.pipeline.build_dataset` with
            `with_cases` yields them, with `count` examples or more.
        count: Number of examples.
        seed: Seed of the random numbers.

    Returns:
        `Sampled`.
    """
    make = _maker(task, generator, seed)
    cases, parts, number = [], [], 0
    for case, images, labels in batches:
        size = len(case)
        numbers = tf.range(number, number + size, dtype=tf.int64)
        found = make(images, labels, numbers)
        label = labels["label"] if isinstance(labels, dict) else labels
        parts.append({**found, "labels": label, "real": images})
        cases += [name.decode() for name in case.numpy()]
        number += size
        if number >= count:
            break
    arrays = {
        name: np.concatenate([part[name].numpy() for part in parts])[:count] for name in parts[0]
    }
    given, mask = arrays.get("image"), arrays.get("mask")
    return Sampled(cases[:count], arrays["real"], arrays["labels"], arrays["made"], given, mask)


def _maker(task, generator, seed):
    """The function from images, labels and numbers of examples to what is made, and of what."""
    player = Player("generator", generator)

    @tf.function(reduce_retracing=True)
    def make(images, labels, numbers):
        with step_context(example_keys(seed, numbers)):
            if getattr(task, "two_sets", False):
                return {"made": player({"image": images}, training=False), "image": images}
            example = task.example(images, labels)
            inputs = {**example.inputs, **added_inputs(player, example)}
            made = player(inputs, training=False)
            shown = {name: inputs[name] for name in ("image", "mask") if name in inputs}
            return {"made": example.compose(made) if example.compose else made, **shown}

    return make
