"""Anchors: boxes of given sides and aspects around each cell of each level of the pyramid."""

import numpy as np
import tensorflow as tf

from segkit.models.mask_rcnn import garden

CELLS = 8  # side of an anchor in cells of its level, where no sides are given


def level_sides(sides, levels):
    """Returns one anchor side per level, in pixels.

    Args:
        sides: Sides in rising order, one per level; with another number of them they are
            interpolated between the smallest and the largest, evenly in their logarithm. `None`:
            8 cells of the level, those of the paper on feature pyramids.
        levels: Levels of the pyramid, in rising order; the stride of level `n` is `2**n`.
    """
    if sides is None:
        return [float(CELLS * 2**level) for level in levels]
    places = np.linspace(0, 1, len(levels))
    known = np.linspace(0, 1, len(sides))
    return [float(side) for side in np.exp(np.interp(places, known, np.log(sides)))]


def make_anchors(shapes, sides, aspects, levels):
    """Returns the anchors of all levels, float32 `(anchors, 4)`.

    They are ordered by level, row, column and aspect, as the outputs of the proposal network are.

    Args:
        shapes: Rows and columns of each level's feature map, numbers or scalar tensors.
        sides: From `level_sides`.
        aspects: Height over width.
        levels: As above.
    """
    found = []
    for (rows, columns), side, level in zip(shapes, sides, levels, strict=True):
        first = garden.cell_anchors(side, aspects, 2**level)
        y = tf.cast(tf.range(rows) * 2**level, tf.float32)[:, None]
        x = tf.cast(tf.range(columns) * 2**level, tf.float32)[None, :]
        y, x = y + tf.zeros_like(x), x + tf.zeros_like(y)
        shifts = tf.stack([y, x, y, x], axis=-1)
        found.append(tf.reshape(shifts[:, :, None] + first, (-1, 4)))
    return tf.concat(found, axis=0)
