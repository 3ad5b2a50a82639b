"""Scores that follow from voxel counts, of arrays and tensors alike; Keras is not imported."""

import numpy as np


def dice_from_counts(counts):
    """Dice coefficient of each class, `2 tp / (2 tp + fp + fn)`.

    Args:
        counts: NumPy array or tensor of floats, shape `(..., classes, 3)`, from `class_counts`.

    Returns:
        Array or tensor as `counts`, shape `(..., classes)`, values in [0, 1]; NaN for a class
        absent from both labels and predictions.
    """
    hits, false_positives, false_negatives = _columns(counts)
    return _ratio(2 * hits, 2 * hits + false_positives + false_negatives)


def iou_from_counts(counts):
    """Intersection over union (Jaccard index) of each class, `tp / (tp + fp + fn)`.

    Arguments, result and NaN as in `dice_from_counts`.
    """
    hits, false_positives, false_negatives = _columns(counts)
    return _ratio(hits, hits + false_positives + false_negatives)


def accuracy_from_counts(counts):
    """Share of the voxels of each class that were found (recall), `tp / (tp + fn)`.

    Arguments and result as in `dice_from_counts`; NaN for a class absent from the labels.
    """
    hits, _, false_negatives = _columns(counts)
    return _ratio(hits, hits + false_negatives)


def _columns(counts):
    return counts[..., 0], counts[..., 1], counts[..., 2]


def _ratio(part, whole):
    with np.errstate(invalid="ignore"):
        return part / whole
