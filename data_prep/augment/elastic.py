"""Elastic deformation by a cubic B-spline."""

import math

import numpy as np
import tensorflow as tf

from data_prep.augment.geometry import Motion
from data_prep.augment.geometry import identity
from data_prep.augment.grid import spline_basis
from data_prep.augment.limits import check_between
from data_prep.augment.limits import check_range


def elastic(draws, space, *, displacement: list[float] = (0.0, 0.03), control_points: int = 7):
    """Moves every voxel by a smooth random field, as far in millimetres along each axis.

    Control points are drawn from a normal distribution and scaled so that the displacement
    along one axis, root mean square over the voxels, is what `displacement` says. Thin axes
    neither deform nor change the deformation along them.

    Args:
        draws: `Draws`.
        space: `Space`.
        displacement: Range of the root-mean-square displacement, as a share of the patch's
            shortest side in mm that is not thin; 0 is the identity. Above about
            `0.15 / (control_points - 3)` the field starts to fold.
        control_points: Control points along each side, 4 to 32; more make smaller waves.

    Reference:
        Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 1999,
        doi:10.1109/42.796284; random ones as in Ronneberger et al., "U-Net", arXiv:1505.04597.
    """
    low, high = check_range("elastic.displacement", displacement, least=0)
    check_between("elastic.control_points", control_points, 4, 32)
    points = [control_points if side > 1 else 1 for side in space.patch]
    strength = draws.uniform("displacement", low, high)
    sides = tf.where(space.thin, math.inf, np.float32(space.patch) * space.spacing_mm)
    rms_mm = strength * tf.reduce_min(sides, axis=1)
    bases = [spline_basis(side, n) for side, n in zip(space.patch, points, strict=True)]
    power = np.array([np.mean((basis**2).sum(axis=1)) for basis in bases], np.float32)
    power = tf.reduce_prod(tf.where(space.thin, 1.0, power), axis=1)
    field = _constant_along_thin(draws.normals(*points, 3), space.thin)
    field *= (rms_mm * tf.math.rsqrt(power))[:, None, None, None, None]
    field = tf.where(space.thin[:, None, None, None, :], 0.0, field)
    still = identity(draws.batch)
    return Motion(still.matrix, still.shift, field)


def _constant_along_thin(field, thin):
    for axis in range(3):
        first = tf.gather(field, [0], axis=axis + 1)
        field = tf.where(thin[:, axis, None, None, None, None], first, field)
    return field
