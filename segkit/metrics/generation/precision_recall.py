"""Precision and recall of made examples: how many look real, and how much of the real is made."""

from typing import NamedTuple

import numpy as np

from segkit.metrics.generation.features import checked
from segkit.metrics.generation.features import distance_blocks


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1].

    Attributes:
        precision: Of made examples, the share that lies among the real ones. Low: unreal images.
        recall: Of real examples, the share that lies among the made ones. Low: little variety.
    """

    precision: float
    recall: float


def precision_recall(real, made, *, neighbours=3):
    """Improved precision and recall.

    Around each example of a kind lies a ball that reaches to its `neighbours`-th nearest one of
    the same kind. An example of the other kind lies among them if a ball holds it, its border
    included.

    Args:
        real: Features of real examples, shape `(examples, features)`.
        made: Features of made examples, `(examples, features)`; as many, else the two shares are
            not comparable.
        neighbours: Number of neighbours, 1 or more.

    Returns:
        `PrecisionRecall`.

    Raises:
        DataError: If a kind has no more examples than `neighbours`, shapes do not fit or a value
            is not finite.

    Reference:
        Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative
        Models", NeurIPS 2019, arXiv:1904.06991, equations 1 and 2 and algorithm 1.
    """
    needed = max(neighbours, 1) + 1
    real, made = checked("precision and recall", needed=needed, real=real, made=made)
    among_real = _among(made, real, _radii(real, neighbours))
    among_made = _among(real, made, _radii(made, neighbours))
    return PrecisionRecall(float(among_real.mean()), float(among_made.mean()))


def _radii(array, neighbours):
    """Distance of each example to its neighbour of that rank; rank 0 is the example itself."""
    blocks = distance_blocks(array, array)
    return np.concatenate([np.partition(d, neighbours, axis=1)[:, neighbours] for _, d in blocks])


def _among(examples, others, radii):
    """Whether each example lies in a ball around one of the others."""
    blocks = distance_blocks(examples, others)
    return np.concatenate([(distances <= radii).any(axis=1) for _, distances in blocks])
