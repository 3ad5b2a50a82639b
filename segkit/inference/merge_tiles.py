"""Detections of overlapping tiles put together: no object doubled at a seam, none lost.

Two detections of different tiles are the same object if their masks agree within the pixels that
both tiles saw. One that ends at an edge of its tile which is no edge of the image is *cut*: the
object may go on behind it. So a detection that some tile holds whole is preferred to cut ones of
the same object, the surest of the whole ones to the others, and objects that no tile holds whole
are joined from their cut parts. What a tile makes of the rim of an object is not believed if
another tile, which saw more of it, did not find it.
"""

from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from segkit.errors import ShapeError
from segkit.inference.detections import Detections
from segkit.inference.detections import bounds
from segkit.inference.detections import tighten


def tile_rectangles(shape, side, overlap):
    """Returns tiles that cover an image, spaced evenly.

    Args:
        shape: `(height, width)` of the image.
        side: `(height, width)` of a tile in pixels; a side longer than the image's is cut to it.
        overlap: Pixels that neighbours share at least. Choose it as large as most objects: then
            some tile holds each of them whole.

    Returns:
        int array, shape `(tiles, 4)`: `y0, x0, y1, x1`, half-open.

    Raises:
        ShapeError: If a tile is not larger than the overlap.
    """
    if min(side) <= overlap or overlap < 0:
        raise ShapeError(
            f"tiles of {side[0]} x {side[1]} pixels cannot overlap by {overlap}: the overlap must "
            "be at least 0 and smaller than a tile."
        )
    starts = []
    for size, length in zip(shape, side, strict=True):
        steps = -(-max(size - length, 0) // (length - overlap))
        starts.append(np.linspace(0, max(size - length, 0), steps + 1).round().astype(int))
    y, x = (grid.ravel() for grid in np.meshgrid(*starts, indexing="ij"))
    ends = np.minimum([side[0], side[1]], shape)
    return np.stack([y, x, y + ends[0], x + ends[1]], axis=-1)


def merge_tiles(detections, tiles, shape, *, agreement=0.5, margin=2.0):
    """Merges the detections of tiles.

    Args:
        detections: For each tile its `Detections`, in pixels of the image.
        tiles: `y0, x0, y1, x1` of each tile, shape `(tiles, 4)`.
        shape: `(height, width)` of the image.
        agreement: Two detections are the same object above this IoU of their masks within the
            overlap of their tiles. A cut one is also dropped if more than this share of it there
            lies in a whole one of its class.
        margin: By how many pixels a mask may be wrong. A detection that comes closer to an inner
            edge of its tile is cut. If other tiles hold it farther than that from their edges, it
            is dropped unless one of them finds it; always if it is no thicker than that.

    Returns:
        `Detections` with tight boxes. A joined object has the largest score and the class of its
        largest part.
    """
    found = tighten(_concatenate(detections, shape))
    tile = _tile_of(detections)
    places, tiles = bounds(found.boxes, shape), np.asarray(tiles, int).reshape(-1, 4)
    if not len(places):
        return found
    cut = _clearance(places, tiles[tile], shape) < margin
    pairs = box_pairs(places)
    pairs = pairs[tile[pairs[:, 0]] != tile[pairs[:, 1]]]
    shared, sizes = _seen_by_both(found.masks, places, tiles[tile], pairs)
    same = shared > agreement * (sizes.sum(axis=1) - shared)
    alike = found.classes[pairs[:, 0]] == found.classes[pairs[:, 1]]
    kept = _without_doubles(found.scores, cut, pairs[same])
    kept &= ~_contradicted(places, tiles, tile, cut, pairs[same], (shape, margin))
    covered = shared[:, None] > agreement * sizes
    kept &= ~_behind_whole(pairs, cut, same[:, None] | (alike[:, None] & covered))
    parts = same & (kept & cut)[pairs].all(axis=1)
    return _join(found, places, kept, pairs[parts])


def box_pairs(boxes):
    """Returns all pairs of boxes that share a pixel, found by sweeping along y in bands of x.

    Args:
        boxes: `y0, x0, y1, x1`, half-open, shape `(boxes, 4)`, none of them empty.

    Returns:
        int array, shape `(pairs, 2)`, the lower index first, in order.
    """
    boxes = np.asarray(boxes)
    if not len(boxes):
        return np.empty((0, 2), int)
    width = max(4 * float(np.median(boxes[:, 3] - boxes[:, 1])), 1.0)
    first, last = boxes[:, 1] // width, (boxes[:, 3] - 1e-6) // width
    repeats = (last - first).astype(int) + 1
    index = np.repeat(np.arange(len(boxes)), repeats)
    band = np.arange(len(index)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    band = band + first[index]
    order = np.lexsort((boxes[index, 0], band))
    index, band = index[order], band[order]
    ends = np.append(np.flatnonzero(np.diff(band)) + 1, len(band))
    found = [_sweep(boxes, index[a:b]) for a, b in pairwise([0, *ends])]
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _sweep(boxes, index):
    """Pairs among boxes that are sorted by their first row."""
    y0, y1 = boxes[index, 0], boxes[index, 2]
    until = np.searchsorted(y0, y1)
    counts = until - np.arange(len(index)) - 1
    left = np.repeat(np.arange(len(index)), counts)
    right = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts) + left + 1
    a, b = index[left], index[right]
    meet = (boxes[a, 1] < boxes[b, 3]) & (boxes[b, 1] < boxes[a, 3])
    return np.stack([a[meet], b[meet]], axis=-1)


def _concatenate(detections, shape):
    empty = np.empty((0, 4), np.float32)
    return Detections(
        np.concatenate([empty, *(d.boxes for d in detections)]),
        np.concatenate([empty[:, 0], *(d.scores for d in detections)]),
        np.concatenate([empty[:, 0].astype(np.int32), *(d.classes for d in detections)]),
        [mask for d in detections for mask in d.masks],
        tuple(shape),
    )


def _tile_of(detections):
    """Index of the tile of each detection that has a pixel."""
    sizes = [sum(bool(mask.any()) for mask in d.masks) for d in detections]
    return np.repeat(np.arange(len(detections)), sizes)


def _clearance(places, tiles, shape):
    """Pixels from each box to the nearest inner edge of its tile; infinite if there is none."""
    low = np.where(tiles[:, :2] > 0, places[:, :2] - tiles[:, :2], np.inf)
    high = np.where(tiles[:, 2:] < np.asarray(shape), tiles[:, 2:] - places[:, 2:], np.inf)
    return np.minimum(low, high).min(axis=1)


def _contradicted(places, tiles, tile, cut, same, limits):
    """Marks cut detections that another tile sees with more around them, and does not find.

    `limits` are `shape` and `margin`; `same` are pairs of the same object.
    """
    shape, margin = limits
    seen, confirmed = np.zeros(len(cut), bool), np.zeros(len(cut), bool)
    for index in np.flatnonzero(cut):
        seen[index] = (_clearance(places[[index]], tiles, shape) >= margin).any()
    for mine, other in (same.T, same.T[::-1]):
        confirmed[mine[_clearance(places[mine], tiles[tile[other]], shape) >= margin]] = True
    thin = (places[:, 2:] - places[:, :2]).min(axis=1) <= margin
    return seen & (thin | ~confirmed)


def _seen_by_both(masks, places, tiles, pairs):
    """Pixels that pairs share, and those of each one, within the overlap of their tiles."""
    both = tiles[pairs]
    windows = np.concatenate([both[..., :2].max(axis=1), both[..., 2:].min(axis=1)], axis=1)
    shared, sizes = np.zeros(len(pairs), int), np.zeros((len(pairs), 2), int)
    for row, (pair, window) in enumerate(zip(pairs, windows, strict=True)):
        sizes[row] = [np.count_nonzero(_part(masks[n], places[n], window)) for n in pair]
        inner = _meet(_meet(window, places[pair[0]]), places[pair[1]])
        a, b = (_part(masks[n], places[n], inner) for n in pair)
        shared[row] = np.count_nonzero(a & b)
    return shared, sizes


def _meet(a, b):
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _part(mask, place, window):
    """The part of a mask in a window of the image; empty where they do not meet."""
    y0, x0, y1, x1 = _meet(place, window)
    y, x = place[:2]
    return mask[y0 - y : max(y1, y0) - y, x0 - x : max(x1, x0) - x]


def _without_doubles(scores, cut, same):
    """Marks all but those whole detections of which another whole one is surer."""
    kept = np.ones(len(scores), bool)
    same = same[~cut[same].any(axis=1)]
    partners = sparse.coo_array((np.ones(len(same)), same.T), (len(kept),) * 2)
    partners = (partners + partners.T).tocsr()
    for index in np.argsort(-scores, kind="stable"):
        if kept[index]:
            kept[partners.indices[partners.indptr[index] : partners.indptr[index + 1]]] = False
    return kept


def _behind_whole(pairs, cut, same):
    """Marks cut detections that are the same as a whole one.

    `same` is bool `(pairs, 2)`: whether the first, or the second, of a pair could be dropped.
    """
    dropped = np.zeros(len(cut), bool)
    for mine, other in ((0, 1), (1, 0)):
        hits = same[:, mine] & cut[pairs[:, mine]] & ~cut[pairs[:, other]]
        dropped[pairs[hits, mine]] = True
    return dropped


def _join(found, places, kept, pairs):
    """Joins parts of one object, and leaves out what is not kept."""
    number = len(found.scores)
    graph = sparse.coo_array((np.ones(len(pairs)), pairs.T), (number, number))
    _, group = csgraph.connected_components(graph, directed=False)
    group = np.where(kept, group, -1)
    several = np.bincount(group[kept], minlength=number) > 1
    single = kept & ~several[group]
    joined = [_union(found, places, np.flatnonzero(group == n)) for n in np.flatnonzero(several)]
    return _concatenate([found.take(np.flatnonzero(single)), *joined], found.shape)


def _union(found, places, members):
    low, high = places[members, :2].min(axis=0), places[members, 2:].max(axis=0)
    mask = np.zeros(high - low, bool)
    for index in members:
        y0, x0, y1, x1 = places[index] - [*low, *low]
        mask[y0:y1, x0:x1] |= found.masks[index]
    largest = members[np.argmax([found.masks[index].sum() for index in members])]
    return Detections(
        np.array([[*low, *high]], np.float32),
        found.scores[members].max(keepdims=True),
        found.classes[[largest]],
        [mask],
        found.shape,
    )
