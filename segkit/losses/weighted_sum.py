"""A weighted sum of other losses."""

from segkit.losses import LOSSES
from segkit.losses import build_loss
from segkit.losses.loss import Loss
from segkit.tables import parse_parts


class WeightedSum(Loss):
    """Sum of losses, each times its weight.

    In YAML, one loss per line with its weight (1 if none is given) and its options:

        name: weighted_sum
        parts:
          - cross_entropy: {weight: 0.5}
          - dice: {weight: 0.5, group_size: 2}

    Its terms are the parts by name, with their weights; a name that occurs again is numbered:
    `dice`, `dice 2`. A part of several terms is one term here.
    """

    def __init__(self, *, parts: list[dict], ignore_label: int | None = None):
        """Builds the parts.

        Args:
            parts: List of `{name: options}`: a key of `LOSSES`, and the options of that loss with
                its `weight`, above 0, among them.
            ignore_label: Passed on to the parts that do not set their own.

        Raises:
            ConfigError: As `segkit.tables.parse_parts`.
        """
        super().__init__("weighted_sum", self._weighted)
        ignored = {} if ignore_label is None else {"ignore_label": ignore_label}
        self._parts = [
            (part, build_loss(part.name, **{**ignored, **part.options}))
            for part in parse_parts(LOSSES, parts, "loss.parts")
        ]

    def _weighted(self, labels, logits):
        return {part.label: part.weight * loss(labels, logits) for part, loss in self._parts}
