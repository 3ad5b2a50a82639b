"""Blurring, sharpening and coarser resolution: one small matrix per axis, channel and example.

A separable filter is three matrix products, one along each axis, whatever its width; the way it
treats the border is part of the matrix. Thin axes are never mixed.
"""

import math

import numpy as np
import tensorflow as tf

from data_prep.augment.limits import check_between
from data_prep.augment.limits import check_range


def blur(draws, space, *, sigma: list[float] = (0.5, 1.0), channel_probability: float = 0.5):
    """Blurs with a Gaussian; each channel and axis draws its own width.

    Args:
        draws: `Draws`.
        space: `Space`; thin axes are not blurred.
        sigma: Range of the standard deviation, in voxels; 0 is the identity.
        channel_probability: Share of the channels that are blurred, in [0, 1].

    Reference:
        Isensee et al., "nnU-Net", Nature Methods 2021, doi:10.1038/s41592-020-01008-z, and its
        defaults. There thin axes are blurred too, and kernels end at 3 sigma or before.
    """
    low, high = check_range("blur.sigma", sigma, least=0)
    axes = _axes_to_filter(draws, space, "blur", channel_probability)
    width = tf.where(axes, draws.uniform("sigma", low, high, space.channels, 3), 0.0)
    return lambda image: gaussian_blur(image, width)


def sharpen(
    draws,
    space,
    *,
    amount: list[float] = (0.1, 1.0),
    sigma: list[float] = (0.5, 1.0),
    channel_probability: float = 0.5,
):
    """Sharpens by an unsharp mask: adds what a Gaussian blur would take away.

    Args:
        draws: `Draws`.
        space: `Space`; nothing is sharpened along thin axes.
        amount: Range of the factor on what is added; 0 is the identity.
        sigma: Range of the blur's standard deviation, in voxels; 0 is the identity.
        channel_probability: Share of the channels that are sharpened, in [0, 1].

    Reference:
        Gonzalez and Woods, "Digital Image Processing", section 3.6: unsharp masking. Amount and
        share as in nnU-Net's `nnUNetTrainerDA5`, which adds a Laplacian of 3 voxels instead.
    """
    amounts = check_range("sharpen.amount", amount, least=0)
    low, high = check_range("sharpen.sigma", sigma, least=0)
    axes = _axes_to_filter(draws, space, "sharpen", channel_probability)
    factor = draws.uniform("amount", *amounts, space.channels)
    width = tf.where(axes, draws.uniform("sigma", low, high, space.channels, 1), 0.0)
    return lambda image: unsharp_mask(image, factor, width)


def low_resolution(
    draws, space, *, scale: list[float] = (0.5, 1.0), channel_probability: float = 0.5
):
    """Shows the image as if it had been taken with fewer voxels; each channel draws a scale.

    Args:
        draws: `Draws`.
        space: `Space`; thin axes keep their voxels.
        scale: Range of the share of voxels kept along each axis, in [0, 1], of which at least
            one is; 1 is the identity.
        channel_probability: Share of the channels that are changed, in [0, 1].

    Reference:
        Isensee et al., "nnU-Net", Nature Methods 2021, doi:10.1038/s41592-020-01008-z, and its
        defaults.
    """
    low, high = check_range("low_resolution.scale", scale, least=0, most=1)
    axes = _axes_to_filter(draws, space, "low_resolution", channel_probability)
    kept = tf.where(axes, draws.uniform("scale", low, high, space.channels, 1), 1.0)
    return lambda image: reduce_resolution(image, kept)


def gaussian_blur(image, sigma, *, truncate=6.0):
    """Convolves with a Gaussian along each axis.

    The image goes on as its mirror image, the edge voxel not repeated (NumPy's "reflect",
    SciPy's "mirror"). The kernel sums to 1 and is cut where it would pass a second mirror.

    Args:
        image: float32, shape `(batch, channels, depth, height, width)`.
        sigma: Standard deviation in voxels, 0 or more: float32, shape `(batch, channels, 3)`;
            0 leaves the axis as it is, exactly.
        truncate: The kernel reaches `round(truncate * sigma)` voxels to either side.

    Returns:
        float32, the shape of `image`.
    """
    for axis in range(3):
        side = image.shape[axis + 2]
        image = add_along(image, _gaussian_change(sigma[..., axis], side, truncate), axis)
    return image


