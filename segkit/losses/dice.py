"""Soft Dice losses, with plain and with squared denominators."""

from keras import ops

from segkit.errors import ShapeError
from segkit.losses.shapes import check_shapes
from segkit.losses.shapes import class_probabilities


def dice(y_true, y_pred, *, smooth: float = 1e-5, include_background: bool = False):
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

    Returns:
        float32 tensor of shape `(batch,)`, values in [0, 1].

    Raises:
        ShapeError: If the shapes do not fit, or no class is left.

    Reference:
        Milletari et al., "V-Net", 3DV 2016, arXiv:1606.04797, section 3, there with squared
        denominators; plain ones and the place of `smooth`: Isensee et al., "nnU-Net", Nature
        Methods 2021, doi:10.1038/s41592-020-01008-z. On soft labels: Wang et al., "Dice
        Semimetric Losses", MICCAI 2023, arXiv:2303.16296; their remedy is not used here.
    """
    return _dice(y_true, y_pred, smooth, include_background, size=lambda p: p)


def squared_dice(y_true, y_pred, *, smooth: float = 1e-5, include_background: bool = False):
    """Soft Dice loss of V-Net: as `dice` with squares summed in the denominator.

    Against `dice`, uncertain voxels weigh less in the denominator, which is
    `D = sum_v t_vc ** 2 + sum_v p_vc ** 2 + smooth`. The loss of a class is then
    `sum_v (t_vc - p_vc) ** 2 / D`: least at `p = t`, where it is 0, for soft labels too.

    Args:
        y_true: As in `dice`.
        y_pred: As in `dice`.
        smooth: As in `dice`; V-Net has none.
        include_background: As in `dice`; V-Net has one foreground class.

    Returns:
        As `dice`.

    Raises:
        ShapeError: As `dice`.

    Reference:
        Milletari et al., "V-Net", 3DV 2016, arXiv:1606.04797, section 3.
    """
    return _dice(y_true, y_pred, smooth, include_background, size=ops.square)


def _dice(y_true, y_pred, smooth, include_background, size):
    check_shapes(y_true, y_pred)
    num_classes = y_pred.shape[-1]
    if num_classes < 2 and not include_background:
        raise ShapeError(
            f"dice without background needs logits of at least 2 classes, got {num_classes}. "
            "Set include_background to true."
        )
    probs = ops.softmax(ops.cast(y_pred, "float32"))
    truth = class_probabilities(y_true, y_pred)
    if not include_background:
        probs, truth = probs[..., 1:], truth[..., 1:]

    spatial = tuple(range(1, len(probs.shape) - 1))
    overlap = ops.sum(truth * probs, axis=spatial)
    total = ops.sum(size(truth), axis=spatial) + ops.sum(size(probs), axis=spatial)
    return ops.mean(1.0 - (2.0 * overlap + smooth) / (total + smooth), axis=-1)
