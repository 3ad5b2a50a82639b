"""Deep supervision: one loss at several resolutions, the coarser the lighter."""

import math

from segkit.errors import ShapeError


def over_resolutions(terms, labels, logits):
    """Returns the terms of a loss as weighted sums over resolutions.

    Args:
        terms: Function of labels and logits that returns a dict name -> `(batch,)`.
        labels: Class indices `(batch, *spatial)`, or soft labels `(batch, *spatial, classes)`.
        logits: Dict of logits: the first at the resolution of the labels, each further one at that
            of the one before or coarser, its sides dividing those of the labels.

    Returns:
        Dict name -> `(batch,)`, each the sum of that term times `resolution_weights`, which
        several outputs at one resolution share equally.

    Raises:
        ShapeError: If the sides of a coarser resolution are unknown or do not divide those of the
            labels, or if it is finer than the one before it.
    """
    total = {}
    resolutions = _resolutions(labels, logits)
    weights = resolution_weights(len(resolutions))
    for weight, (factors, names) in zip(weights, resolutions, strict=True):
        at_resolution = stride_labels(labels, factors)
        for name in names:
            for term, value in terms(at_resolution, logits[name]).items():
                value = weight / len(names) * value
                total[term] = total[term] + value if term in total else value
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


def _resolutions(labels, logits):
    """List of `(factors, names of the outputs)`, the finest first."""
    fine, *coarser = logits
    resolutions = [((1,) * (len(logits[fine].shape) - 2), [fine])]
    for name in coarser:
        factors = _factors(labels, logits[name], name)
        last, names = resolutions[-1]
        if factors == last:
            names.append(name)
        elif math.prod(factors) > math.prod(last):
            resolutions.append((factors, [name]))
        else:
            raise ShapeError(
                f"deep supervision takes the finest resolution first, got {name!r} after one that "
                "is no finer. Order the network's outputs by their size."
            )
    return resolutions


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
    return tuple(a // b for a, b in zip(fine, coarse, strict=True))
