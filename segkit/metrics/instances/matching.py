"""Objects found, invented and missed at thresholds on IoU, and the score of the DSB 2018."""

import numpy as np

from segkit.errors import ConfigError

THRESHOLDS = tuple(n / 20 for n in range(10, 20))  # 0.50, 0.55, ... 0.95


def matches(overlaps, threshold=0.5):
    """Returns which pairs of `Overlaps.pairs` are one object: those with an IoU above a threshold.

    From 0.5 on an object has one partner at most, as long as no two objects of one side overlap:
    its partner covers more than half of it.

    Args:
        overlaps: `Overlaps` of two maps.
        threshold: In [0.5, 1).

    Returns:
        bool, shape `(pairs,)`.

    Raises:
        ConfigError: If the threshold is out of range.
    """
    if not 0.5 <= threshold < 1:
        raise ConfigError(
            f"a threshold on IoU must be at least 0.5 and below 1, got {threshold}: below, an "
            "object would have several partners."
        )
    return overlaps.iou > threshold


def count_matches(overlaps, thresholds=THRESHOLDS):
    """Counts true positives, false positives and false negatives at each threshold on IoU.

    A predicted object without a partner that lies on ignored objects with more than half of its
    pixels is not counted.

    Args:
        overlaps: `Overlaps` of two maps.
        thresholds: Each in [0.5, 1).

    Returns:
        int64, shape `(thresholds, 3)`.
    """
    rows = []
    for threshold in thresholds:
        matched = matches(overlaps, threshold)
        hits = int(matched.sum())
        extra = ~overlaps.on_void
        extra[overlaps.pairs[matched, 1]] = False
        rows.append((hits, int(extra.sum()), overlaps.truths - hits))
    return np.array(rows)


def hit_shares(counts):
    """Returns `TP / (TP + FP + FN)` at each threshold, the "average precision" of StarDist's paper.

    Args:
        counts: From `count_matches`, shape `(..., thresholds, 3)`.

    Returns:
        float64, shape `(..., thresholds)`, in [0, 1]; NaN for an image without objects in truth
        and prediction.

    Reference:
        Schmidt et al., "Cell detection with star-convex polygons", MICCAI 2018, arXiv:1806.03535.
    """
    with np.errstate(invalid="ignore"):
        return counts[..., 0] / counts.sum(axis=-1)


def dsb_score(counts):
    """Score of one image in the Data Science Bowl 2018: mean of `TP / (TP + FP + FN)`.

    A match has an IoU *above* the threshold, as in the rules of the challenge. The score of a data
    set is the mean over its images.

    Args:
        counts: From `count_matches` at `THRESHOLDS`, shape `(..., thresholds, 3)`.

    Returns:
        float64, shape `(...)`, in [0, 1]; NaN for an image without objects in truth and
        prediction.

    Reference:
        Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science
        Bowl", Nature Methods 16, 2019, doi:10.1038/s41592-019-0612-7.
    """
    return hit_shares(counts).mean(axis=-1)
