"""What the first stage of a cascade finds in an image, as further channels of it."""

import tensorflow as tf

from segkit.volume import axis_moves


def append_priors(image, spacing_mm, first, orientation, count, on_tile=None):
    """Appends a channel of 0 and 1 for each class that a first stage finds.

    Twin of `data_prep.priors.read_with_priors`.

    Args:
        image: float32, shape `(depth, height, width, channels)`, intensities as read.
        spacing_mm: float32, shape `(3,)`: voxel size per axis.
        first: Module with `orientation` and `segment(image, spacing_mm, on_tile)`.
        orientation: Axis letters of `image`.
        count: Number of classes of the first stage without the background.
        on_tile: As for `segment`.

    Returns:
        float32, shape `(depth, height, width, channels + count)`.
    """
    order, _ = axis_moves(orientation, first.orientation)
    turned = turn(image, orientation, first.orientation)
    found = first.segment(turned, tf.gather(spacing_mm, order), on_tile=on_tile)
    found = turn(found, first.orientation, orientation)
    priors = tf.one_hot(found - 1, count, dtype=tf.float32)  # the background, -1, is in none
    return tf.concat([image, priors], axis=-1)


def turn(array, source, target):
    """Permutes and flips the first three axes from one orientation to another.

    Args:
        array: Tensor of shape `(depth, height, width, ...)`.
        source: Its orientation, three letters.
        target: The one wanted.
    """
    order, flips = axis_moves(source, target)
    array = tf.transpose(array, (*order, *range(3, len(array.shape))))
    return tf.reverse(array, [axis for axis, flip in enumerate(flips) if flip])
