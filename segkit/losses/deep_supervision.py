"""Deep supervision: one loss at several resolutions, the coarser the lighter."""

import math

from segkit.errors import ShapeError


def over_resolutions(terms, labels, logits):
    """Returns the terms of a loss as weighted sums over resolutions.

    Args:
        terms: Function of labels and logits that returns a dict name -> `(batch,)`.
        labels: Class indices `(batch, *spatial)`, or soft labels `(batch, *spatial, classes)`.
        logits: Dict of logits: the first at the resolution of the labels, each further one
            coarser, its sides dividing those of the labels.

    Returns:
        Dict name -> `(batch,)`, each the sum of that term times `resolution_weights`.

    Raises:
        ShapeError: If the sides of a coarser resolution are unknown or do not divide those of the
            labels, or if it is not coarser than the one before it.
    """
    fine, *coarser = logits
    weight, *weights = resolution_weights(len(logits))
    total = {term: weight * value for term, value in terms(labels, logits[fine]).items()}
    shrunk = 1
    for weight, name in zip(weights, coarser, strict=True):
        factors = _factors(labels, logits[name], name)
        if math.prod(factors) <= shrunk:
            raise ShapeError(
                f"deep supervision takes the finest resolution first, got {name!r} after one that "
                "is no finer. Order the network's outputs by their size."
            )
        shrunk = math.prod(factors)
        for term, value in terms(stride_labels(labels, factors), logits[name]).items():
            total[term] = total[term] + weight * value
    return total


def resolution_weights(number):
    """Returns the weights of `number` resolutions, finest first; they add up to 1.

    Each is half of the one before, the last is 0 unless it is the only one: nnU-Net's. The last
    is still computed, so that its weights get a gradient, of 0, like all others.
    """
    weights = [0.5**i for i in range(number)]
    if number > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def stride_labels(labels, factors):
    """Returns labels on a grid that is coarser by `factors`, without mixing any.

    Voxel `i` takes the label of voxel `f * i + f // 2`: the one at its centre or, where `f` is
    even, the one just behind it, as nearest-neighbour resizing does.

    Args:
        labels: Shape `(batch, *spatial)` or `(batch, *spatial, classes)`.
        factors: One integer per spatial axis.
    """
    return labels[(slice(None), *(slice(f // 2, None, f) for f in factors))]


def _factors(labels, scores, name):
    fine = tuple(labels.shape[1 : len(scores.shape) - 1])
    coarse = tuple(scores.shape[1:-1])
    known = len(fine) == len(coarse) and None not in fine + coarse
    if not known or any(a % b for a, b in zip(fine, coarse, strict=True)):
        raise ShapeError(
            f"deep supervision needs labels whose sides are known multiples of the sides of each "
            f"output, got {fine} for the {coarse} of {name!r}. Choose a patch that the network "
            "halves without a remainder."
        )
    return [a // b for a, b in zip(fine, coarse, strict=True)]
