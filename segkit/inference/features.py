"""Features of images for the measures of `segkit.metrics.generation`, and who extracts them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.errors import nearest

BATCH = 32
SIDES = {2: 32, 3: 16}  # number of axes -> longest side of intensities as features


class Extractor(NamedTuple):
    """What makes features of images.

    Attributes:
        name: What it is, for every report: distances of two extractors cannot be compared.
        extract: Function of float32 images `(batch, *sides, channels)` that returns float32
            `(batch, features)`.
    """

    name: str
    extract: Callable

    def __call__(self, images):
        """Returns the features of any number of images, float32 `(examples, features)`."""
        parts = [self.extract(images[n : n + BATCH]) for n in range(0, len(images), BATCH)]
        return np.concatenate(parts)


def of_random_convolutions():
    """Returns the extractor that needs no training, see `segkit.metrics.random_features`."""
    import tensorflow as tf

    from segkit.metrics.random_features import random_features

    features = tf.function(random_features, reduce_retracing=True)

    def extract(images):
        return features(tf.convert_to_tensor(images, tf.float32)).numpy()

    return Extractor("random convolutions", extract)


def of_network(model, name, *, layer=None):
    """Returns the extractor of a trained network: a feature map, averaged over its voxels.

    Args:
        model: Functional `keras.Model` whose only input is the image.
        name: Name of the run.
        layer: Name of the layer whose output it is; `None`: the last one at the coarsest
            resolution, in a U-Net the bottleneck.

    Raises:
        ConfigError: If the network takes more than an image, or there is no such layer.
    """
    import keras
    import tensorflow as tf

    image = _only_input(model)
    maps = [one.name for one in model.layers if _is_map(one, image)]
    if layer is not None and layer not in maps:
        raise ConfigError(
            f"the network of {name} has no layer {layer!r} with a feature map. "
            f"{nearest(layer, maps)}"
        )
    chosen = model.get_layer(layer or _coarsest(model, maps))
    network = keras.Model(model.input, chosen.output)
    axes = tuple(range(1, len(image.shape) - 1))

    @tf.function(reduce_retracing=True)
    def average(images):
        found = network(images if not isinstance(model.input, dict) else {"image": images})
        return tf.reduce_mean(tf.cast(found, tf.float32), axis=axes)

    def extract(images):
        if tuple(images.shape[1:]) != tuple(image.shape[1:]):
            raise ShapeError(
                f"the features of {name} are those of images of {list(image.shape[1:])}, got "
                f"{list(images.shape[1:])}. Take a run with this data.patch_size and channels, or "
                "random features."
            )
        return average(tf.convert_to_tensor(images, tf.float32)).numpy()

    return Extractor(f"{name}, layer {chosen.name}", extract)


def network_of(run, shape):
    """Returns the network of a trained run for images of a size of choice, with its weights.

    Args:
        run: What `segkit.training.run.load_run` returned.
        shape: `(*sides, channels)`.

    Raises:
        ShapeError: If the network cannot be built for these sides.
    """
    config = run.config
    if list(config.data.patch_size) == list(shape[:-1]) or config.pretext or config.task:
        return run.model
    from segkit.models import build_model

    options, channels = config.model.options, run.outputs.num_channels
    network = build_model(config.model.name, channels, shape, **options)
    network.set_weights(run.model.get_weights())
    return network


def of_intensities(rank):
    """Returns the extractor of the intensities themselves, averaged in blocks.

    Args:
        rank: Number of spatial axes; images come down to 32 voxels along each of two, 16 of three.
    """
    longest = SIDES[rank]

    def extract(images):
        blocks = np.asarray(images, np.float32)
        for axis, side in enumerate(blocks.shape[1:-1], start=1):
            starts = range(0, side, math.ceil(side / longest))
            sums = np.add.reduceat(blocks, starts, axis=axis)
            lengths = np.diff([*starts, side]).astype(np.float32)
            blocks = sums / lengths.reshape(-1, *[1] * (blocks.ndim - axis - 1))
        return blocks.reshape(len(blocks), -1)

    return Extractor("intensities", extract)


def _only_input(model):
    given = model.input if isinstance(model.input, dict) else {"image": model.input}
    if list(given) != ["image"]:
        raise ConfigError(
            f"features need a network that takes an image alone, {model.name} takes "
            f"{', '.join(given)}. Take another run."
        )
    return given["image"]


def _is_map(layer, image):
    """Whether the output of a layer is one feature map of known sides."""
    shape = getattr(layer.output, "shape", ())
    return len(shape) == len(image.shape) and None not in shape[1:]


def _coarsest(model, maps):
    """Name of the last layer whose map has the fewest voxels."""
    if not maps:
        raise ConfigError(
            f"features need sides that are known, those of {model.name} are not. Take another run."
        )
    voxels = {name: math.prod(model.get_layer(name).output.shape[1:-1]) for name in maps}
    fewest = min(voxels.values())
    return [name for name in maps if voxels[name] == fewest][-1]
