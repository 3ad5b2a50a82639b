"""Geometric transforms: each says where the voxels of a patch are read.

A `Motion` is given in millimetres about the patch's middle and in the direction of sampling,
patch to source; `compose` joins those of a policy into one. The transforms of affine kind are
here, the elastic deformation in `elastic.py`.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.augment.limits import check_between
from data_prep.augment.limits import check_range
from segkit.errors import ConfigError


class Motion(NamedTuple):
    """Reads the point `p` (mm from the middle) at `matrix @ (p + u(p)) + shift`.

    Attributes:
        matrix: float32, shape `(batch, 3, 3)`.
        shift: float32, shape `(batch, 3)`, in mm.
        displacement: float32, shape `(batch, n0, n1, n2, 3)`, in mm: control points of the
            cubic B-spline `u`; `None` where nothing deforms.
    """

    matrix: object
    shift: object
    displacement: object = None


def identity(batch):
    """Returns the `Motion` that leaves `batch` patches as they are."""
    return Motion(tf.eye(3, batch_shape=[batch]), tf.zeros((batch, 3)))


def select(applied, motion):
    """Returns `motion` where `applied`, bool `(batch,)`, holds, and the identity elsewhere."""
    matrix = tf.where(applied[:, None, None], motion.matrix, tf.eye(3))
    shift = tf.where(applied[:, None], motion.shift, 0.0)
    displacement = motion.displacement
    if displacement is not None:
        displacement = tf.where(applied[:, None, None, None, None], displacement, 0.0)
    return Motion(matrix, shift, displacement)


def compose(first, second):
    """Joins two motions: the image is changed by `first`, and the result by `second`.

    Deformations add up and act on the patch before either affine part, as in nnU-Net. No matrix
    product is used: GPUs would round its factors (TF32).
    """
    matrix = tf.reduce_sum(first.matrix[:, :, :, None] * second.matrix[:, None], axis=2)
    shift = tf.reduce_sum(first.matrix * second.shift[:, None], axis=2) + first.shift
    fields = [m.displacement for m in (first, second) if m.displacement is not None]
    if len(fields) == 2 and fields[0].shape != fields[1].shape:
        raise ConfigError(
            "augment: the elastic steps of one policy need the same number of control points."
        )
    return Motion(matrix, shift, sum(fields) if fields else None)


def flip(draws, space, *, axes: list[float] = (0.5, 0.5, 0.5)):
    """Mirrors each axis with a probability of its own.

    Args:
        draws: `Draws`.
        space: `Space`.
        axes: Probabilities for depth, height and width; `[0, 0, 0]` is the identity.
    """
    if len(axes) != 3:
        raise ConfigError(f"augment.flip.axes needs 3 probabilities, got {list(axes)}.")
    for probability in axes:
        check_between("flip.axes", probability, 0, 1)
    mirrored = draws.chance("mirrored", tf.constant(axes, tf.float32), 3)
    return _linear(tf.linalg.diag(tf.where(mirrored, -1.0, 1.0)))


def quarter_turns(draws, space):
    """Turns by 0, 90, 180 or 270 degrees in each plane where no voxel is cut.

    Those are planes of square voxels, up to 1 %, and of two even or two odd sides; the others
    stay. So nothing is interpolated.
    """
    spacing = tf.unstack(space.spacing_mm, axis=1)
    ratios = tf.stack([spacing[n - 2] / spacing[n - 1] for n in range(3)], axis=1)
    cut = [(space.patch[n - 2] - space.patch[n - 1]) % 2 == 1 for n in range(3)]
    still = _out_of_plane(space) | (tf.abs(ratios - 1) > 0.01) | cut
    turns = tf.cast(tf.floor(draws.uniform("turns", 0.0, 4.0, 3)), tf.int32)
    turns = draws.note("turns", tf.where(still, 0, turns))
    cosine = tf.gather(tf.constant([1.0, 0.0, -1.0, 0.0]), turns)
    sine = tf.gather(tf.constant([0.0, 1.0, 0.0, -1.0]), turns)
    turn = rotation_matrix(cosine, sine)
    return _linear(turn * space.spacing_mm[:, :, None] / space.spacing_mm[:, None, :])


def rotation(
    draws,
    space,
    *,
    degrees: float = 30.0,
    degrees_in_plane: float | None = None,
    degrees_elongated: float | None = None,
):
    """Rotates about all three axes, or in plane where an axis is thin.

    Args:
        draws: `Draws`.
        space: `Space`.
        degrees: Largest angle about each axis, either way; 0 is the identity.
        degrees_in_plane: The same for patches that rotate in plane only; `None`: `degrees`.
        degrees_elongated: The same for slices with sides more than 1.5 to 1, where a large
            angle shows mostly padding (nnU-Net); `None`: `degrees_in_plane`.
    """
    for angle in (degrees, degrees_in_plane, degrees_elongated):
        check_between("rotation.degrees", angle or 0.0, 0, 180)
    in_plane = degrees if degrees_in_plane is None else degrees_in_plane
    sides = space.patch[1:]
    if space.patch[0] == 1 and max(sides) > 1.5 * min(sides) and degrees_elongated is not None:
        in_plane = degrees_elongated
    limit = tf.where(
        tf.reduce_any(space.thin, axis=1, keepdims=True), float(in_plane), float(degrees)
    )
    limit = tf.where(_out_of_plane(space), 0.0, limit)
    angles = draws.uniform("degrees", -limit, limit, 3) * np.float32(np.pi / 180)
    return _linear(rotation_matrix(tf.cos(angles), tf.sin(angles)))


def scaling(draws, space, *, field_of_view: list[float] = (0.7, 1.4), per_axis: bool = False):
    """Shows more or less of the image; thin axes keep their scale.

    Args:
        draws: `Draws`.
        space: `Space`.
        field_of_view: Range of the factor on what the patch shows: above 1 things get smaller.
            1 is the identity. nnU-Net draws the same factor from (0.7, 1.4).
        per_axis: Draw each axis apart.
    """
    low, high = check_range("scaling.field_of_view", field_of_view, least=0.01)
    factor = draws.uniform("field_of_view", low, high, 3 if per_axis else 1)
    return _linear(tf.linalg.diag(tf.where(space.thin, 1.0, factor)))


def multi_scale(draws, space, *, scales: list[float] = (0.75, 1.0, 1.25)):
    """Multi-scale training: one scale for all patches of a batch, drawn from a list.

    A patch covers `scale` times the network's input per axis and is resized to it, in the same
    interpolation as all else; thin axes keep their scale.

    Args:
        draws: `Draws`.
        space: `Space`.
        scales: Factors from 0.1 to 10, equally likely; 1 is the identity. List it rather than
            give a `probability`, which would leave single patches of a batch at 1.
    """
    if not scales:
        raise ConfigError("augment.multi_scale.scales needs at least one factor, got [].")
    for scale in scales:
        check_between("multi_scale.scales", scale, 0.1, 10)
    shared = draws.batchwise()
    pick = tf.cast(shared.uniform("scale", 0.0, float(len(scales)), 1), tf.int32)
    factor = tf.gather(tf.constant(scales, tf.float32), tf.minimum(pick, len(scales) - 1))
    draws.note("scale", factor)
    return _linear(tf.linalg.diag(tf.where(space.thin, 1.0, factor)))


def translation(draws, space, *, shift: float = 0.1):
    """Moves the patch along each axis that is not thin.

    Args:
        draws: `Draws`.
        space: `Space`.
        shift: Largest way, either way, as a share of the patch's side; 0 is the identity.
    """
    check_between("translation.shift", shift, 0, 1)
    limit = tf.where(space.thin, 0.0, float(shift))
    share = draws.uniform("shift", -limit, limit, 3)
    way = share * np.float32(space.patch) * space.spacing_mm
    return identity(draws.batch)._replace(shift=way)


def shear(draws, space, *, degrees: float = 10.0):
    """Shears each pair of axes; pairs with a thin axis stay as they are.

    Args:
        draws: `Draws`.
        space: `Space`.
        degrees: Largest angle, either way, up to 40; 0 is the identity.
    """
    check_between("shear.degrees", degrees, 0, 40)
    still = space.thin[:, :, None] | space.thin[:, None, :] | np.eye(3, dtype=bool)
    limit = tf.where(still, 0.0, float(degrees))
    angles = draws.uniform("degrees", -limit, limit, 3, 3) * np.float32(np.pi / 180)
    return _linear(tf.tan(angles) + tf.eye(3))


def rotation_matrix(cosine, sine):
    """Returns the product of the rotations about axis 0, 1 and 2.

    Args:
        cosine: float32, shape `(batch, 3)`: of the three angles. A positive one turns the axis
            that follows (cyclically) towards the one after it.
        sine: As `cosine`.

    Returns:
        float32, shape `(batch, 3, 3)`.
    """
    (c0, c1, c2), (s0, s1, s2) = tf.unstack(cosine, axis=1), tf.unstack(sine, axis=1)
    rows = (
        (c1 * c2, -c1 * s2, s1),
        (c0 * s2 + s0 * s1 * c2, c0 * c2 - s0 * s1 * s2, -s0 * c1),
        (s0 * s2 - c0 * s1 * c2, s0 * c2 + c0 * s1 * s2, c0 * c1),
    )
    return tf.stack([tf.stack(row, axis=-1) for row in rows], axis=1)


def _linear(matrix):
    return Motion(matrix, tf.zeros_like(matrix[:, 0]))


def _out_of_plane(space):
    """Bool `(batch, 3)`: whether a turn about the axis would move a thin axis."""
    thin = tf.unstack(space.thin, axis=1)
    return tf.stack([thin[1] | thin[2], thin[0] | thin[2], thin[0] | thin[1]], axis=1)
