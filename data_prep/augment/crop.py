"""Where a patch is cut out of a stored chunk, and the plain cut without interpolation."""

import numpy as np
import tensorflow as tf


def crop(record, start, patch):
    """Cuts a box out of a chunk; voxels outside of the chunk are 0 in image and label.

    Args:
        record: Mapping with `image` (any number type, `(d, h, w, c)`), `slope` and `intercept`
            (float32, `(c,)`; intensity = image * slope + intercept) and `label` (`(d, h, w)`).
        start: int32, shape `(3,)`: index of the box's first voxel in the chunk; may be negative.
            The box must touch the chunk.
        patch: Side lengths of the box, three ints.

    Returns:
        `(image, label)`: float32 `(*patch, c)`, and `(*patch,)` of the label's dtype.
    """
    low, high = tf.maximum(start, 0), tf.minimum(start + patch, tf.shape(record["label"]))
    padding = tf.stack([low - start, start + patch - high], axis=1)
    image = tf.slice(record["image"], tf.pad(low, [[0, 1]]), tf.concat([high - low, [-1]], 0))
    image = tf.cast(image, tf.float32) * record["slope"] + record["intercept"]
    image = tf.pad(image, tf.pad(padding, [[0, 1], [0, 0]]))
    label = tf.pad(tf.slice(record["label"], low, high - low), padding)
    channels = record["image"].shape[-1]
    return tf.ensure_shape(image, (*patch, channels)), tf.ensure_shape(label, patch)


def random_start(record, patch, forced, draws):
    """Draws where the patch starts, so that it overhangs the chunk as little as it can.

    Args:
        record: As in `crop`, with `foreground` (int32 `(n, 4)`: class and voxel).
        patch: Side lengths of the patch, three ints.
        forced: Bool: centre on a voxel of a class drawn from those that the chunk holds.
        draws: float32, shape `(5,)`, uniform in [0, 1).

    Returns:
        int32, shape `(3,)`.
    """
    room = tf.shape(record["label"]) - patch
    low = tf.where(room < 0, tf.math.floordiv(room, 2), 0)
    high = tf.where(room < 0, -tf.math.floordiv(-room, 2), room)

    def anywhere():
        return low + tf.cast(tf.floor(draws[:3] * tf.cast(high - low + 1, tf.float32)), tf.int32)

    def on_foreground():
        table = record["foreground"]
        kind = _pick(tf.unique(table[:, 0])[0], draws[3])
        voxel = _pick(table[table[:, 0] == kind], draws[4])[1:]
        return tf.clip_by_value(voxel - np.array(patch) // 2, low, high)

    return tf.cond(forced & (tf.shape(record["foreground"])[0] > 0), on_foreground, anywhere)


def _pick(rows, draw):
    size = tf.cast(tf.shape(rows)[0], tf.float32)
    return rows[tf.cast(tf.floor(draw * size), tf.int32)]
