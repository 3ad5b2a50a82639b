"""Cutting a patch out of a stored chunk: a plain crop, or an affine map drawn at random."""

import numpy as np
import tensorflow as tf

THIN = 3.0


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
    image, label = _box(record, start, patch)
    channels = record["image"].shape[-1]
    return tf.ensure_shape(image, (*patch, channels)), tf.ensure_shape(label, patch)


def resample(record, centre, matrix, patch):
    """Reads a patch through an affine map: image trilinear, label at the nearest voxel.

    Patch voxel `p` shows the chunk at `centre + matrix @ (p - (patch - 1) / 2)`. Outside of the
    chunk image and label are 0, as `scipy.ndimage.map_coordinates(mode="grid-constant")` does it.
    Across a slice (an axis where the patch has one voxel) the nearest one is read.

    Args:
        record: As in `crop`.
        centre: float32, shape `(3,)`: chunk coordinate of the patch's middle, in voxels.
        matrix: float32, shape `(3, 3)`: voxel steps in the patch to voxel steps in the chunk.
        patch: Side lengths of the patch, three ints.

    Returns:
        `(image, label)` as in `crop`.
    """
    half = (np.array(patch, np.float32) - 1) / 2
    reach = tf.linalg.matvec(tf.abs(matrix), half)
    shape = tf.shape(record["label"])
    # One voxel of margin around the chunk is 0: what lies further out is read there.
    low = tf.clip_by_value(tf.cast(tf.floor(centre - reach), tf.int32), -1, shape - 1)
    high = tf.clip_by_value(tf.cast(tf.floor(centre + reach), tf.int32) + 2, 1, shape + 1)
    image, label = _box(record, low, high - low)
    size = tf.shape(label)
    strides = (size[1] * size[2], size[2], 1)
    offsets = np.meshgrid(
        *[np.arange(n, dtype=np.float32) - h for n, h in zip(patch, half, strict=True)],
        indexing="ij",
        sparse=True,
    )
    corner, nearest, between = 0, 0, []
    for axis in range(3):
        x = centre[axis] - tf.cast(low[axis], tf.float32)
        x += sum(matrix[axis, n] * offsets[n] for n in range(3))
        x = tf.clip_by_value(x, 0.0, tf.cast(size[axis] - 1, tf.float32))
        rounded = tf.cast(x + 0.5, tf.int32)
        nearest += rounded * strides[axis]
        index = rounded
        if patch[axis] > 1:
            index = tf.minimum(tf.cast(x, tf.int32), size[axis] - 2)
            between.append((strides[axis], (x - tf.cast(index, tf.float32))[..., None]))
        corner += index * strides[axis]
    channels = record["image"].shape[-1]
    image = _lerp(tf.reshape(image, (-1, channels)), corner, between)
    label = tf.gather(tf.reshape(label, [-1]), nearest)
    return tf.ensure_shape(image, (*patch, channels)), tf.ensure_shape(label, patch)


def random_matrix(seed, augment, patch, spacing_mm):
    """Draws a rotation and a zoom.

    The rotation is one in millimetres: on voxels of unequal size the matrix is not orthogonal.
    An axis is thin when its voxels are more than three times as long as the shortest side, or
    when the patch is more than three times shorter along it than along the middle one of its
    sides (a slice, for one); thin axes neither rotate nor zoom, after nnU-Net's "dummy 2-D"
    augmentation (Isensee et al., 2021, doi:10.1038/s41592-020-01008-z).

    Args:
        seed: Integer tensor of shape `(2,)`.
        augment: Object with the attributes of `segkit.config.AugmentConfig`.
        patch: Side lengths of the patch, three ints.
        spacing_mm: Voxel size, shape `(3,)`.

    Returns:
        `(matrix, changed)`: float32 `(3, 3)` for `resample`, and whether it is not the identity.
    """
    spacing = tf.cast(spacing_mm, tf.float32)
    draws = tf.random.stateless_uniform([6], seed)
    rotate = draws[0] < augment.rotation_probability
    scale = draws[1] < augment.scaling_probability
    thin = (spacing > THIN * tf.reduce_min(spacing)) | (np.array(patch) * THIN < np.median(patch))
    limit = tf.where(rotate, np.deg2rad(augment.rotation_deg).astype(np.float32), 0.0)
    blocked = [thin[1] | thin[2], thin[0] | thin[2], thin[0] | thin[1]]
    angles = tf.where(blocked, 0.0, (2 * draws[2:5] - 1) * limit)
    low, high = augment.scaling
    zoom = tf.where(scale & ~thin, low + (high - low) * draws[5], 1.0)
    matrix = rotation(angles) * spacing[None, :] / (spacing * zoom)[:, None]
    return matrix, tf.reduce_any(angles != 0.0) | tf.reduce_any(zoom != 1.0)


