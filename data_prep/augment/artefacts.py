"""What goes wrong in a scanner, and boxes cut out; the label stays as it is.

Artefacts of k-space are applied in image space, exactly and without a Fourier transform: a spike
is a wave, and weaker lines are a circulant matrix. The k-space is that of the patch.
"""

import math

import numpy as np
import tensorflow as tf

from data_prep.augment.filters import add_along
from data_prep.augment.limits import check_between
from data_prep.augment.limits import check_range

_VOXELS = (2, 3, 4)


def bias_field(draws, space, *, coefficient: float = 0.5, order: int = 3):
    """Multiplies by a smooth field, as the coil of an MR scanner does; one for all channels.

    Args:
        draws: `Draws`.
        space: `Space`.
        coefficient: Largest magnitude of the field's coefficients, 0 or more; 0 is the identity.
            At order 3, 0.5 gives a standard deviation of the log-field of about 0.5.
        order: Highest total degree of its polynomials, 1 to 3.

    Reference:
        Van Leemput et al., "Automated model-based bias field correction of MR images of the
        brain", IEEE TMI 1999, doi:10.1109/42.811268; range and order as in TorchIO's
        `RandomBiasField`. There with monomials and a constant; here with Legendre polynomials
        and without, so that the mean of the log-field over the patch is 0.
    """
    terms = len(_degrees(check_between("bias_field.order", order, 1, 3)))
    limit = check_between("bias_field.coefficient", coefficient, 0, math.inf)
    coefficients = draws.uniform("coefficients", -limit, limit, terms)
    return lambda image: multiply_bias(image, coefficients, order=order)


