"""Cross-entropy and soft Dice together."""

from segkit.errors import ConfigError
from segkit.losses.cross_entropy import cross_entropy
from segkit.losses.dice import dice
from segkit.losses.dice import squared_dice


def ce_dice(
    y_true,
    y_pred,
    *,
    alpha: float = 0.5,
    squared: bool = False,
    smooth: float = 1e-5,
    include_background: bool = False,
    ignore_label: int | None = None,
    group_size: int = 1,
):
    """Weighted sum `alpha * cross_entropy + (1 - alpha) * dice`, as its two terms.

    The defaults are nnU-Net's loss up to constants: nnU-Net adds the two with weight 1 and
    writes Dice as `-dice` instead of `1 - dice`, so `nnunet = 2 * ce_dice - 1`. Its batch Dice is
    `group_size` equal to the batch size.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`; or soft labels, class
            probabilities of any float dtype, shape `(batch, *spatial, classes)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        alpha: Weight of the cross-entropy, in [0, 1].
        squared: Use `squared_dice` in place of `dice`.
        smooth: As in `dice`.
        include_background: As in `dice`; the cross-entropy always counts all classes.
        ignore_label: As in `dice` and `cross_entropy`.
        group_size: As in `dice`; the cross-entropy is that of each example.

    Returns:
        Dict of float32 tensors of shape `(batch,)`, values >= 0: `cross_entropy` and `dice`, with
        their weights.

    Raises:
        ConfigError: If `alpha` is outside [0, 1], or as `dice`.
        ShapeError: As `dice`.

    Reference:
        Isensee et al., "nnU-Net", Nature Methods 2021, doi:10.1038/s41592-020-01008-z.
    """
    check_alpha(alpha)
    overlap = squared_dice if squared else dice
    overlap_loss = overlap(
        y_true,
        y_pred,
        smooth=smooth,
        include_background=include_background,
        ignore_label=ignore_label,
        group_size=group_size,
    )
    nats = cross_entropy(y_true, y_pred, ignore_label=ignore_label)
    return {"cross_entropy": alpha * nats, "dice": (1 - alpha) * overlap_loss}


def check_alpha(alpha):
    """Checks that `alpha`, the weight of the cross-entropy, is in [0, 1]; else `ConfigError`."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"the loss needs an alpha from 0 to 1, got {alpha}.")