def unsharp_mask(image, amount, sigma):
    """Returns `image + amount * (image - gaussian_blur(image, sigma))`, without clipping.

    Args:
        image: float32, shape `(batch, channels, depth, height, width)`.
        amount: float32, shape `(batch, channels)`; 0 is the identity, exactly.
        sigma: As in `gaussian_blur`; 0 is the identity, exactly.

    Returns:
        float32, the shape of `image`.
    """
    return image + amount[:, :, None, None, None] * (image - gaussian_blur(image, sigma))


def reduce_resolution(image, scale):
    """Takes every axis from `n` to `round(n * scale)` voxels and back to `n`.

    Down: the voxel in which the coarse voxel's middle lies, the upper one on a boundary
    (PyTorch's "nearest-exact", here in integers, there in float32). Up: linear between the
    coarse voxels' middles and constant beyond (`align_corners=False`).

    Args:
        image: float32, shape `(batch, channels, depth, height, width)`.
        scale: Share of the voxels kept, in [0, 1] and at least one voxel: float32, shape
            `(batch, channels, 3)`; 1 leaves the axis as it is, exactly.

    Returns:
        float32, the shape of `image`.
    """
    for axis in range(3):
        image = add_along(image, _coarse_change(scale[..., axis], image.shape[axis + 2]), axis)
    return image


def add_along(image, matrix, axis):
    """Returns `line + matrix @ line` for every line of the image along one axis.

    A matrix of zeros is thus the identity, exactly, on devices too that round the factors of a
    product (TF32).

    Args:
        image: float32, shape `(batch, channels, depth, height, width)`.
        matrix: float32, shape `(batch, channels, n, n)`, `n` the side along the axis.
        axis: 0 (depth), 1 (height) or 2 (width).
    """
    if axis == 2:
        return image + tf.matmul(image, matrix[:, :, None], transpose_b=True)
    side, *after = image.shape[axis + 2 :]
    lines = tf.reshape(image, (*image.shape[:2], -1, side, math.prod(after)))
    return image + tf.reshape(tf.matmul(matrix[:, :, None], lines), image.shape)


def _axes_to_filter(draws, space, name, channel_probability):
    """Bool `(batch, channels, 3)`: the axes that are not thin, of channels drawn at random."""
    share = check_between(f"{name}.channel_probability", channel_probability, 0, 1)
    return draws.chance("channel", share, space.channels)[..., None] & ~space.thin[:, None]


def _gaussian_change(sigma, side, truncate):
    """Matrices of the Gaussian, less the identity: `(batch, channels)` to `(..., side, side)`."""
    i, j = np.ogrid[:side, :side]
    distances = (
        abs(i - j),
        np.where(j > 0, i + j, np.inf),
        np.where(j < side - 1, 2 * (side - 1) - i - j, np.inf),
    )
    sigma, weight = sigma[..., None, None], 0.0
    for distance in np.float32(distances):
        kernel = tf.exp(-0.5 * tf.square(distance / tf.maximum(sigma, 1e-6)))
        weight += tf.where(distance <= truncate * sigma + 0.5, kernel, 0.0)
    return weight / tf.reduce_sum(weight, axis=-1, keepdims=True) - tf.eye(side)


def _coarse_change(scale, side):
    """Matrices of the way down and up, less the identity: as `_gaussian_change`."""
    coarse = tf.maximum(tf.cast(tf.round(scale * side), tf.int32), 1)[..., None]
    middle = tf.maximum((2 * tf.range(side) + 1) * coarse - side, 0)  # in 1 / (2 side) voxels
    below = middle // (2 * side)
    share = tf.cast(middle - 2 * side * below, tf.float32)[..., None] / (2 * side)
    above = tf.minimum(below + 1, coarse - 1)
    first, second = (
        tf.one_hot((2 * voxel + 1) * side // (2 * coarse), side) for voxel in (below, above)
    )
    return first * (1 - share) + second * share - tf.eye(side)
