"""Masks written as polygons or as run lengths, the two ways of COCO's annotations, to pixels."""

import numpy as np
from skimage.draw import polygon

from segkit.errors import DataError


def fill_polygons(polygons, shape):
    """Returns the pixels whose centres lie in one of some polygons.

    Args:
        polygons: Lists `[x0, y0, x1, y1, ...]`; pixel `(row, column)` covers x from `column` to
            `column + 1`, and y likewise.
        shape: `(height, width)`.

    Returns:
        Sorted flat indices, int64; none of a polygon without area.

    Raises:
        DataError: A polygon is no list of at least three points.
    """
    mask = np.zeros(shape, bool)
    for points in polygons:
        try:
            x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
        except (ValueError, TypeError):
            x = y = np.zeros(0)
        if len(x) < 3 or not np.isfinite((x, y)).all():
            raise DataError(f"a polygon is three points [x, y, x, y, x, y] or more, got {points}.")
        mask[polygon(y - 0.5, x - 0.5, shape)] = True
    return np.flatnonzero(mask)


def fill_runs(counts, shape):
    """Returns the pixels of a run-length encoding, column by column.

    Args:
        counts: Lengths of runs, in turn outside and inside; or COCO's text of them.
        shape: `(height, width)`.

    Returns:
        Sorted flat indices into rows, int64.

    Raises:
        DataError: The runs do not fill the shape, or the text is none.
    """
    runs = np.array(_parse(counts) if isinstance(counts, str) else counts)
    size = shape[0] * shape[1]
    if runs.dtype.kind not in "iu" or runs.ndim != 1 or runs.min() < 0 or runs.sum() != size:
        raise DataError(f"run lengths must be 0 or more and add up to {size} pixels.")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.flatnonzero(inside.reshape(shape[::-1]).T)


def _parse(text):
    """Reads numbers of five bits per letter, from the third on less the one before the last."""
    runs, value, shift = [], 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise DataError(f"the run lengths are no text of COCO's kind: {text[:40]!r}.")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs
