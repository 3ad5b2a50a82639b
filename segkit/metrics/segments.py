"""Scores of a division of an image into segments, such as cells between membranes.

Segments are compared as partitions, so a hole in a membrane that joins two large cells costs much
and a membrane drawn too thick costs nothing, other than in scores of single pixels.
"""

import numpy as np
from scipy import ndimage


def segment(boundary):
    """Returns the segments that a boundary leaves: 4-connected, numbered from 1.

    Args:
        boundary: bool, shape `(height, width)`.

    Returns:
        int32, same shape; 0 on the boundary.
    """
    return ndimage.label(~boundary)[0]


def thin(segments):
    """Grows segments into the boundary until it is one pixel wide.

    Each pixel of the boundary joins the nearest segment; where two segments then touch, one pixel
    of the old boundary is put back. What separates no two segments goes altogether. A skeleton
    would not do: its ends draw back from the edge of the image, and the cells there flow together.

    Args:
        segments: From `segment`.

    Returns:
        Grown segments, same shape and numbers. Where there is no segment nothing grows.
    """
    boundary = segments == 0
    if boundary.all():
        return segments
    nearest = ndimage.distance_transform_edt(boundary, return_distances=False, return_indices=True)
    grown = segments[tuple(nearest)]
    thinned = grown.copy()
    for axis in (0, 1):
        here = [slice(None)] * 2
        there = list(here)
        here[axis], there[axis] = slice(None, -1), slice(1, None)
        here, there = tuple(here), tuple(there)
        touching = grown[here] != grown[there]
        # Segments did not touch before, so one of the two was boundary.
        thinned[here][touching & boundary[here]] = 0
        thinned[there][touching & ~boundary[here]] = 0
    return thinned


def contingency(truth, prediction):
    """Counts the pixels that a segment of the truth and one of the prediction share.

    The boundary of the truth is left out ("foreground-restricted"). On the boundary of the
    prediction every pixel is a segment of its own.

    Args:
        truth: Segments, 0 on the boundary, shape `(height, width)`.
        prediction: The same.

    Returns:
        `(shared, true, predicted)`, float64 vectors of counts: of each pair that shares pixels, of
        each segment of the truth, and of each of the prediction.
    """
    truth, prediction = (np.asarray(a).ravel().astype(np.int64) for a in (truth, prediction))
    truth, prediction = truth[truth > 0], prediction[truth > 0]
    alone = prediction == 0
    prediction[alone] = prediction.max(initial=0) + 1 + np.arange(alone.sum())
    pairs = truth * (prediction.max(initial=0) + 1) + prediction
    return tuple(
        np.unique(ids, return_counts=True)[1].astype(float) for ids in (pairs, truth, prediction)
    )


def v_rand(truth, prediction):
    """Foreground-restricted Rand score: the F-score of pairs of pixels in one segment.

    With `p_ij` the share of the true foreground that lies in segment `i` of the prediction and
    segment `j` of the truth, `s_i` and `t_j` its sums over the other index:

        V_rand = sum_ij p_ij^2 / (sum_i s_i^2 / 2 + sum_j t_j^2 / 2)

    1 for equal segments; low where two large segments are merged, or one is split. "After border
    thinning" the prediction is passed through `thin` first.

    Args:
        truth: Segments as for `contingency`.
        prediction: The same.

    Returns:
        Float in (0, 1]; NaN where the truth has no segment.

    Reference:
        Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
        connectomics", Frontiers in Neuroanatomy 9:142, 2015, doi:10.3389/fnana.2015.00142,
        equation 3 with alpha = 1/2; pixels of the predicted boundary as in the challenge's code.
    """
    shared, true, predicted = contingency(truth, prediction)
    if not len(true):
        return float("nan")
    return float(2 * (shared**2).sum() / ((predicted**2).sum() + (true**2).sum()))


def v_info(truth, prediction):
    """Foreground-restricted information score: mutual information over the mean entropy.

        V_info = I(S; T) / (H(S) / 2 + H(T) / 2)

    with the shares of `v_rand` as probabilities. It minds small segments more than `v_rand` does.

    Args:
        truth: Segments as for `contingency`.
        prediction: The same.

    Returns:
        Float in [0, 1]; 1 if both are one single segment, NaN where the truth has none.

    Reference:
        As `v_rand`, the information theoretic score with alpha = 1/2.
    """
    shared, true, predicted = contingency(truth, prediction)
    if not len(true):
        return float("nan")
    joint, of_truth, of_prediction = (_entropy(counts) for counts in (shared, true, predicted))
    total = of_truth + of_prediction
    return float(2 * (total - joint) / total) if total else 1.0


def _entropy(counts):
    """Entropy in bits of a distribution given by its counts."""
    shares = counts / counts.sum()
    return -(shares * np.log2(shares)).sum()
