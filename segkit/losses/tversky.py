"""Tversky losses: Dice with separate weights for false positives and false negatives."""

from keras import ops

from segkit.errors import ConfigError
from segkit.losses.overlap import class_mean
from segkit.losses.overlap import class_overlap

SMALLEST = 1e-7  # below, focal_tversky goes on as a line: its power has no derivative at 0


def tversky(
    y_true,
    y_pred,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1e-5,
    include_background: bool = False,
    class_weights: list[float] | None = None,
    ignore_label: int | None = None,
    group_size: int = 1,
):
    """Tversky loss, one value per example.

    With `t` the labels, one-hot or soft, and `p` the softmax of the logits, for each class `c`
    with sums over the voxels `v` of one example

        TP = sum_v t_vc p_vc,   FP = sum_v (1 - t_vc) p_vc,   FN = sum_v t_vc (1 - p_vc)
        loss_c = 1 - (TP + smooth) / (TP + alpha * FP + beta * FN + smooth)

    and the result is the mean of `loss_c` over classes. `alpha` weighs false positives and `beta`
    false negatives, as in the paper; in `keras.losses.Tversky` the two are exchanged. With both
    1/2 it is `dice` with twice the `smooth`. A class that the labels do not hold costs
    `alpha * P / (alpha * P + smooth)` for `P = sum_v p_vc`: nearly 1 until almost nothing is
    predicted, then 0.

    Args:
        y_true: As in `dice`, soft labels included.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        alpha: Weight of false positives, 0 or more; 0.3 is the paper's best.
        beta: Weight of false negatives, 0 or more; 0.7 is the paper's best.
        smooth: Added to both sides of the fraction; in voxels; the paper has none.
        include_background: As in `dice`.
        class_weights: As in `dice`.
        ignore_label: As in `dice`.
        group_size: As in `dice`.

    Returns:
        float32 tensor of shape `(batch,)`, values in [0, 1].

    Raises:
        ConfigError: `alpha` or `beta` is negative, or as `dice`.
        ShapeError: As `dice`.

    Reference:
        Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional
        deep networks", MLMI 2017, arXiv:1706.05721, section 2.2, there for one foreground class.
    """
    sums = class_overlap(
        y_true,
        y_pred,
        include_background=include_background,
        ignore_label=ignore_label,
        group_size=group_size,
    )
    per_class = _tversky_per_class(sums, alpha, beta, smooth)
    return class_mean(per_class, class_weights, y_pred.shape[-1])


def focal_tversky(
    y_true,
    y_pred,
    *,
    gamma: float = 4 / 3,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1e-5,
    include_background: bool = False,
    class_weights: list[float] | None = None,
    ignore_label: int | None = None,
    group_size: int = 1,
):
    """Focal Tversky loss: the mean over classes of `loss_c ** (1 / gamma)`, `loss_c` of `tversky`.

    A `gamma` above 1 makes the slope steeper where a class is segmented well, so that training
    goes on there. The slope would be infinite at 0; below a `loss_c` of 1e-7 the power goes on
    as the straight line to 0.

    Args:
        y_true: As in `dice`, soft labels included.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        gamma: At least 1; 4/3 is the paper's best. Many implementations call 1 / gamma so.
        alpha: Weight of false positives, as in `tversky`; the paper calls it beta.
        beta: Weight of false negatives, as in `tversky`; the paper calls it alpha.
        smooth: As in `tversky`.
        include_background: As in `dice`.
        class_weights: As in `dice`.
        ignore_label: As in `dice`.
        group_size: As in `dice`.

    Returns:
        float32 tensor of shape `(batch,)`, values in [0, 1].

    Raises:
        ConfigError: `gamma` is below 1, or as `tversky`.
        ShapeError: As `dice`.

    Reference:
        Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for
        lesion segmentation", ISBI 2019, arXiv:1810.07842, equation 4, there a sum over classes.
    """
    if gamma < 1:
        raise ConfigError(f"focal_tversky needs a gamma of 1 or more, got {gamma}.")
    sums = class_overlap(
        y_true,
        y_pred,
        include_background=include_background,
        ignore_label=ignore_label,
        group_size=group_size,
    )
    per_class = _root(_tversky_per_class(sums, alpha, beta, smooth), 1 / gamma)
    return class_mean(per_class, class_weights, y_pred.shape[-1])


def _tversky_per_class(sums, alpha, beta, smooth):
    if alpha < 0 or beta < 0:
        raise ConfigError(
            f"alpha and beta of a Tversky loss must be 0 or more, got {alpha} and {beta}."
        )
    false_positives = sums.predicted - sums.both
    false_negatives = sums.truth - sums.both
    total = sums.both + alpha * false_positives + beta * false_negatives
    return 1.0 - (sums.both + smooth) / (total + smooth)


def _root(values, exponent):
    """Returns `values ** exponent`; below `SMALLEST` the line to 0, with its finite slope."""
    power = ops.power(ops.maximum(values, SMALLEST), exponent)
    return ops.where(values < SMALLEST, values * SMALLEST ** (exponent - 1), power)
