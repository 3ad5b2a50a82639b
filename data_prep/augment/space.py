"""What a transform knows of the patches it changes."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

THIN = 3.0


class Space(NamedTuple):
    """Size and voxel size of a batch of patches.

    Attributes:
        patch: Side lengths `(depth, height, width)` in voxels; a slice has depth 1.
        spacing_mm: float32, shape `(batch, 3)`: size of a voxel.
        channels: Number of channels of the image, without priors.
        num_classes: Number of classes of the label, background included.
        thin: bool, shape `(batch, 3)`: axes across which nothing rotates, scales or deforms.
    """

    patch: tuple
    spacing_mm: object
    channels: int
    num_classes: int
    thin: object


def make_space(patch, spacing_mm, channels, num_classes):
    """Returns a `Space`, its thin axes found.

    The depth is thin when another side of the patch has more than three times as many voxels (in
    a slice, for one): nnU-Net's "dummy 2-D" augmentation (Isensee et al., 2021,
    doi:10.1038/s41592-020-01008-z). Beyond that rule, any axis is thin whose voxels are more than
    three times as long as the shortest side of the others.

    Args:
        patch: Three ints.
        spacing_mm: Shape `(batch, 3)`.
        channels: As in `Space`.
        num_classes: As in `Space`.
    """
    spacing = tf.cast(spacing_mm, tf.float32)
    flat = np.array([patch[0] * THIN < max(patch), False, False])
    shortest = tf.reduce_min(tf.where(flat, np.inf, spacing), axis=1, keepdims=True)
    coarse = spacing > THIN * shortest
    return Space(tuple(patch), spacing, channels, num_classes, coarse | flat)
