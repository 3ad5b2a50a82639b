"""Random numbers of a layer, drawn for each example by itself."""

import math
import zlib

import keras
from keras import ops

from segkit.hashing import pcg4d
from segkit.layers.step_context import current_step


def uniform(name, seeds, batch, shape):
    """Draws numbers uniform in [0, 1).

    Within a training step they depend on the example, the seed of the run and the name of the
    layer only; elsewhere they come from Keras' generator.

    Args:
        name: Name of the layer.
        seeds: The layer's `keras.random.SeedGenerator`.
        batch: Number of examples.
        shape: Shape of the numbers of one example, ints.

    Returns:
        float32, shape `(batch, *shape)`.
    """
    context = current_step()
    if context is None:
        return keras.random.uniform((batch, *shape), seed=seeds)
    count = math.prod(shape)
    counter = ops.cast(ops.arange(-(-count // 4), dtype="int32"), "uint32")
    salt = ops.full((1,), zlib.crc32(name.encode()), "uint32")
    words = pcg4d(ops, counter, salt, context.keys[:, :1], context.keys[:, 1:])
    top = [ops.cast(ops.right_shift(word, 8), "int32") for word in words]
    numbers = ops.cast(ops.concatenate(top, axis=-1)[:, :count], "float32") * 2.0**-24
    return ops.reshape(numbers, (-1, *shape))


def normal(name, seeds, batch, shape):
    """Draws standard normal numbers from those of `uniform`, by the method of Box and Muller.

    Args:
        name: As in `uniform`.
        seeds: As in `uniform`.
        batch: As in `uniform`.
        shape: As in `uniform`.

    Returns:
        float32, shape `(batch, *shape)`.
    """
    pairs = uniform(name, seeds, batch, (2, *shape))
    radius = ops.sqrt(-2.0 * ops.log(1.0 - pairs[:, 0]))
    return radius * ops.cos(2.0 * math.pi * pairs[:, 1])
