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
):
    """Weighted sum `alpha * cross_entropy + (1 - alpha) * dice`, one value per example.

    The defaults are nnU-Net's loss up to constants: nnU-Net adds the two with weight 1 and
    writes Dice as `-dice` instead of `1 - dice`, so `nnunet = 2 * ce_dice - 1`.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`; or soft labels, class
            probabilities of any float dtype, shape `(batch, *spatial, classes)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        alpha: Weight of the cross-entropy, in [0, 1].
        squared: Use `squared_dice` in place of `dice`.
        smooth: As in `dice`.
        include_background: As in `dice`; the cross-entropy always counts all classes.

    Returns:
        float32 tensor of shape `(batch,)`, values >= 0.

    Raises:
        ConfigError: If `alpha` is outside [0, 1].
        ShapeError: As `dice`.

    Reference:
        Isensee et al., "nnU-Net", Nature Methods 2021, doi:10.1038/s41592-020-01008-z.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"ce_dice needs an alpha from 0 to 1, got {alpha}.")
    overlap = squared_dice if squared else dice
    return alpha * cross_entropy(y_true, y_pred) + (1 - alpha) * overlap(
        y_true, y_pred, smooth=smooth, include_background=include_background
    )
