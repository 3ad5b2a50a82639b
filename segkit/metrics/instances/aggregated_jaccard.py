"""Aggregated Jaccard index (AJI): pixels of all objects pooled, with objects paired first."""

import numpy as np


def aji_parts(overlaps):
    """Returns the pixels that the index sets in proportion.

    Each true object is paired with the predicted one of the largest IoU, the first of several.
    Their intersection adds to the one sum, their union to the other, to which predicted objects
    that were never chosen add their size. One predicted object may be chosen several times, as in
    the paper's algorithm 1; a true object that nothing overlaps adds its size. Predicted objects
    that mostly lie on ignored ones and were not chosen add nothing.

    Args:
        overlaps: `Overlaps` of two maps.

    Returns:
        `(intersection, union)`, ints.

    Reference:
        Kumar et al., "A Dataset and a Technique for Generalized Nuclear Segmentation for
        Computational Pathology", IEEE TMI 36(7), 2017, doi:10.1109/TMI.2017.2677499, and the code
        of its authors for what the paper leaves open: ties, and objects without any overlap.
    """
    true, predicted = overlaps.pairs.T
    # By truth, then IoU, then the lowest index of the prediction last: the last row is the best.
    order = np.lexsort((-predicted, overlaps.iou, true))
    last = np.append(true[order][1:] != true[order][:-1], True)[: len(order)]
    best = order[last]
    chosen = np.zeros(len(overlaps.predicted), bool)
    chosen[predicted[best]] = True
    left = ~chosen & ~overlaps.on_void
    shared = overlaps.shared[best].sum()
    union = overlaps.true.sum() + overlaps.predicted[predicted[best]].sum() - shared
    return int(shared), int(union + overlaps.predicted[left].sum())


def aggregated_jaccard(parts):
    """Returns the index, `intersection / union`.

    Args:
        parts: From `aji_parts`, shape `(..., 2)`.

    Returns:
        float64, shape `(...)`, in [0, 1]; NaN where truth and prediction have no object.
    """
    parts = np.asarray(parts, float)
    with np.errstate(invalid="ignore"):
        return parts[..., 0] / parts[..., 1]
