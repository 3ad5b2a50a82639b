"""Objects of a volume from those found in its slices."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from segkit.errors import ShapeError
from segkit.inference.detections import InstanceMap
from segkit.inference.detections import paint
from segkit.metrics.instances.overlaps import map_overlaps


def link_slices(slices, *, min_score=0.0, overlap=0.5):
    """Links the detections of neighbouring slices into volumes.

    Between two slices each object gets at most one partner, of its class, so that the sum of IoU
    over all pairs is as large as can be (Hungarian method). A pair may be linked if they share at
    least half, or another given share, of the smaller one: IoU alone would cut off the poles of a
    sphere, where a slice of a few pixels follows one of many. An object that is not seen in one
    slice ends there.

    Args:
        slices: `Detections` or `InstanceMap` of each slice, in order, of equal shape.
        min_score: Detections with a lower score are left out.
        overlap: Share of the smaller object that the larger one must cover, above 0.

    Returns:
        `InstanceMap` of shape `(depth, height, width)`, in the order of the first slices. The
        score of an object is the mean over its pixels.

    Raises:
        ShapeError: If there is no slice, or if their shapes differ.
    """
    maps = [_painted(found, min_score) for found in slices]
    if len({found.labels.shape for found in maps}) != 1:
        shapes = sorted({found.labels.shape for found in maps})
        raise ShapeError(f"the slices of a volume must have one shape, got {shapes or 'no slice'}.")
    tracks, number = [], 0
    for index, found in enumerate(maps):
        track = np.full(len(found.scores), -1)
        if index:
            before, after = _links(maps[index - 1], found, overlap)
            track[after] = tracks[-1][before]
        new = track < 0
        track[new] = number + np.arange(new.sum())
        number += int(new.sum())
        tracks.append(track)
    return _volume(maps, tracks, number)


def _painted(found, min_score):
    return found if isinstance(found, InstanceMap) else paint(found, min_score=min_score)


def _links(before, after, overlap):
    """Returns the indices of partners in two slices, as two arrays."""
    none = np.zeros(len(before.scores), bool)
    table = map_overlaps(before.labels, after.labels, none, len(after.scores))
    first, second = table.pairs.T
    smaller = np.minimum(table.true[first], table.predicted[second])
    linked = (table.shared >= overlap * smaller) & (before.classes[first] == after.classes[second])
    gain = np.zeros((len(before.scores), len(after.scores)))
    gain[first[linked], second[linked]] = table.iou[linked]
    rows, columns = linear_sum_assignment(gain, maximize=True)
    real = gain[rows, columns] > 0
    return rows[real], columns[real]


def _volume(maps, tracks, number):
    labels = np.stack([found.labels for found in maps])
    sums, sizes = np.zeros(number), np.zeros(number)
    classes = np.zeros(number, np.int32)
    for plane, found, track in zip(labels, maps, tracks, strict=True):
        pixels = np.bincount(plane.ravel(), minlength=len(track) + 1)[1:]
        sums[track] += pixels * found.scores
        sizes[track] += pixels
        classes[track] = found.classes
        plane[:] = np.append(0, track + 1)[plane]
    return InstanceMap(labels, (sums / np.maximum(sizes, 1)).astype(np.float32), classes)
