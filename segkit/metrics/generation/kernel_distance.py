"""Kernel distance of features, on those of Inception "KID"; unbiased, so small sets serve."""

import numpy as np

from segkit.errors import DataError
from segkit.metrics.generation.features import checked

SUBSET = 1000  # examples, as in the paper's code


def kernel_distance(real, made):
    """Squared maximum mean discrepancy with a cubic kernel, the unbiased estimate.

        k(x, y) = (x . y / features + 1)^3
        d = mean_{i != j} k(r_i, r_j) + mean_{i != j} k(g_i, g_j) - 2 mean_{i, j} k(r_i, g_j)

    For equal distributions its expectation is 0, so it can fall below 0.

    Args:
        real: Features of real examples, shape `(examples, features)`.
        made: Features of made examples, `(examples, features)`; the number of examples may differ.

    Returns:
        Float.

    Raises:
        DataError: If there are fewer than two examples of a kind, shapes do not fit or a value is
            not finite.

    Reference:
        Bińkowski et al., "Demystifying MMD GANs", ICLR 2018, arXiv:1801.01401, section 4 and
        equation 4.
    """
    real, made = checked("the kernel distance", needed=2, real=real, made=made)
    within = _mean_of_others(real) + _mean_of_others(made)
    return float(within - 2 * _kernel(real, made).mean())


def subset_kernel_distances(real, made, *, subsets=100, size=None, seed=0):
    """The kernel distance of random subsets, whose mean and standard deviation are reported.

    Args:
        real: As in `kernel_distance`.
        made: As there.
        subsets: Number of subsets.
        size: Examples of each kind in a subset, drawn without replacement; `None`: 1000, or half
            of the smaller kind if that is less, so that subsets differ.
        seed: Seed of the draws.

    Returns:
        float64, shape `(subsets,)`.

    Raises:
        DataError: As `kernel_distance`; four examples of each kind are needed without a `size`. Or
            `size` is below 2 or above the number of examples.
    """
    needed = 4 if size is None else 2
    real, made = checked("the kernel distance", needed=needed, real=real, made=made)
    fewest = min(len(real), len(made))
    size = min(SUBSET, fewest // 2) if size is None else size
    if not 2 <= size <= fewest:
        raise DataError(
            f"the kernel distance of subsets of {size} needs at least {max(size, 2)} examples of "
            f"each kind and a size of 2 or more, got {len(real)} real and {len(made)} made."
        )
    rng = np.random.default_rng(seed)

    def draw(array):
        return array[rng.choice(len(array), size, replace=False)]

    return np.array([kernel_distance(draw(real), draw(made)) for _ in range(subsets)])


def _kernel(left, right):
    return (left @ right.T / left.shape[1] + 1) ** 3


def _mean_of_others(array):
    """Mean of the kernel over pairs of different examples."""
    kernel, number = _kernel(array, array), len(array)
    return (kernel.sum() - np.trace(kernel)) / (number * (number - 1))
