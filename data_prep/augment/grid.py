"""Where each voxel of a patch is read in its source: an affine map and a smooth deformation."""

from functools import lru_cache

import numpy as np
import tensorflow as tf


def coordinates(matrix, centre, patch, displacement=None):
    """Returns the source coordinates of the voxels of a patch.

    Patch voxel `p` is read at `centre + matrix @ (q + u(p))` with `q = p - (patch - 1) / 2` and
    `u` the cubic B-spline surface over the control points `displacement`. The spline is
    evaluated axis by axis as matrix products; the affine part is added in plain float32, because
    the short mantissa of TF32 products would move voxels.

    Args:
        matrix: float32, shape `(batch, 3, 3)`: voxel steps in the patch to steps in the source.
        centre: float32, shape `(batch, 3)`: source coordinate of the patch's middle, in voxels.
        patch: Side lengths `(depth, height, width)` of the patch.
        displacement: float32, shape `(batch, n0, n1, n2, 3)`, in voxels of the patch, or `None`.

    Returns:
        float32, shape `(batch, 3, depth, height, width)`, in voxels of the source.
    """
    steps = [np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in patch]
    along = [matrix[:, :, n, None, None, None] for n in range(3)]
    points = centre[:, :, None, None, None] + along[0] * steps[0][:, None, None]
    points = points + along[1] * steps[1][:, None] + along[2] * steps[2]
    if displacement is None:
        return points
    bases = [spline_basis(n, g) for n, g in zip(patch, displacement.shape[1:4], strict=True)]
    control = tf.reduce_sum(matrix[:, None, None, None] * displacement[..., None, :], axis=-1)
    rows = tf.einsum("bxyzi,dx,hy->bidhz", control, *bases[:2])
    return points + tf.einsum("bidhz,wz->bidhw", rows, bases[2])


@lru_cache
def spline_basis(size, points):
    """Returns the cubic B-splines over an axis, float32 `(size, points)`; each row sums to 1.

    The axis spans `points - 3` knot intervals, at least one, from its first voxel to its last.
    A single control point makes a constant.
    """
    if points == 1:
        return np.ones((size, 1), np.float32)
    place = np.linspace(0, points - 3, size)
    distance = np.abs(place[:, None] + 1 - np.arange(points))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)
