"""Losses, by name: functions `(labels, logits) -> one value per example`."""

from functools import partial

from segkit.tables import check_options
from segkit.tables import load

LOSSES = {
    "cross_entropy": "segkit.losses.cross_entropy:cross_entropy",
    "dice": "segkit.losses.dice:dice",
    "squared_dice": "segkit.losses.dice:squared_dice",
    "ce_dice": "segkit.losses.ce_dice:ce_dice",
}


def build_loss(name, **options):
    """Returns a loss with its options bound.

    Args:
        name: Key of `LOSSES`.
        **options: Keyword-only arguments of the loss.

    Returns:
        Function of labels and logits `(batch, *spatial, classes)` that returns float32
        `(batch,)`. Labels are integer class indices `(batch, *spatial)`, or soft: float class
        probabilities `(batch, *spatial, classes)`.

    Raises:
        ConfigError: Unknown name or option, or a value of the wrong type.
    """
    check_options(LOSSES, name, options, "loss")

    function = partial(load(LOSSES, name, "loss"), **options)

    def loss(labels, logits):
        return function(labels, logits)

    loss.parts = lambda labels, logits: {name: function(labels, logits)}
    return loss
