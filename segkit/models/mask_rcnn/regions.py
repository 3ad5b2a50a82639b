"""Features of regions, cut from the pyramid: ROIAlign."""

import math

import tensorflow as tf

from segkit.models.mask_rcnn import garden

CELLS = 14  # a region has 14 to 28 cells of its level along a side


def roi_align(features, boxes, *, levels, size):
    """Returns the features of boxes, each from the level of the pyramid that fits its area.

    A box is cut into `size` x `size` cells, and at the centre of each the features are interpolated
    linearly. Feature `i` of a level stands at the centre of its cell, `(i + 0.5) * 2**level`
    pixels, so half a cell is taken off coordinates; Model Garden's version, which this one agrees
    with otherwise, does not, and it needs images whose sides are known.

    Args:
        features: List of feature maps `(B, rows, columns, C)`, finest first.
        boxes: float32 `(B, n, 4)`.
        levels: Level of each feature map, whose stride is `2**level`.
        size: Side of the result.

    Returns:
        `(B, n, size, size, C)`, of the dtype of the features.

    Reference:
        He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870, section 3, with one point per cell;
        the level: Lin et al., "Feature Pyramid Networks", CVPR 2017, arXiv:1612.03144, equation 1.
    """
    shapes = tf.stack([tf.shape(level)[1:3] for level in features])
    starts = tf.cumsum(tf.reduce_prod(shapes, axis=-1), exclusive=True)
    batch, channels = tf.shape(boxes)[0], features[0].shape[-1]
    joined = tf.concat([tf.reshape(level, (batch, -1, channels)) for level in features], axis=1)

    level = box_levels(boxes, levels)
    strides = tf.pow(2.0, tf.cast(level, tf.float32))[..., None]
    shape = tf.gather(shapes, level - levels[0])
    scaled = boxes / strides
    rows, y_weights = _neighbours(scaled[..., 0], scaled[..., 2], shape[..., 0], size)
    columns, x_weights = _neighbours(scaled[..., 1], scaled[..., 3], shape[..., 1], size)
    places = rows[..., :, None] * shape[..., 1, None, None] + columns[..., None, :]
    places += tf.gather(starts, level - levels[0])[..., None, None]
    corners = tf.gather(joined, places, batch_dims=1)
    return garden.interpolate(corners, y_weights, x_weights)


def box_levels(boxes, levels):
    """Returns the level of each box, int32 `(B, n)`: 14 to 28 cells, or the nearest to that."""
    sides = boxes[..., 2:] - boxes[..., :2]
    area = tf.maximum(sides[..., 0] * sides[..., 1], 1e-6)
    level = tf.floor(0.5 * tf.math.log(area / CELLS**2) / math.log(2.0))
    return tf.clip_by_value(tf.cast(level, tf.int32), levels[0], levels[-1])


def _neighbours(starts, ends, limits, size):
    """The two cells around each point of an axis, `(B, n, 2 * size)`, and their weights."""
    steps = (tf.range(size, dtype=tf.float32) + 0.5) / size
    places = starts[..., None] + steps * (ends - starts)[..., None] - 0.5
    last = tf.cast(limits, tf.float32)[..., None] - 1.0
    places = tf.clip_by_value(places, 0.0, last)
    lower = tf.floor(places)
    upper = tf.minimum(lower + 1.0, last)
    share = places - lower
    cells = tf.cast(tf.stack([lower, upper], axis=-1), tf.int32)
    cells = tf.reshape(cells, (*tf.unstack(tf.shape(starts)), 2 * size))
    return cells, tf.stack([1.0 - share, share], axis=-1)