def spike(draws, space, *, spikes: int = 1, intensity: list[float] = (0.1, 0.5)):
    """Adds spikes in k-space, each of which is stripes over the image (herringbone artefact).

    Args:
        draws: `Draws`.
        space: `Space`.
        spikes: Number of spikes in each channel, 1 to 3: anywhere in k-space.
        intensity: Range of the stripes' amplitude, in standard deviations of the channel; 0 is
            the identity.

    Reference:
        TorchIO's `RandomSpike` (Pérez-García et al., 2021, doi:10.1016/j.cmpb.2021.106236).
        There amplitudes are relative to the largest value in k-space, which for normalised
        images is no longer the one at the centre.
    """
    low, high = check_range("spike.intensity", intensity, least=0)
    shape = (space.channels, check_between("spike.spikes", spikes, 1, 3))
    sides = np.array(space.patch)
    first = np.float32(-(sides // 2))
    cycles = draws.uniform("cycles", first, first + sides, *shape, 3)
    cycles = draws.note("cycles", tf.floor(cycles))
    phase = draws.uniform("phase", 0.0, 2 * math.pi, *shape)
    strength = draws.uniform("intensity", low, high, *shape)
    return lambda image: add_spikes(image, cycles, phase, strength)


def ghosting(
    draws,
    space,
    *,
    ghosts: list[int] = (4, 10),
    intensity: list[float] = (0.5, 1.0),
    restore: float = 0.0,
):
    """Repeats the image along one axis, as periodic motion does; each channel draws its own.

    Args:
        draws: `Draws`.
        space: `Space`; the axis is any of those that are not thin, all equally likely.
        ghosts: Range of their number `n`, 1 or more: every n-th line of k-space is weakened,
            which changes nothing along a side shorter than `2 n` voxels.
        intensity: Range of the share taken from these lines, in [0, 1]; 0 is the identity.
        restore: Share of the lines, about the centre of k-space, that are kept, in [0, 1]; the
            line at the centre always is. 1 is the identity.

    Reference:
        TorchIO's `RandomGhosting` and its defaults (Pérez-García et al., 2021,
        doi:10.1016/j.cmpb.2021.106236). There lines are counted from the edge of k-space.
    """
    low, high = check_range("ghosting.intensity", intensity, least=0, most=1)
    fewest, most = check_range("ghosting.ghosts", ghosts, least=1)
    check_between("ghosting.restore", restore, 0, 1)
    number = tf.floor(draws.uniform("ghosts", fewest, most + 1, space.channels))
    number = draws.note("ghosts", tf.minimum(number, most))
    strength = draws.uniform("intensity", low, high, space.channels, 1)
    strength = tf.where(_one_axis(draws, space), strength, 0.0)
    return lambda image: add_ghosts(image, number, strength, restore=restore)


def cutout(draws, space, *, boxes: int = 1, size: list[float] = (0.1, 0.3)):
    """Sets boxes of the image to each channel's mean, the same boxes in all channels.

    Args:
        draws: `Draws`.
        space: `Space`.
        boxes: Number of boxes, 1 to 5; their middles lie anywhere in the patch.
        size: Range of a box's side as a share of the patch's, in [0, 1], each side apart; 0 is
            the identity. Sides are rounded up to whole voxels.

    Reference:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
        Cutout", arXiv:1708.04552: one square of fixed size, set to the mean of the data set.
    """
    low, high = check_range("cutout.size", size, least=0, most=1)
    shape = (check_between("cutout.boxes", boxes, 1, 5), 3)
    sides = np.float32(space.patch)
    side = tf.math.ceil(draws.uniform("size", low, high, *shape) * sides)
    middle = tf.floor(draws.uniform("middle", 0.0, sides, *shape))
    return lambda image: fill_boxes(image, middle - side // 2, side)


def multiply_bias(image, coefficients, *, order):
    """Returns `low + (image - low) * exp(field)`, `low` the least value of each channel.

    Normalisation has moved the scanner's zero, where a field has no effect; the least value of
    the patch stands for it. The field is `sum c_ijk P_i(z) P_j(y) P_k(x)` with Legendre
    polynomials over [-1, 1] across the patch, less their mean: along a side of one voxel they
    are 0.

    Args:
        image: float32, shape `(batch, channels, depth, height, width)`.
        coefficients: float32, shape `(batch, terms)`, the terms by `i`, `j`, then `k`, with
            `1 <= i + j + k <= order`: 3, 9 or 19 of them; all 0 are the identity, exactly.
        order: Highest total degree, 1 or more.

    Returns:
        float32, the shape of `image`.
    """
    place = np.zeros((order + 1,) * 3, int)
    for number, degrees in enumerate(_degrees(order), start=1):
        place[degrees] = number
    field = tf.gather(tf.pad(coefficients, [[0, 0], [1, 0]]), place, axis=1)
    for side in image.shape[2:]:
        field = tf.tensordot(field, _legendre(side, order), [[1], [1]])
    low = tf.reduce_min(image, axis=_VOXELS, keepdims=True)
    return image + (image - low) * tf.math.expm1(field)[:, None]


def add_spikes(image, cycles, phase, strength):
    """Adds `strength * std * cos(2 pi * cycles . place / sides + phase)` for every spike.

    `std` is the channel's standard deviation. In k-space this is half of the amplitude at
    `cycles` and half, conjugate, opposite to it.

    Args:
        image: float32, shape `(batch, channels, depth, height, width)`.
        cycles: Waves across the patch along each axis: float32, whole numbers, shape
            `(batch, channels, spikes, 3)`.
        phase: In radians: float32, shape `(batch, channels, spikes)`.
        strength: float32, as `phase`; 0 is the identity, exactly.

    Returns:
        float32, the shape of `image`.
    """
    depth, height, width = (
        _angles(cycles[..., axis], side) for axis, side in enumerate(image.shape[2:])
    )
    plane = depth[:, :, :, None] + height[:, :, None] + phase[:, :, None, None]
    amplitude = (strength * tf.math.reduce_std(image, axis=_VOXELS)[..., None])[:, :, None, None]
    rows = tf.concat([amplitude * tf.cos(plane), -amplitude * tf.sin(plane)], axis=-1)
    columns = tf.concat([tf.cos(width), tf.sin(width)], axis=-1)[:, :, None]
    return image + tf.matmul(rows, columns, transpose_b=True)


def add_ghosts(image, ghosts, strength, *, restore=0.0):
    """Scales every `ghosts`-th line of k-space, counted from its centre, by `1 - strength`.

    Args:
        image: float32, shape `(batch, channels, depth, height, width)`.
        ghosts: float32, whole numbers from 1, shape `(batch, channels)`.
        strength: In [0, 1], along each axis: float32, shape `(batch, channels, 3)`; 0 leaves
            the axis as it is, exactly.
        restore: Lines up to this share of the highest frequency are kept; the centre always is.

    Returns:
        float32, the shape of `image`.
    """
    for axis in range(3):
        matrix = _lines_taken(ghosts, image.shape[axis + 2], restore)
        image = add_along(image, -strength[..., axis, None, None] * matrix, axis)
    return image


def fill_boxes(image, start, side):
    """Sets boxes to the mean of each channel, taken over the whole patch.

    Args:
        image: float32, shape `(batch, channels, depth, height, width)`.
        start: First voxel along each axis, which may lie outside: float32, whole numbers, shape
            `(batch, boxes, 3)`.
        side: Voxels along each axis, as `start`; 0 is the identity, exactly.

    Returns:
        float32, the shape of `image`.
    """
    inside = []
    for axis, n in enumerate(image.shape[2:]):
        offset = tf.range(n, dtype=tf.float32)[:, None] - start[:, None, :, axis]
        inside.append(tf.cast((offset >= 0) & (offset < side[:, None, :, axis]), tf.float32))
    depth, height, width = inside
    boxes = tf.matmul(depth[:, :, None] * height[:, None], width[:, None], transpose_b=True)
    mean = tf.reduce_mean(image, axis=_VOXELS, keepdims=True)
    return tf.where(boxes[:, None] > 0, mean, image)


def _one_axis(draws, space):
    """Bool `(batch, channels, 3)`: one axis drawn among those that are not thin."""
    allowed = tf.cast(~space.thin, tf.float32)[:, None]
    end = tf.cumsum(allowed, axis=2)
    pick = draws.uniform("axis", 0.0, end[..., -1], space.channels)[..., None]
    return (end - allowed <= pick) & (pick < end)


def _degrees(order):
    """Exponents `(i, j, k)` of total degree 1 to `order`."""
    return [d for d in np.ndindex(*(order + 1,) * 3) if 1 <= sum(d) <= order]


def _legendre(side, order):
    """Legendre polynomials at the middles of voxels over [-1, 1]: float32 `(side, order + 1)`."""
    values = np.polynomial.legendre.legvander((2 * np.arange(side) + 1) / side - 1, order)
    values[:, 1:] -= values[:, 1:].mean(axis=0)
    return np.float32(values)


def _angles(cycles, side):
    """Phase of waves at each voxel, 0 to 2 pi: `(..., spikes)` to `(..., side, spikes)`."""
    steps = cycles[..., None, :] * tf.range(side, dtype=tf.float32)[:, None]
    return tf.math.floormod(steps, side) * (2 * math.pi / side)


def _lines_taken(ghosts, side, restore):
    """Projects on the lines that ghosts take from: `(batch, channels)` to `(..., side, side)`."""
    place = np.arange(side)
    line = (place + side // 2) % side - side // 2
    taken = tf.math.floormod(np.float32(line), ghosts[..., None]) == 0
    taken &= abs(line) > restore * side / 2
    waves = np.cos(2 * np.pi / side * line[:, None] * place) / side
    kernel = tf.tensordot(tf.cast(taken, tf.float32), np.float32(waves), 1)
    return tf.gather(kernel, (place[:, None] - place) % side, axis=-1)
