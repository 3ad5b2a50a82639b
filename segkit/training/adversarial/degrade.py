"""What is taken from images on graph: holes, noise, resolution, contrast; drawn by example.

Random numbers come from the keys of the training step (`segkit.layers.step_context`), so what is
done to an example does not depend on the batch around it.
"""

import math

import numpy as np
import tensorflow as tf

from segkit.layers.per_example import normal
from segkit.layers.per_example import uniform

_PIECES = 3  # largest number of boxes, strokes or bands that a hole is made of
_TURNS = 6  # straight parts of a stroke


def between(name, batch, limits):
    """Draws a number uniform in `limits` = (low, high) for each example, float32 `(batch,)`."""
    low, high = limits
    return low + (high - low) * uniform(name, None, batch, ())


def draw_holes(batch, sides, *, share, kinds):
    """Draws holes that cover a share of each example.

    Each kind gives every voxel a level that grows away from a few random shapes; the voxels of
    the lowest levels are the hole, as many as the share asks for. Where voxels of one level (a
    face of a box, a whole row) would have to be told apart, all of them are in or out, whichever
    comes nearer. Some voxel always stays known.

    Args:
        batch: Number of examples.
        sides: Side lengths of an example.
        share: `(low, high)`: range of the share of voxels, within (0, 1).
        kinds: Keys of `HOLES`; each example draws one.

    Returns:
        float32, shape `(batch, *sides, 1)`: 1 in holes, else 0.
    """
    chosen = tf.floor(uniform("holes kind", None, batch, (1,)) * len(kinds))
    levels = tf.zeros((batch, math.prod(sides)))
    for number, kind in enumerate(kinds):
        levels = tf.where(chosen == number, HOLES[kind](batch, sides), levels)
    inside = _lowest(levels, between("holes share", batch, share))
    return tf.reshape(tf.cast(inside, tf.float32), (batch, *sides, 1))


def boxes(batch, sides):
    """Returns the levels `(batch, voxels)` of up to three boxes of any proportions."""
    rank = len(sides)
    numbers = uniform("holes boxes", None, batch, (_PIECES, 2, rank))
    centre, extent = numbers[:, :, 0] * _last(sides), (0.5 + numbers[:, :, 1]) * _last(sides)
    distance = tf.abs(_middles(sides) - centre[:, :, None]) / extent[:, :, None]
    return _nearest("holes boxes used", tf.reduce_max(distance, axis=-1))


def strokes(batch, sides):
    """Returns the levels `(batch, voxels)` of up to three free-form strokes.

    Reference: the free-form masks of Yu et al., "Free-Form Image Inpainting with Gated
    Convolution", ICCV 2019, arXiv:1806.03589, algorithm 1, here of a width that gives the share.
    """
    rank = len(sides)
    start = uniform("holes starts", None, batch, (_PIECES, 1, rank))
    steps = 0.8 * (uniform("holes steps", None, batch, (_PIECES, _TURNS, rank)) - 0.5)
    corners = tf.clip_by_value(tf.cumsum(tf.concat([start, steps], 2), axis=2), 0.0, 1.0)
    corners = corners * _last(sides)
    first, along = corners[:, :, :-1, None], (corners[:, :, 1:] - corners[:, :, :-1])[..., None, :]
    away = _middles(sides) - first
    length = tf.maximum(tf.reduce_sum(along**2, axis=-1), 1e-12)
    place = tf.clip_by_value(tf.reduce_sum(away * along, axis=-1) / length, 0.0, 1.0)
    distance = tf.reduce_sum((away - place[..., None] * along) ** 2, axis=-1)
    return _nearest("holes strokes used", tf.reduce_min(distance, axis=2))


def bands(batch, sides):
    """Returns the levels `(batch, voxels)` of up to three bands of whole rows, or slices."""
    centre = uniform("holes bands", None, batch, (_PIECES, 1)) * sides[0]
    distance = tf.abs(tf.range(sides[0], dtype=tf.float32) + 0.5 - centre)
    return tf.repeat(_nearest("holes bands used", distance), math.prod(sides[1:]), axis=-1)


HOLES = {"box": boxes, "stroke": strokes, "band": bands}


def add_gaussian_noise(images, std):
    """Adds independent Gaussian noise of mean 0 to every voxel and channel.

    Args:
        images: float32, shape `(batch, *sides, channels)`.
        std: float32, shape `(batch,)`, 0 or more; 0 is the identity.
    """
    noise = normal("gaussian noise", None, tf.shape(images)[0], images.shape[1:])
    return images + _per_voxel(std, images) * noise


def add_rician_noise(images, std):
    """Makes the magnitude of a signal with Gaussian noise in its real and its imaginary part.

        zero + sqrt((images - zero + std * a) ** 2 + (std * b) ** 2)

    with standard normal `a` and `b`. A normalised image no longer knows where the magnitude is 0,
    so `zero` is the smallest value of the channel in the example.

    Args:
        images: As in `add_gaussian_noise`.
        std: As in `add_gaussian_noise`.

    Reference:
        Gudbjartsson and Patz, "The Rician Distribution of Noisy MRI Data", Magnetic Resonance
        in Medicine 34, 1995, doi:10.1002/mrm.1910340618, equation 1.
    """
    axes = list(range(1, len(images.shape) - 1))
    zero, std = tf.reduce_min(images, axes, keepdims=True), _per_voxel(std, images)
    noise = normal("rician noise", None, tf.shape(images)[0], (2, *images.shape[1:]))
    power = tf.square(images - zero + std * noise[:, 0]) + tf.square(std * noise[:, 1])
    return tf.where(std > 0, zero + tf.sqrt(power), images)


