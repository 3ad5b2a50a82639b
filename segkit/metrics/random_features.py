"""Features of images under a fixed network with random weights, to compare sets of images.

No training is needed, and nobody's natural images are in it; the same weights always, for images
of any size with two or three spatial axes. What it tells apart are intensities, and edges and
textures at three scales. Numbers that come from it are not FID, whose network knows ImageNet.

Reference:
    Random convolutional features tell textures apart nearly as well as learned ones:
    Ustyuzhaninov et al., "What does it take to generate natural textures?", ICLR 2017.
"""

from functools import lru_cache

import numpy as np
from keras import ops

LEVELS, CHANNELS, SIDE = 3, 16, 3
_SEED = 1701


def random_features(images):
    """Returns features, float32 `(batch, features)`.

    They are mean and standard deviation over the positions of each channel, of the image and of
    each level: a convolution that halves the sides, and a leaky ReLU.

    Args:
        images: `(batch, *spatial, channels)`, with two or three spatial axes whose lengths are
            known.
    """
    found = ops.cast(images, "float32")
    rank = len(images.shape) - 2
    features = _statistics(found)
    for kernel in _kernels(rank, images.shape[-1]):
        strides = tuple(2 if side > 1 else 1 for side in found.shape[1:-1])
        found = ops.conv(found, kernel, strides=strides, padding="same")
        found = ops.leaky_relu(found, negative_slope=0.2)
        features += _statistics(found)
    return ops.concatenate(features, axis=-1)


def number_of_features(channels):
    """Returns the number of features of images with so many channels."""
    return 2 * (channels + LEVELS * CHANNELS)


def _statistics(values):
    axes = tuple(range(1, len(values.shape) - 1))
    mean = ops.mean(values, axis=axes, keepdims=True)
    variance = ops.mean(ops.square(values - mean), axis=axes)
    return [ops.squeeze(mean, axis=axes), ops.sqrt(variance + 1e-6)]


@lru_cache
def _kernels(rank, channels):
    """One kernel per level `(side, ..., in, out)`, which keeps the variance of noise."""
    rng = np.random.default_rng((_SEED, rank, channels))
    kernels, taken = [], channels
    for _ in range(LEVELS):
        shape = (*(SIDE,) * rank, taken, CHANNELS)
        scale = np.sqrt(2.0 / (SIDE**rank * taken * (1 + 0.2**2)))
        kernels.append((rng.standard_normal(shape) * scale).astype(np.float32))
        taken = CHANNELS
    return tuple(kernels)
