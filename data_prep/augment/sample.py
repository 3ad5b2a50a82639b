"""Reading image and label at coordinates between the voxels: the one interpolation."""

import itertools

import tensorflow as tf

from segkit.errors import ConfigError


def interpolate(rows, sizes, points, order=1):
    """Reads images between their voxels; outside of the image everything is 0.

    Args:
        rows: Images, any number type, shape `(batch, n, channels)`: voxels in C order; rows
            after the last voxel are never read.
        sizes: int32, shape `(batch, 3)`: side lengths of each image.
        points: float32, shape `(batch, 3, depth, height, width)`: coordinates in voxels.
        order: 0: the nearest voxel, 1: linear (as `scipy.ndimage.map_coordinates(order=1,
            mode="grid-constant")`), 3: cubic convolution with a = -1/2 (Keys, 1981,
            doi:10.1109/TASSP.1981.1163711, equation 15). Across a slice (a side of 1 in
            `points`) always the nearest.

    Returns:
        `(values, cover)`: float32 `(batch, depth, height, width, channels)`, and
        `(batch, depth, height, width, 1)`: the share of the weights that fell inside. Where an
        image is stored as `v * slope + intercept`, it reads `values * slope + cover * intercept`.

    Raises:
        ConfigError: For any other `order`.
    """
    if order not in _TAPS:
        raise ConfigError(f"augment: interpolation order must be 0, 1 or 3, got {order!r}.")
    batch, length = tf.shape(rows)[0], tf.shape(rows)[1]
    flat = tf.reshape(rows, (-1, rows.shape[-1]))
    first = tf.reshape(tf.range(batch) * length, (-1, 1, 1, 1))
    orders = [order if side > 1 else 0 for side in points.shape[2:]]
    taps = [_taps(points[:, n], sizes[:, n], orders[n]) for n in range(3)]
    strides = (sizes[:, 1] * sizes[:, 2], sizes[:, 2], tf.ones_like(sizes[:, 2]))
    values, cover = 0.0, 0.0
    for corner in itertools.product(*taps):
        index, weight = first, 1.0
        for (place, share), stride in zip(corner, strides, strict=True):
            index, weight = index + place * _column(stride), weight * share
        weight = weight[..., None]
        values += tf.cast(tf.gather(flat, index), tf.float32) * weight
        cover += weight
    return values, cover


def nearest(rows, sizes, points):
    """Reads labels at the nearest voxel; outside of the image they are 0.

    Args:
        rows: Labels, any integer type, shape `(batch, n)`.
        sizes: As in `interpolate`.
        points: As in `interpolate`.

    Returns:
        The dtype of `rows`, shape `(batch, depth, height, width)`.
    """
    batch, length = tf.shape(rows)[0], tf.shape(rows)[1]
    index, inside, stride = tf.reshape(tf.range(batch) * length, (-1, 1, 1, 1)), True, 1
    for axis in (2, 1, 0):
        ((place, share),) = _taps(points[:, axis], sizes[:, axis], 0)
        index, inside = index + place * stride, inside & (share > 0)
        stride = stride * _column(sizes[:, axis])
    return tf.where(inside, tf.gather(tf.reshape(rows, [-1]), index), tf.zeros((), rows.dtype))


# Offsets from the voxel before the point (order 0: from the nearest), and the weight of each.
_TAPS = {
    0: {0: tf.ones_like},
    1: {0: lambda t: 1.0 - t, 1: tf.identity},
    3: {
        -1: lambda t: ((2.0 - t) * t - 1.0) * t / 2.0,
        0: lambda t: ((3.0 * t - 5.0) * t * t + 2.0) / 2.0,
        1: lambda t: ((4.0 - 3.0 * t) * t + 1.0) * t / 2.0,
        2: lambda t: (t - 1.0) * t * t / 2.0,
    },
}


def _taps(x, size, order):
    """Pairs (voxel along one axis, its weight), the weight 0 outside of the image."""
    size = tf.cast(_column(size), tf.float32)
    floor = tf.floor(x + 0.5 if order == 0 else x)
    t, taps = x - floor, []
    for offset, weight in _TAPS[order].items():
        place = floor + offset
        inside = tf.cast((place >= 0) & (place < size), tf.float32)
        index = tf.cast(tf.clip_by_value(place, 0.0, size - 1), tf.int32)
        taps.append((index, weight(t) * inside))
    return taps


def _column(x):
    return tf.reshape(x, (-1, 1, 1, 1))
