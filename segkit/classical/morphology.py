"""Contours as masks, moved by morphological operators: no step size, and no reinitialisation.

The masks are those of `skimage.segmentation.morphological_chan_vese` and
`morphological_geodesic_active_contour`, whose smoothing alternates between two operators from one
call to the next; here every call begins with the same one. A contour that has come to rest ends
the loop.

Reference:
    Márquez-Neila, Baumela and Alvarez, "A morphological approach to curvature-based evolution of
    curves and surfaces", IEEE Transactions on Pattern Analysis and Machine Intelligence 36, 2014.
"""

import itertools

import numpy as np


def chan_vese_contour(image, mask, iterations, *, smoothing, inside, outside):
    """Moves a mask until intensities inside and outside are as even as possible; section 5.1.

    Args:
        image: float array, 2-D or 3-D.
        mask: bool, same shape: where the contour starts.
        iterations: Steps at most.
        smoothing: How often the mask is smoothed per step.
        inside: Weight of the squared deviation from the mean inside.
        outside: Weight of the squared deviation from the mean outside.

    Returns:
        bool mask of the same shape.
    """

    def attach(mask):
        within = image[mask].mean(dtype=np.float64) if mask.any() else 0.0
        beyond = image[~mask].mean(dtype=np.float64) if not mask.all() else 0.0
        cost = inside * (image - within) ** 2 - outside * (image - beyond) ** 2
        border = np.any([slope != 0 for slope in np.gradient(mask.astype(np.float32))], axis=0)
        return np.where(border & (cost != 0), cost < 0, mask)

    return _settled(attach, mask, iterations, smoothing)


def geodesic_contour(stopping, mask, iterations, *, smoothing, balloon, edge_share):
    """Moves a mask until it rests in the valleys of a stopping function; section 5.2.

    Args:
        stopping: float array, 2-D or 3-D: near 1 in even regions, low on edges.
        mask: bool, same shape: where the contour starts.
        iterations: Steps at most.
        smoothing: How often the mask is smoothed per step.
        balloon: 1 to grow, -1 to shrink, 0 for neither, away from edges.
        edge_share: Share of the voxels that count as edges, those of the lowest values.

    Returns:
        bool mask of the same shape.
    """
    even = stopping > np.percentile(stopping, 100 * edge_share)
    slopes = np.gradient(stopping)
    cube = tuple(np.eye(mask.ndim, dtype=int))

    def attach(mask):
        if balloon:
            mask = np.where(even, _grown(mask, cube) if balloon > 0 else _shrunk(mask, cube), mask)
        pull = sum(a * b for a, b in zip(slopes, np.gradient(mask.astype(np.float32)), strict=True))
        return np.where(pull != 0, pull > 0, mask)

    return _settled(attach, mask, iterations, smoothing)


def _settled(attach, mask, iterations, smoothing):
    """Alternates attachment and smoothing until steps repeat themselves or are used up."""
    operators = itertools.cycle(
        (lambda mask: _sup_inf(_inf_sup(mask)), lambda mask: _inf_sup(_sup_inf(mask)))
    )
    before, last = None, mask
    for step in range(iterations):
        mask = attach(last)
        for _ in range(smoothing):
            mask = next(operators)(mask)
        # Two steps end with the same operator: what equals the mask two steps ago recurs forever.
        if before is not None and np.array_equal(mask, before):
            return mask if (iterations - 1 - step) % 2 == 0 else last
        before, last = last, mask
    return last


def _sup_inf(mask):
    """Removes what no flat fits in: convex bumps."""
    return np.logical_or.reduce([_shrunk(mask, flat) for flat in _flats(mask.ndim)])


def _inf_sup(mask):
    """Fills what no flat fits in outside: concave dents."""
    return np.logical_and.reduce([_grown(mask, flat) for flat in _flats(mask.ndim)])


def _flats(ndim):
    """Segments (2-D) or squares (3-D) of 3 voxels a side, as the directions that span them.

    Four directions of segments; three squares along the axes and six along the diagonals.
    """
    axes = np.eye(ndim, dtype=int)
    pairs = list(itertools.combinations(axes, 2))
    diagonals = [d for a, b in pairs for d in (a + b, a - b)]
    if ndim == 2:
        return [(direction,) for direction in (*axes, *diagonals)]
    across = [(axis, d) for d in diagonals for axis in axes if not (axis * d).any()]
    return [*pairs, *across]


def _grown(mask, directions):
    """Dilates along each direction by one voxel to both sides."""
    for step in directions:
        mask = mask | _moved(mask, step) | _moved(mask, -step)
    return mask


def _shrunk(mask, directions):
    """Erodes along each direction by one voxel to both sides; nothing lies beyond the border."""
    for step in directions:
        mask = mask & _moved(mask, step) & _moved(mask, -step)
    return mask


def _moved(mask, step):
    """The mask moved by -1, 0 or 1 voxels per axis; what comes in is empty."""
    to = {-1: slice(None, -1), 0: slice(None), 1: slice(1, None)}
    moved = np.zeros_like(mask)
    moved[tuple(to[int(s)] for s in step)] = mask[tuple(to[-int(s)] for s in step)]
    return moved