def rotation(angles):
    """Returns the product of the rotations about axis 0, 1 and 2.

    Args:
        angles: float32, shape `(3,)`, in radians; a positive one turns the axis that follows
            (cyclically) towards the one after it.

    Returns:
        float32, shape `(3, 3)`.
    """
    (c0, c1, c2), (s0, s1, s2) = tf.unstack(tf.cos(angles)), tf.unstack(tf.sin(angles))
    about_0 = tf.reshape(tf.stack([1.0, 0.0, 0.0, 0.0, c0, -s0, 0.0, s0, c0]), (3, 3))
    about_1 = tf.reshape(tf.stack([c1, 0.0, s1, 0.0, 1.0, 0.0, -s1, 0.0, c1]), (3, 3))
    about_2 = tf.reshape(tf.stack([c2, -s2, 0.0, s2, c2, 0.0, 0.0, 0.0, 1.0]), (3, 3))
    return about_0 @ about_1 @ about_2


def random_patch(record, start, patch, seed, augment):
    """Cuts a patch, rotated, zoomed and mirrored at random.

    Args:
        record: As in `crop`, with `spacing_mm`.
        start: int32, shape `(3,)`: where a plain crop would start.
        patch: Side lengths of the patch, three ints.
        seed: Integer tensor of shape `(2,)`.
        augment: Object with the attributes of `segkit.config.AugmentConfig`.

    Returns:
        `(image, label)` as in `crop`.
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)
    spins = augment.rotation_deg > 0 and augment.rotation_probability > 0
    zooms = tuple(augment.scaling) != (1.0, 1.0) and augment.scaling_probability > 0
    if spins or zooms:
        matrix, changed = random_matrix(seeds[0], augment, patch, record["spacing_mm"])
        centre = tf.cast(start, tf.float32) + (np.array(patch, np.float32) - 1) / 2
        image, label = tf.cond(
            changed,
            lambda: resample(record, centre, matrix, patch),
            lambda: crop(record, start, patch),
        )
    else:
        image, label = crop(record, start, patch)
    return random_flip(image, label, seeds[1], augment.flip)


def random_flip(image, label, seed, probabilities):
    """Mirrors image and label together along each axis with its own probability.

    Args:
        image: Shape `(depth, height, width, c)`.
        label: Shape `(depth, height, width)`.
        seed: Integer tensor of shape `(2,)`.
        probabilities: Three floats in [0, 1], one per axis.

    Returns:
        `(image, label)`, mirrored.
    """
    if not any(probabilities):
        return image, label
    mirrored = tf.random.stateless_uniform([3], seed) < probabilities
    return _reversed(image, mirrored), _reversed(label, mirrored)


def _reversed(array, mirrored):
    dims = tf.concat([mirrored, tf.zeros([array.shape.rank - 3], tf.bool)], 0)
    return tf.raw_ops.Reverse(tensor=array, dims=dims)


def _box(record, start, size):
    shape = tf.shape(record["label"])
    low, high = tf.maximum(start, 0), tf.minimum(start + size, shape)
    padding = tf.stack([low - start, start + size - high], axis=1)
    inner = high - low
    image = tf.slice(record["image"], tf.pad(low, [[0, 1]]), tf.concat([inner, [-1]], 0))
    image = tf.cast(image, tf.float32) * record["slope"] + record["intercept"]
    image = tf.pad(image, tf.pad(padding, [[0, 1], [0, 0]]))
    return image, tf.pad(tf.slice(record["label"], low, inner), padding)


def _lerp(rows, corner, between):
    """Interpolates rows `(n, c)` along each axis in `between`: its stride and the fraction."""
    if not between:
        return tf.gather(rows, corner)
    (stride, fraction), *rest = between
    near, far = _lerp(rows, corner, rest), _lerp(rows, corner + stride, rest)
    return near + (far - near) * fraction
