"""Losses, by name: functions `(labels, logits) -> one value per example`, or classes of such."""

from functools import partial

from segkit.tables import check_options
from segkit.tables import load
from segkit.tables import short_name

LOSSES = {
    "cross_entropy": "segkit.losses.cross_entropy:cross_entropy",
    "topk_cross_entropy": "segkit.losses.topk_cross_entropy:topk_cross_entropy",
    "focal": "segkit.losses.focal:focal",
    "dice": "segkit.losses.dice:dice",
    "squared_dice": "segkit.losses.dice:squared_dice",
    "generalised_dice": "segkit.losses.generalised_dice:generalised_dice",
    "tversky": "segkit.losses.tversky:tversky",
    "focal_tversky": "segkit.losses.tversky:focal_tversky",
    "boundary": "segkit.losses.boundary:boundary",
    "cldice": "segkit.losses.cldice:cldice",
    "lovasz": "segkit.losses.lovasz:lovasz",
    "ce_dice": "segkit.losses.ce_dice:ce_dice",
    "region_ce_dice": "segkit.losses.region_ce_dice:region_ce_dice",
    "weighted_sum": "segkit.losses.weighted_sum:WeightedSum",
    "mask_rcnn": "segkit.losses.mask_rcnn:MaskRCNNLoss",
    "adversarial": "segkit.losses.adversarial:AdversarialLoss",
}


def build_loss(name, **options):
    """Returns a loss with its options bound.

    Args:
        name: Key of `LOSSES`, or `module:function`.
        **options: Keyword-only arguments of the loss.

    Returns:
        `Loss`: called with labels and logits `(batch, *spatial, classes)` it returns float32
        `(batch,)`; its `parts` returns the terms of which that is the sum. Labels are integer
        class indices `(batch, *spatial)`, or soft: float class probabilities
        `(batch, *spatial, classes)`.

    Raises:
        ConfigError: Unknown name or option, or a value of the wrong type.
    """
    check_options(LOSSES, name, options, "loss")
    entry = load(LOSSES, name, "loss")
    from segkit.losses.loss import Loss  # imports Keras: after the checks

    if isinstance(entry, type):
        return entry(**options)
    return Loss(short_name(name), partial(entry, **options))
