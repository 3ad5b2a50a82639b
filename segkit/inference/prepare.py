"""Preparing and restoring in TensorFlow ops, so that a SavedModel takes what a scanner gives.

Twin of `data_prep/preprocess.py`: crop to nonzero, normalise, resample linearly between voxel
centres, clamped at the edges; and the way back. Shapes may all be dynamic.
"""

import tensorflow as tf

from segkit.priors import SCHEME
from segkit.priors import planned_priors
from segkit.regions import class_map


def prepare(image, spacing_mm, preprocess):
    """Brings an oriented image onto the grid and intensities that the network was trained on.

    Args:
        image: float32, shape `(depth, height, width, channels)`, intensities as read, in the
            orientation of `preprocess`.
        spacing_mm: float32, shape `(3,)`: voxel size per axis.
        preprocess: The manifest's `"preprocess"` entry.

    Returns:
        `(prepared, crop)`: float32 `(d, h, w, channels)`, and int32 `(3, 2)`, the box
        `[low, high)` of `image` that it covers.
    """
    size = tf.shape(image)[:3]
    # To nanometres: a spacing in float32 must give the lengths that the conversion gave.
    spacing_mm = tf.round(tf.cast(spacing_mm, tf.float64) * 1e6) / 1e6
    crop = tf.stack([tf.zeros_like(size), size], axis=1)
    margin_mm = preprocess.get("roi_margin_mm")
    if margin_mm is not None:
        priors = planned_priors(preprocess["normalization"])
        crop = widened(nonzero_box(image[..., -priors:]), size, spacing_mm, margin_mm)
    elif preprocess["crop_to_nonzero"]:
        crop = nonzero_box(image)
    low, high = tf.unstack(crop, axis=1)
    size = high - low
    image = image[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    channels = tf.unstack(image, num=len(preprocess["normalization"]), axis=-1)
    schemes = zip(channels, preprocess["normalization"], strict=True)
    image = tf.stack([normalise(channel, scheme) for channel, scheme in schemes], axis=-1)
    if preprocess["spacing_mm"] is not None:
        ratio = spacing_mm / tf.constant(preprocess["spacing_mm"], tf.float64)
        resampled = tf.cast(tf.round(ratio * tf.cast(size, tf.float64)), tf.int32)
        resampled = tf.where(size == 1, 1, tf.maximum(resampled, 1))
        for axis in range(3):
            image = resample_axis(image, axis, resampled[axis])
    return image, crop


def nonzero_box(image):
    """Returns the box `[low, high)` around all voxels that are not 0 in any channel.

    Args:
        image: Shape `(depth, height, width, channels)`.

    Returns:
        int32, shape `(3, 2)`; the whole extent of an image of zeros.
    """
    nonzero = tf.reduce_any(image != 0, axis=-1)
    box = []
    for axis in range(3):
        hit = tf.reduce_any(nonzero, axis=[n for n in range(3) if n != axis])
        hit = tf.cast(hit | ~tf.reduce_any(hit), tf.int32)
        low = tf.argmax(hit, output_type=tf.int32)
        high = tf.size(hit) - tf.argmax(hit[::-1], output_type=tf.int32)
        box.append([low, high])
    return tf.convert_to_tensor(box)


def widened(box, shape, spacing_mm, margin_mm):
    """Returns a box with a margin on every side, as `data_prep.preprocess.widened`.

    Args:
        box: int32, shape `(3, 2)`.
        shape: int32, shape `(3,)`: voxels of the image.
        spacing_mm: float64, shape `(3,)`: their size, rounded to nanometres.
        margin_mm: Least margin, in mm.
    """
    steps = tf.math.ceil(tf.round(margin_mm / spacing_mm * 1e6) / 1e6)
    steps = tf.cast(tf.minimum(steps, tf.cast(shape, tf.float64)), tf.int32)
    low, high = tf.unstack(box, axis=1)
    return tf.stack([tf.maximum(low - steps, 0), tf.minimum(high + steps, shape)], axis=1)


def normalise(channel, scheme):
    """Returns one channel with normalised intensities.

    Args:
        channel: float32, shape `(depth, height, width)`.
        scheme: `zscore`, `ct` or `rescale` with its numbers, or `prior`, as
            `data_prep.preprocess.normalise` describes them.
    """
    there = tf.reduce_any(channel != 0)  # else it is a missing one, which stays 0
    if scheme["scheme"] == "ct":
        clipped = tf.clip_by_value(channel, *scheme["clip"])
        return tf.where(there, (clipped - scheme["mean"]) / max(scheme["std"], 1e-8), 0.0)
    if scheme["scheme"] == "rescale":
        scaled = (channel - scheme["low"]) / (scheme["high"] - scheme["low"])
        return tf.where(there, scaled, 0.0)
    if scheme["scheme"] == SCHEME:
        return channel
    ones = tf.ones_like(channel)
    inside = tf.where(channel != 0, ones, 0.0) if scheme["masked"] else ones
    count = tf.maximum(_sum(inside), 1.0)
    centred = (channel - tf.cast(_sum(channel * inside) / count, tf.float32)) * inside
    std = tf.sqrt(_sum(centred**2) / count)
    return centred / tf.cast(tf.maximum(std, 1e-8), tf.float32)


def resample_axis(array, axis, length):
    """Interpolates linearly along one axis to a new length; the same length changes nothing.

    Args:
        array: float32 tensor of any shape.
        axis: Axis to resample.
        length: New length, in voxels.
    """
    if length == tf.shape(array)[axis]:
        return array
    low, high, weight = _taps(tf.shape(array)[axis], length)
    weight = tf.reshape(weight, [-1] + [1] * (len(array.shape) - axis - 1))
    first = tf.gather(array, low, axis=axis)
    return (tf.gather(array, high, axis=axis) - first) * weight + first


@tf.function(reduce_retracing=True)
def restore(logits, crop, shape, *, class_order=(), with_probabilities=False):
    """Brings logits back onto the oriented grid, one slice at a time.

    Only one slice of the full-resolution logits exists at any time; classes are decided there.
    Outside the crop is background, in no region.

    Args:
        logits: float32, shape `(d, h, w, channels)`, on the prepared grid; one channel per class
            or per region.
        crop: int32, shape `(3, 2)`: the box of the oriented grid that the logits cover.
        shape: int32, shape `(3,)`: the oriented grid.
        class_order: Tuple as in `segkit.regions.class_map`; empty where channels are classes.
        with_probabilities: Whether the softmax of the resampled logits, of regions the sigmoid,
            is kept as well.

    Returns:
        int32 class indices of that shape, or `(indices, float32 probabilities (*shape, channels))`.
    """
    size = crop[:, 1] - crop[:, 0]
    low, high, weight = _taps(tf.shape(logits)[0], size[0])

    def one_slice(index):
        first = logits[low[index]]
        plane = (logits[high[index]] - first) * weight[index] + first
        plane = resample_axis(resample_axis(plane, 0, size[1]), 1, size[2])
        mask = class_map(plane, class_order)
        activation = tf.nn.sigmoid if class_order else tf.nn.softmax
        return (mask, activation(plane)) if with_probabilities else mask

    around = tf.stack([crop[:, 0], shape - crop[:, 1]], axis=1)
    if not with_probabilities:
        mask = tf.map_fn(one_slice, tf.range(size[0]), fn_output_signature=tf.int32)
        return tf.pad(mask, around)
    mask, probabilities = tf.map_fn(
        one_slice, tf.range(size[0]), fn_output_signature=(tf.int32, tf.float32)
    )
    around_channels = tf.pad(around, [[0, 1], [0, 0]])
    if class_order:
        return tf.pad(mask, around), tf.pad(probabilities, around_channels)
    background = tf.pad(probabilities[..., 0], around, constant_values=1.0)
    others = tf.pad(probabilities[..., 1:], around_channels)
    return tf.pad(mask, around), tf.concat([background[..., None], others], axis=-1)


def _taps(length, new_length):
    """Two source indices per new voxel and the float32 weight of the second."""
    length = tf.cast(length, tf.float64)
    scale = length / tf.cast(new_length, tf.float64)
    where = (tf.range(tf.cast(new_length, tf.float64), dtype=tf.float64) + 0.5) * scale - 0.5
    where = tf.clip_by_value(where, 0.0, length - 1)
    low = tf.floor(where)
    high = tf.minimum(low + 1, length - 1)
    return tf.cast(low, tf.int32), tf.cast(high, tf.int32), tf.cast(where - low, tf.float32)


def _sum(array):
    """Sum in float64, without a float64 copy of the array."""
    return tf.reduce_sum(tf.cast(tf.reduce_sum(array, axis=-1), tf.float64))