def lower_contrast(images, factor):
    """Brings every value nearer to the mean of its channel in the example.

    Args:
        images: As in `add_gaussian_noise`.
        factor: float32, shape `(batch,)`: share of the contrast that is kept; 1 is the identity.
    """
    axes = list(range(1, len(images.shape) - 1))
    mean = tf.reduce_mean(images, axes, keepdims=True)
    return images - (1.0 - _per_voxel(factor, images)) * (images - mean)


def lower_resolution(images, scale):
    """Shows images as if they had been taken with fewer voxels along every axis.

    Blurred by a Gaussian against aliasing (sigma half of what a coarse voxel is longer than a
    fine one, as scikit-image's `resize`; beyond the edge goes the mirror image, the edge voxel
    not repeated), taken at the middles of `round(scale * side)` coarse voxels, and linearly
    interpolated back onto the fine ones.

    Args:
        images: As in `add_gaussian_noise`.
        scale: float32, shape `(batch,)`, in (0, 1]: share of the voxels of an axis that are
            kept, of which at least one is; 1 is the identity, exactly.
    """
    for axis, side in enumerate(images.shape[1:-1], start=1):
        before, after = (math.prod(x) for x in (images.shape[1:axis], images.shape[axis + 1 :]))
        lines = tf.reshape(images, (-1, before, side, after))
        # The change alone, so that none stays none where a device rounds the factors (TF32).
        change = _coarse(scale, side) - tf.eye(side)
        changed = lines + tf.einsum("bij,bpjq->bpiq", change, lines)
        images = tf.reshape(changed, (-1, *images.shape[1:]))
    return images


def _last(sides):
    return tf.constant(sides, tf.float32)


def _middles(sides):
    """Middles of all voxels, in voxels, `(voxels, axes)`."""
    grid = np.stack(np.indices(sides), axis=-1).reshape(-1, len(sides))
    return tf.constant(grid + 0.5, tf.float32)


def _nearest(name, distance):
    """Least distance to the pieces in use, at least one of them: `(batch, pieces, voxels)`."""
    used = tf.floor(uniform(name, None, tf.shape(distance)[0], (1, 1)) * _PIECES)
    numbers = tf.range(_PIECES, dtype=tf.float32)[:, None]
    return tf.reduce_min(tf.where(numbers <= used, distance, np.inf), axis=1)


def _lowest(levels, share):
    """Bool, the shape of `levels`: the voxels of the lowest ones."""
    voxels = levels.shape[-1]
    wanted = tf.clip_by_value(tf.round(share * voxels), 1.0, voxels)
    ranked = tf.sort(levels, axis=-1)
    last = tf.gather(ranked, tf.cast(wanted, tf.int32)[:, None] - 1, batch_dims=1)
    below, upto = levels < last, levels <= last
    fewer, more = (tf.reduce_sum(tf.cast(x, tf.float32), axis=-1) for x in (below, upto))
    strict = (wanted - fewer < more - wanted) & (fewer > 0)
    return tf.where(strict[:, None], below, upto) & (levels < ranked[:, -1:])


def _coarse(scale, side):
    """Matrices `(batch, side, side)` of blurring, coarse voxels and the way back to fine ones."""
    coarse = tf.maximum(tf.round(scale * side), 1.0)[:, None]
    factor, index = side / coarse, tf.range(side, dtype=tf.float32)
    up = tf.clip_by_value((index + 0.5) / factor - 0.5, 0.0, coarse - 1.0)
    down = tf.clip_by_value((index + 0.5) * factor - 0.5, 0.0, side - 1.0)
    up, down = (tf.maximum(1.0 - tf.abs(x[..., None] - index), 0.0) for x in (up, down))
    return up @ down @ _gaussian((factor - 1.0) / 2.0, side)


def _gaussian(sigma, side, truncate=4.0):
    """Matrices `(batch, side, side)` of a Gaussian for sigmas `(batch, 1)`; 0: the identity."""
    i, j = np.ogrid[:side, :side]
    distances = (
        abs(i - j),
        np.where(j > 0, i + j, np.inf),
        np.where(j < side - 1, 2 * (side - 1) - i - j, np.inf),
    )
    sigma, weight = sigma[..., None], 0.0
    for distance in np.float32(distances):
        kernel = tf.exp(-0.5 * tf.square(distance / tf.maximum(sigma, 1e-6)))
        weight += tf.where(distance <= truncate * sigma + 0.5, kernel, 0.0)
    return weight / tf.reduce_sum(weight, axis=-1, keepdims=True)


def _per_voxel(values, images):
    return tf.reshape(values, (-1, *[1] * (len(images.shape) - 1)))
