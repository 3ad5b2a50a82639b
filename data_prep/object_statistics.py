"""How many objects a data set has and how large their boxes are, for anchors of a detector.

Boxes are those of slices along the first axis of the prepared grid, in voxels; they are put
together over the chunks of a case. What is stored is measured: records hold ids, never boxes.
"""

import math
from collections import Counter
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.parallel import run_parallel
from data_prep.records import decode_numpy
from data_prep.records import read_records
from segkit.errors import DataError
from segkit.outputs import ignored_class

QUANTILES = (0, 5, 25, 50, 75, 95, 100)


class Box(NamedTuple):
    """The box of an object in a slice, half-open, in voxels of the prepared case.

    Attributes:
        id: Of the object.
        slice: Index along the first axis.
        kind: Its class index.
        box: `(low row, low column, high row, high column)`.
    """

    id: int
    slice: int
    kind: int
    box: tuple[int, int, int, int]


def count_objects(facts):
    """Returns what the state of a conversion says of objects; empty where there are none.

    Args:
        facts: Case id -> facts of `fingerprint.measure`.

    Returns:
        Dict with `objects`: case id -> voxels lost where masks overlap.

    Raises:
        DataError: Some cases with labels have objects and others none.
    """
    lost = {case: f["overlap"] for case, f in facts.items() if "overlap" in f}
    without = [c for c, f in facts.items() if c not in lost and f["class_voxels"] is not None]
    if lost and without:
        raise DataError(
            f"case {without[0]} has a label but no objects, as other cases have. Add its instance "
            "map, or leave the case out."
        )
    return {"objects": lost} if lost else {}


def describe_objects(folder, shards, splits, names, overlaps, *, workers=1):
    """Returns the manifest's entry "instances".

    Args:
        folder: Data set folder, with all shards written.
        shards: Their names.
        splits: Case id -> split. The test split counts only where there is no other, but for
            `max_id`.
        names: Names of the classes, in order.
        overlaps: Case id -> voxels that objects lost to others where masks overlap.
        workers: Number of processes.

    Returns:
        Dict with `count` of objects and `classes`, the count of each; `per_case_max` and
        `per_slice_max`; `max_id`; quantiles (0, 5, 25, 50, 75, 95, 100 %) of `sides`, the square
        root of height times width, and `aspects`, height over width; `anchor_sides` and
        `anchor_aspects`, see `spread`; `overlap_voxels` and `overlap_cases`. Objects of the class
        `ignore` stand in `classes` and nowhere else.

    Raises:
        DataError: No object is left on the prepared grid.
    """
    found = {}
    paths = [Path(folder) / name for name in shards]
    for _, boxes in run_parallel(measure_shard, paths, workers=workers):
        found |= boxes
    max_id = max((box.id for boxes in found.values() for box in boxes), default=0)
    counted = [case for case in splits if splits[case] != "test"] or list(splits)
    found = {case: found[case] for case in counted if case in found}
    kinds = Counter(kind for boxes in found.values() for _, kind in _objects(boxes))
    ignored = ignored_class(names)
    found = {case: [b for b in boxes if b.kind != ignored] for case, boxes in found.items()}
    sizes = np.array([_size(box) for boxes in found.values() for box in boxes])
    if not len(sizes):
        raise DataError("no object is left on the prepared grid. Give a finer --spacing.")
    sides, aspects = np.sqrt(sizes[:, 0] * sizes[:, 1]), sizes[:, 0] / sizes[:, 1]
    in_slices = Counter((case, box.slice) for case, boxes in found.items() for box in boxes)
    lost = [overlaps[case] for case in counted if overlaps.get(case)]
    return {
        "count": sum(len(_objects(boxes)) for boxes in found.values()),
        "classes": {names[kind]: count for kind, count in sorted(kinds.items())},
        "per_case_max": max(len(_objects(boxes)) for boxes in found.values()),
        "per_slice_max": max(in_slices.values()),
        "max_id": max_id,
        "sides": _quantiles(sides),
        "aspects": _quantiles(aspects),
        "anchor_sides": spread(sides),
        "anchor_aspects": spread(aspects),
        "overlap_voxels": sum(lost),
        "overlap_cases": len(lost),
    }


def measure_shard(path):
    """Returns the boxes of all objects in a shard, as a dict case id -> list of `Box`."""
    boxes = defaultdict(dict)
    for chunk in map(decode_numpy, read_records(path)):
        known = boxes[chunk.case_id]
        if chunk.instance is None:
            continue
        for box in slice_boxes(chunk.instance, chunk.label, chunk.origin):
            key = box.id, box.slice
            known[key] = _around(known[key], box) if key in known else box
    return {case: list(known.values()) for case, known in boxes.items()}


def slice_boxes(ids, label, origin=(0, 0, 0)):
    """Returns the box of each object in each slice, sorted by slice and id.

    Args:
        ids: uint16, shape `(d, h, w)`.
        label: Class indices of that shape.
        origin: Index of the first voxel in the case.
    """
    where = np.nonzero(ids)
    if not len(where[0]):
        return []
    found, kinds = ids[where], label[where]
    order = np.lexsort((found, where[0]))
    planes, rows, columns = (axis[order] + o for axis, o in zip(where, origin, strict=True))
    found, kinds = found[order], kinds[order]
    first = np.flatnonzero(np.diff(found.astype(int), prepend=-1) | np.diff(planes, prepend=-1))
    low = (np.minimum.reduceat(axis, first) for axis in (rows, columns))
    high = (np.maximum.reduceat(axis, first) + 1 for axis in (rows, columns))
    boxes = zip(*low, *high, strict=True)
    return [
        Box(int(found[n]), int(planes[n]), int(kinds[n]), tuple(map(int, box)))
        for n, box in zip(first, boxes, strict=True)
    ]


def spread(values):
    """Returns anchors for sizes: each of the middle 90 % lies within a factor of sqrt(2) of one.

    As few as that takes, evenly spaced in the logarithm between the quantiles of 5 and 95 %.

    Args:
        values: Positive numbers, 1-D.

    Example:
        >>> spread([10.0] * 50 + [40.0] * 50)
        [14.14, 28.28]
    """
    low, high = np.quantile(values, (0.05, 0.95))
    count = max(1, math.ceil(round(math.log2(high / low), 6)))
    step = (high / low) ** (1 / count)
    return [round(float(low * step ** (n + 0.5)), 2) for n in range(count)]


def _objects(boxes):
    return {(box.id, box.kind) for box in boxes}


def _size(box):
    top, left, bottom, right = box.box
    return bottom - top, right - left


def _around(a, b):
    both = np.array((a.box, b.box))
    return a._replace(box=(*map(int, both[:, :2].min(0)), *map(int, both[:, 2:].max(0))))


def _quantiles(values):
    return [round(float(q), 3) for q in np.quantile(values, np.array(QUANTILES) / 100)]
