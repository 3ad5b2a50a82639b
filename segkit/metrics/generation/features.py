"""What the measures on features have in common: checks, and distances between examples."""

import numpy as np

from segkit.errors import DataError

_BLOCK = 1 << 24  # distances held at once, 128 MiB


def checked(measure, *, needed, **kinds):
    """Returns arrays of features in float64, after checks.

    Args:
        measure: Name of the measure, for the messages.
        needed: Least number of examples of each kind.
        **kinds: Name of a kind of example, such as `real`, and its features, `(examples,
            features)`.

    Returns:
        List of float64 arrays, in the order of `kinds`.

    Raises:
        DataError: If an array is not of that shape, the numbers of features differ, a value is
            NaN or infinite, or there are too few examples of a kind; names the number needed.
    """
    arrays = [np.asarray(array, np.float64) for array in kinds.values()]
    for name, array in zip(kinds, arrays, strict=True):
        if array.ndim != 2 or not array.shape[1] or array.shape[1] != arrays[0].shape[1]:
            raise DataError(
                f"{measure} needs features of shape (examples, features), as many of each kind, "
                f"got {array.shape} of {name} examples. Take one extractor for all."
            )
        if len(array) < needed:
            raise DataError(
                f"{measure} needs at least {needed} {name} examples for {array.shape[1]} features, "
                f"got {len(array)}. Draw more, or take an extractor with fewer features."
            )
        broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if broken.size:
            raise DataError(
                f"{measure}: the features of {broken.size} {name} examples hold NaN or infinite "
                f"values, the first of them number {broken[0]}. Check what made them."
            )
    return arrays


def distance_blocks(left, right):
    """Yields `(rows, distances)`: Euclidean distances of some rows of `left` to all of `right`.

    Differences are formed where the product form of the distance would lose most digits, so a
    copy has distance 0.

    Args:
        left: float64, shape `(n, features)`.
        right: float64, shape `(m, features)`.

    Yields:
        A slice of the rows of `left`, and float64 `(rows, m)`.
    """
    centre = right.mean(axis=0)  # large means would cost digits
    left, right = left - centre, right - centre
    left_norms, right_norms = ((array**2).sum(axis=1) for array in (left, right))
    step = max(1, _BLOCK // len(right))
    for start in range(0, len(left), step):
        rows = slice(start, start + step)
        norms = left_norms[rows, None] + right_norms
        squares = norms - 2 * left[rows] @ right.T
        for row in np.flatnonzero((close := squares < 1e-8 * norms).any(axis=1)):
            squares[row, close[row]] = ((left[start + row] - right[close[row]]) ** 2).sum(axis=1)
        yield rows, np.sqrt(np.maximum(squares, 0))
