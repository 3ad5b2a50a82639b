"""Panoptic quality of one class, and its two factors."""

import numpy as np

from segkit.metrics.instances.matching import count_matches
from segkit.metrics.instances.matching import matches


def panoptic_parts(overlaps):
    """Returns what panoptic quality is made of; the parts of several images add up.

    Args:
        overlaps: `Overlaps` of two maps, of one class.

    Returns:
        float64, shape `(4,)`: sum of the IoU of all matches above 0.5, true positives, false
        positives, false negatives.
    """
    (counts,) = count_matches(overlaps, (0.5,))
    return np.array([overlaps.iou[matches(overlaps, 0.5)].sum(), *counts])


def panoptic_quality(parts):
    """Panoptic, segmentation and detection quality: PQ = SQ * DQ.

        PQ = sum of IoU / (TP + FP / 2 + FN / 2),  SQ = sum of IoU / TP,  DQ = PQ / SQ

    DQ, "recognition quality" in the paper, is the F1 score of the objects found at IoU 0.5. The
    quality of a data set follows from the parts summed over its images, as in the paper; that of
    each image is often averaged for nuclei, which gives another number.

    Args:
        parts: From `panoptic_parts`, or sums of them, shape `(..., 4)`.

    Returns:
        `(pq, sq, dq)`, float64, shape `(...)`, in [0, 1]. PQ and DQ are NaN where truth and
        prediction have no object, SQ where nothing matches.

    Reference:
        Kirillov et al., "Panoptic Segmentation", CVPR 2019, arXiv:1801.00868, section 4.1, with
        ignored objects as its "void"; the name DQ is that of Graham et al., "HoVer-Net", Medical
        Image Analysis 58, 2019.
    """
    iou_sum, hits, extra, missed = np.moveaxis(np.asarray(parts, float), -1, 0)
    whole = hits + extra / 2 + missed / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return iou_sum / whole, iou_sum / hits, hits / whole
