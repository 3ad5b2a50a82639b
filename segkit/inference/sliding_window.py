"""Whole volumes from a network that sees patches: overlapping tiles, blended by a Gaussian.

The scheme is that of nnU-Net (Isensee et al., Nature Methods 2021): tile starts are re-spaced
evenly and logits are averaged with a Gaussian weight. It is written once, in TensorFlow ops, and
runs eagerly, inside `tf.function` and in a SavedModel, for any image shape.
"""

import itertools

import numpy as np
import tensorflow as tf


def sliding_window(
    predict, image, patch_size, num_classes, *, overlap=0.5, slices=16, on_tile=None
):
    """Returns the logits of a whole volume.

    An image smaller than the patch is padded with zeros on both sides, and its logits are cropped
    back.

    Args:
        predict: Callable from float32 tiles `(batch, *patch_size, channels)` to logits
            `(batch, *patch_size, num_classes)`.
        image: float32, shape `(depth, height, width, channels)`, prepared as for training; its
            number of channels is static.
        patch_size: Tile side lengths in voxels, three for volumes or two for slices. Slices go
            through the network as a batch and are weighted in plane only.
        num_classes: Number of logits per voxel.
        overlap: Share of a tile that the next one covers again, in [0, 1).
        slices: Largest number of slices in a batch, for a `patch_size` of two.
        on_tile: `None`, or called as `on_tile(done, total)` after each tile; eager only.

    Returns:
        float32 logits, shape `(depth, height, width, num_classes)`.
    """
    patch_size, channels = tuple(patch_size), image.shape[-1]
    shape = tf.shape(image)[:3]
    tile = _tile(image, patch_size, slices)
    overlaps = (0.0 if len(patch_size) == 2 else overlap, overlap, overlap)
    image, margin = _pad_to(image, tile)
    window = gaussian_window(patch_size)[..., None]

    def weighted_logits(start):
        batch = tf.slice(image, [*start, 0], tf.concat([tile, [channels]], 0))
        logits = tf.cast(predict(tf.reshape(batch, (-1, *patch_size, channels))), tf.float32)
        weighted = tf.concat([logits * window, tf.ones_like(logits[..., :1]) * window], axis=-1)
        return tf.reshape(weighted, tf.concat([tile, [num_classes + 1]], 0))

    starts = [tile_starts(tf.shape(image)[n], tile[n], overlaps[n]) for n in range(3)]
    if on_tile is not None:
        weighted_logits = _counted(weighted_logits, on_tile, np.prod([len(s) for s in starts]))
    total = _sum_tiles(weighted_logits, starts, tf.shape(image), tile, num_classes + 1)
    logits = total[..., :num_classes] / total[..., num_classes:]
    return tf.slice(logits, tf.pad(margin, [[0, 1]]), tf.concat([shape, [num_classes]], 0))


def covering_tiles(image, patch_size, slices=16):
    """Yields tiles that cover an image with as little overlap as can be; eager only.

    Args:
        image: As in `sliding_window`.
        patch_size: As in `sliding_window`.
        slices: As in `sliding_window`.

    Yields:
        float32 `(batch, *patch_size, channels)`: one tile, or a batch of slices.
    """
    tile = _tile(image, patch_size, slices)
    image, _ = _pad_to(image, tile)
    starts = [tile_starts(tf.shape(image)[n], tile[n], 0.0) for n in range(3)]
    for start in itertools.product(*starts):
        box = tf.slice(image, [*start, 0], tf.concat([tile, [image.shape[-1]]], 0))
        yield tf.reshape(box, (-1, *patch_size, image.shape[-1]))


def tile_starts(size, patch, overlap):
    """Returns where tiles begin along one axis, evenly re-spaced so that the last one fits.

    Args:
        size: Length of the axis in voxels, at least `patch`.
        patch: Length of a tile in voxels.
        overlap: Least share of a tile that the next one covers again, in [0, 1).

    Returns:
        int32, shape `(tiles,)`, from 0 to `size - patch`.
    """
    last = tf.cast(size - patch, tf.float64)
    steps = tf.math.ceil(last / (tf.cast(patch, tf.float64) * (1 - overlap)))
    return tf.cast(tf.round(last / tf.maximum(steps, 1.0) * tf.range(steps + 1)), tf.int32)


def gaussian_window(patch_size):
    """Returns a tile's weights: a Gaussian with sigma = side / 8, 1 at voxel `side // 2`.

    The least weight is about exp(-8) per axis, so none is zero in float32.

    Args:
        patch_size: Side lengths in voxels.

    Returns:
        float32 tensor of shape `patch_size`, in (0, 1].
    """
    window = tf.ones((), tf.float64)
    for side in patch_size:
        offset = (np.arange(side) - side // 2) / (side / 8)
        # Multiplied in the graph: as a constant it would weigh megabytes in a SavedModel.
        window = window[..., None] * np.exp(-(offset**2) / 2)
    return tf.cast(window, tf.float32)


def mirrored(predict, num_axes):
    """Returns `predict` averaged over all flips of the spatial axes (test-time augmentation).

    Args:
        predict: Callable from tiles `(batch, *spatial, channels)` to logits of the same layout.
        num_axes: Number of spatial axes; `2 ** num_axes` predictions are averaged.
    """
    axes = range(1, num_axes + 1)
    flips = [f for n in range(num_axes + 1) for f in itertools.combinations(axes, n)]

    def average(tiles):
        logits = [tf.reverse(predict(tf.reverse(tiles, flip)), flip) for flip in flips]
        return tf.add_n(logits) / len(flips)

    return average


def _tile(image, patch_size, slices):
    """Side lengths of a tile, int32 `(3,)`: a patch, or several slices."""
    if len(patch_size) == 3:
        return tf.constant(patch_size)
    return tf.stack([tf.minimum(slices, tf.shape(image)[0]), *patch_size])


def _pad_to(image, tile):
    """Centres the image in zeros where it is smaller than a tile; also returns the margin."""
    missing = tf.maximum(tile - tf.shape(image)[:3], 0)
    before = missing // 2
    return tf.pad(image, tf.pad(tf.stack([before, missing - before], 1), [[0, 1], [0, 0]])), before


def _sum_tiles(tile_at, starts, size, tile, depth, before=()):
    """Sums tiles into rows, rows into slabs and slabs into the volume.

    Adding each tile to the volume at once would pass over the whole volume for every tile.
    """
    axis = len(before)
    if axis == 3:
        return tile_at(before)
    total = tf.zeros(tf.concat([tile[:axis], size[axis:3], [depth]], 0))
    for start in starts[axis]:
        # Parallel iterations would hold up to ten slabs, and ten tiles' activations, at a time.
        tf.autograph.experimental.set_loop_options(parallel_iterations=1)
        part = _sum_tiles(tile_at, starts, size, tile, depth, (*before, start))
        after = size[axis] - start - tile[axis]
        padding = [[start, after] if n == axis else [0, 0] for n in range(4)]
        total += tf.ensure_shape(tf.pad(part, padding), total.shape)
    return total


def _counted(function, on_tile, total):
    done = itertools.count(1)

    def counted(start):
        result = function(start)
        on_tile(next(done), int(total))
        return result

    return counted
