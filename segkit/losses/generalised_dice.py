"""Generalised Dice loss: classes weighted by their inverse squared volume."""

from keras import ops

from segkit.losses.overlap import class_overlap


def generalised_dice(
    y_true,
    y_pred,
    *,
    smooth: float = 1e-5,
    include_background: bool = True,
    ignore_label: int | None = None,
    group_size: int = 1,
):
    """Generalised Dice loss, one value per example.

    With `t` the labels, one-hot or soft, `p` the softmax of the logits and `T_c = sum_v t_vc` the
    volume of class `c`, sums over the voxels `v` of one example:

        loss = 1 - (2 * sum_c w_c sum_v t_vc p_vc + smooth)
                   / (sum_c w_c sum_v (t_vc + p_vc) + smooth),   w_c = (T_min / T_c) ** 2

    `T_min` is the volume of the smallest class that the labels hold; it cancels from the paper's
    `w_c = 1 / T_c ** 2` and makes `smooth` a number of voxels of that class. An absent class,
    whose weight would be infinite, gets that of the smallest class, 1: a voxel predicted for it
    costs no less than one predicted for any other. Unlike in `dice` the cost is not nearly 1 as
    soon as anything is predicted.

    Args:
        y_true: As in `dice`, soft labels included.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        smooth: Added to both sides of the fraction; in voxels of the smallest class.
        include_background: If `False`, class 0 is left out of both sums; the paper counts it.
        ignore_label: As in `dice`.
        group_size: As in `dice`; the volumes are those of the group.

    Returns:
        float32 tensor of shape `(batch,)`, values in [0, 1].

    Raises:
        ConfigError: `group_size` does not fit, or `ignore_label` with soft labels.
        ShapeError: If the shapes do not fit, or no class is left.

    Reference:
        Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly
        unbalanced segmentations", DLMIA 2017, arXiv:1707.03237, section 2.1, without `smooth` and
        with nothing said of absent classes.
    """
    sums = class_overlap(
        y_true,
        y_pred,
        include_background=include_background,
        ignore_label=ignore_label,
        group_size=group_size,
    )
    weights = _weights(sums.truth)
    both = ops.sum(weights * sums.both, axis=-1)
    total = ops.sum(weights * (sums.truth + sums.predicted), axis=-1)
    return 1.0 - (2.0 * both + smooth) / (total + smooth)


def _weights(volumes):
    """Inverse squares of `volumes` `(batch, classes)`, 1 for the smallest and for absent ones."""
    present = volumes > 0
    smallest = ops.min(ops.where(present, volumes, float("inf")), axis=-1, keepdims=True)
    return ops.square(ops.where(present, smallest / ops.where(present, volumes, 1.0), 1.0))
