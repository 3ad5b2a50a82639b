"""The geometry of a policy as one map, and reading patches through it.

A patch that is merely cut out or flipped is not interpolated; any other is read once, the image
with `sample.interpolate` and the label with `sample.nearest`.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.augment import GEOMETRY
from data_prep.augment.crop import crop
from data_prep.augment.geometry import compose
from data_prep.augment.geometry import identity
from data_prep.augment.geometry import select
from data_prep.augment.grid import coordinates
from data_prep.augment.sample import interpolate
from data_prep.augment.sample import nearest
from segkit.tables import load

_POWERS = 2 ** np.arange(31, dtype=np.int32)


class Placement(NamedTuple):
    """Where the patches of a batch are read, in voxels about their middle.

    Attributes:
        matrix: float32, shape `(batch, 3, 3)`: as in `grid.coordinates`.
        shift: float32, shape `(batch, 3)`, in voxels of the source.
        displacement: As in `grid.coordinates`.
        mirrored: bool, shape `(batch, 3)`: the axes that flips turn round, already in `matrix`.
        warped: bool, shape `(batch,)`: whether there is more than flips.
    """

    matrix: object
    shift: object
    displacement: object
    mirrored: object
    warped: object


def place(steps, draws, space):
    """Draws the geometry of a policy.

    Args:
        steps: From `policy.parse_policy`; only geometry counts.
        draws: `Draws` per step.
        space: `Space`.

    Returns:
        `Placement`.
    """
    batch = space.spacing_mm.shape[0]
    motion = identity(batch)
    warped = tf.zeros(batch, tf.bool)
    mirrored = tf.zeros((batch, 3), tf.bool)
    for step, random in zip(steps, draws, strict=True):
        if step.kind != "geometry":
            continue
        applied = random.chance("applied", step.probability)
        change = load(GEOMETRY, step.name, "augmentation")(random, space, **step.options)
        change = select(applied, change)
        motion = compose(motion, change)
        if step.name == "flip":
            mirrored ^= tf.linalg.diag_part(change.matrix) < 0
        else:
            warped |= applied
    spacing = space.spacing_mm
    matrix = motion.matrix * spacing[:, None, :] / spacing[:, :, None]
    displacement = motion.displacement
    if displacement is not None:
        displacement = displacement / spacing[:, None, None, None, :]
    return Placement(matrix, motion.shift / spacing, displacement, mirrored, warped)


def choose(applied, changed, original):
    """Returns whole examples of `changed` where `applied`, bool `(batch,)`, else of `original`."""
    return tf.where(tf.reshape(applied, (-1, *[1] * (original.shape.rank - 1))), changed, original)


def warps(steps):
    """Returns whether a policy can do more than cut and flip."""
    return any(s.kind == "geometry" and s.name != "flip" and s.probability > 0 for s in steps)


def read_record(record, start, patch, placed, *, order, warping):
    """Reads one patch out of a stored chunk.

    Args:
        record: As in `crop.crop`.
        start: int32, shape `(3,)`: where a plain crop would start.
        patch: Side lengths of the patch, three ints.
        placed: `Placement` of a batch of 1.
        order: As in `sample.interpolate`.
        warping: `False` where `placed` is known to hold flips only.

    Returns:
        `(image, label)`: float32 `(1, *patch, c)`, and `(1, *patch)` of the label's dtype.
    """

    def plain():
        dims = placed.mirrored[0]
        image, label = crop(record, start, patch)
        image = tf.raw_ops.Reverse(tensor=image, dims=tf.pad(dims, [[0, 1]]))
        return image[None], tf.raw_ops.Reverse(tensor=label, dims=dims)[None]

    def warped():
        channels = record["image"].shape[-1]
        source = Source(
            _to_power_of_two(tf.reshape(record["image"], (1, -1, channels))),
            _to_power_of_two(tf.reshape(record["label"], (1, -1))),
            tf.shape(record["label"])[None],
            record["slope"],
            record["intercept"],
        )
        centre = tf.cast(start, tf.float32)[None] + (np.float32(patch) - 1) / 2
        return _compiled_read(tuple(patch), order)(source, centre, placed)

    image, label = tf.cond(placed.warped[0], warped, plain) if warping else plain()
    channels = record["image"].shape[-1]
    return tf.ensure_shape(image, (1, *patch, channels)), tf.ensure_shape(label, (1, *patch))


def read_batch(image, label, patch, placed, *, order, warping):
    """Reads patches around the middle of a batch of images.

    Args:
        image: float32, shape `(batch, d, h, w, c)`, all sides static and at least the patch's.
        label: Shape `(batch, d, h, w)`.
        patch: Side lengths of the patches, three ints.
        placed: `Placement` of the batch.
        order: As in `sample.interpolate`.
        warping: `False` where `placed` is known to hold flips only.

    Returns:
        `(image, label)` of shape `(batch, *patch, c)` and `(batch, *patch)`.
    """
    sides = tuple(image.shape[1:4])
    start = [(s - p) // 2 for s, p in zip(sides, patch, strict=True)]
    box = (slice(None), *(slice(b, b + p) for b, p in zip(start, patch, strict=True)))
    plain = tuple(_mirror(x[box], placed.mirrored) for x in (image, label))
    if not warping:
        return plain

    def warped():
        batch, channels = image.shape[0], image.shape[-1]
        source = Source(
            tf.reshape(image, (batch, -1, channels)),
            tf.reshape(label, (batch, -1)),
            tf.broadcast_to(tf.constant(sides), (batch, 3)),
            tf.ones(channels),
            tf.zeros(channels),
        )
        centre = np.float32(start) + (np.float32(patch) - 1) / 2
        found = _read(source, tf.broadcast_to(centre, (batch, 3)), placed, tuple(patch), order)
        return tuple(choose(placed.warped, x, y) for x, y in zip(found, plain, strict=True))

    return tf.cond(tf.reduce_any(placed.warped), warped, lambda: plain)


class Source(NamedTuple):
    """Images as rows of voxels in C order: what `sample` reads.

    Attributes:
        image: Shape `(batch, n, channels)`; intensity = image * slope + intercept.
        label: Shape `(batch, n)`.
        sizes: int32, shape `(batch, 3)`.
        slope: float32, shape `(channels,)`.
        intercept: float32, shape `(channels,)`.
    """

    image: object
    label: object
    sizes: object
    slope: object
    intercept: object


def _read(source, centre, placed, patch, order):
    middle = centre + placed.shift
    points = coordinates(placed.matrix, middle, patch, placed.displacement)
    values, cover = interpolate(source.image, source.sizes, points, order)
    image = values * source.slope + cover * source.intercept
    return image, nearest(source.label, source.sizes, points)


@lru_cache
def _compiled_read(patch, order):
    """`_read` compiled: one pass over the patch, 8 times as fast as a graph of gathers."""
    return tf.function(
        lambda source, centre, placed: _read(source, centre, placed, patch, order),
        jit_compile=True,
        autograph=False,
    )


def _to_power_of_two(rows):
    """Pads rows `(1, n, ...)` so that chunks of many sizes share few compiled programs."""
    count = tf.shape(rows)[1]
    power = tf.reduce_min(tf.boolean_mask(_POWERS, count <= _POWERS))
    return tf.pad(rows, [[0, 0], [0, power - count], *[[0, 0]] * (rows.shape.rank - 2)])


def _mirror(x, mirrored):
    for axis in range(3):
        x = choose(mirrored[:, axis], tf.reverse(x, [axis + 1]), x)
    return x
