"""Soft Dice losses, with plain and with squared denominators."""

from keras import ops

from segkit.losses.overlap import class_mean
from segkit.losses.overlap import class_overlap


def dice(
    y_true,
    y_pred,
    *,
    smooth: float = 1e-5,
    include_background: bool = False,
    class_weights: list[float] | None = None,
    ignore_label: int | None = None,
    group_size: int = 1,
):
    """Soft Dice loss, one value per example.

    With `t` the labels, one-hot or soft, and `p` the softmax of the logits, for each class `c`
    over the voxels `v` of one example:

        loss_c = 1 - (2 * sum_v t_vc * p_vc + smooth) / (sum_v t_vc + sum_v p_vc + smooth)

    and the result is the mean of `loss_c` over classes. A class that the labels do not hold
    costs `P / (P + smooth)` for `P = sum_v p_vc`: nearly 1 until fewer than about `smooth`
    voxels are predicted, then 0, never NaN; as in nnU-Net. Sums run in float32 whatever the
    input dtype: a float16 sum overflows at 65504, fewer than the voxels of one 64-cube patch.

    Where labels are soft the loss is not 0 at `p = t` but favours a sure `p`, near 0 or 1 (Wang
    et al., 2023); `squared_dice` is 0 there.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`; or soft labels, class
            probabilities of any float dtype, shape `(batch, *spatial, classes)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        smooth: Added to both sides of the fraction; in voxels.
        include_background: If `False`, class 0 is left out of the mean.
        class_weights: Weights of the mean over classes, one per class of the logits, background
            first; only their ratios matter. `None`: all equal.
        ignore_label: Voxels of this class index are left out of all sums; an example that holds
            no others costs 0.
        group_size: Voxels of so many consecutive examples are summed up together and each of
            the examples gets the loss of the group: nnU-Net's batch Dice. The batch, each
            replica's share of it, must be a multiple.

    Returns:
        float32 tensor of shape `(batch,)`, values in [0, 1].

    Raises:
        ConfigError: `class_weights` or `group_size` do not fit, or `ignore_label` with soft labels.
        ShapeError: If the shapes do not fit, or no class is left.

    Reference:
        Milletari et al., "V-Net", 3DV 2016, arXiv:1606.04797, section 3, there with squared
        denominators; plain ones and the place of `smooth`: Isensee et al., "nnU-Net", Nature
        Methods 2021, doi:10.1038/s41592-020-01008-z. On soft labels: Wang et al., "Dice
        Semimetric Losses", MICCAI 2023, arXiv:2303.16296; their remedy is not used here.
    """
    sums = class_overlap(
        y_true,
        y_pred,
        include_background=include_background,
        ignore_label=ignore_label,
        group_size=group_size,
    )
    return class_mean(dice_per_class(sums, smooth), class_weights, y_pred.shape[-1])


def squared_dice(
    y_true,
    y_pred,
    *,
    smooth: float = 1e-5,
    include_background: bool = False,
    class_weights: list[float] | None = None,
    ignore_label: int | None = None,
    group_size: int = 1,
):
    """Soft Dice loss of V-Net: as `dice` with squares summed in the denominator.

    Against `dice`, uncertain voxels weigh less in the denominator, which is
    `D = sum_v t_vc ** 2 + sum_v p_vc ** 2 + smooth`. The loss of a class is then
    `sum_v (t_vc - p_vc) ** 2 / D`: least at `p = t`, where it is 0, for soft labels too.

    Args:
        y_true: As in `dice`.
        y_pred: As in `dice`.
        smooth: As in `dice`; V-Net has none.
        include_background: As in `dice`; V-Net has one foreground class.
        class_weights: As in `dice`.
        ignore_label: As in `dice`.
        group_size: As in `dice`.

    Returns:
        As `dice`.

    Raises:
        ConfigError: As `dice`.
        ShapeError: As `dice`.

    Reference:
        Milletari et al., "V-Net", 3DV 2016, arXiv:1606.04797, section 3.
    """
    sums = class_overlap(
        y_true,
        y_pred,
        include_background=include_background,
        ignore_label=ignore_label,
        group_size=group_size,
        size=ops.square,
    )
    return class_mean(dice_per_class(sums, smooth), class_weights, y_pred.shape[-1])


def dice_per_class(sums, smooth):
    """Returns `1 - (2 * both + smooth) / (truth + predicted + smooth)` of an `Overlap`."""
    return 1.0 - (2.0 * sums.both + smooth) / (sums.truth + sums.predicted + smooth)
