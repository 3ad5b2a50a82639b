"""Scores of whole cases: per class and case, with their mean and its uncertainty.

A class absent from both truth and prediction has no Dice: it is NaN, left out of means and
counted. A class absent from the truth alone scores 0.
"""

import numpy as np

from segkit.metrics.ratios import accuracy_from_counts
from segkit.metrics.ratios import dice_from_counts
from segkit.metrics.ratios import iou_from_counts
from segkit.volume import Volume

SCORES = {"dice": dice_from_counts, "iou": iou_from_counts, "accuracy": accuracy_from_counts}


def count_voxels(truth, prediction, num_classes, *, regions=None, ignore_label=None):
    """Counts true positives, false positives and false negatives of each class or region.

    Args:
        truth: Class indices of any shape, each below `num_classes` or the one to ignore.
        prediction: Class indices, same shape, each below `num_classes`.
        num_classes: Number of classes, background included.
        regions: List of the class indices of each region, to count those in place of classes: a
            voxel is in every region that lists its class.
        ignore_label: Voxels of this class index in the truth are not counted.

    Returns:
        float64, shape `(num_classes, 3)`, as the functions of `SCORES` take it; of regions
        `(1 + regions, 3)`, the first row the background, what is in no region.
    """
    if ignore_label is not None:
        valid = truth != ignore_label
        truth, prediction = truth[valid], prediction[valid]
    pairs = truth.reshape(-1).astype(np.int64) * num_classes + prediction.reshape(-1)
    table = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    members = np.eye(num_classes) if regions is None else _members(regions, num_classes)
    hits = ((members @ table) * members).sum(axis=1)
    found, true = members @ table.sum(axis=0), members @ table.sum(axis=1)
    return np.stack([hits, found - hits, true - hits], axis=-1)


def mean_scores(scores, *, resamples=2000, seed=0):
    """Returns means over cases with 95 % intervals of a percentile bootstrap over cases.

    Args:
        scores: Shape `(cases, classes)`, NaN where undefined; background first.
        resamples: Number of times that the cases are drawn anew, with replacement.
        seed: Seed of the draws.

    Returns:
        `(means, intervals)`, shapes `(classes + 1,)` and `(classes + 1, 2)`: one per class, last
        the mean over the foreground classes. NaN for a class that no case defines; the interval
        is NaN for a single case.
    """
    draws = bootstrap_means(scores, resamples=resamples, seed=seed)
    intervals = [percentile_interval(column) for column in draws.T]
    if len(scores) < 2:
        intervals = np.full((scores.shape[1] + 1, 2), np.nan)
    return _means(scores), np.array(intervals)


def bootstrap_means(scores, *, resamples=2000, seed=0):
    """Returns the means as in `mean_scores` of cases drawn anew, `(resamples, classes + 1)`.

    The draws depend on the number of cases and the seed only: two arrays over the same cases are
    resampled alike, in pairs.
    """
    rng, number = np.random.default_rng(seed), len(scores)
    return np.array([_means(scores[rng.integers(number, size=number)]) for _ in range(resamples)])


def percentile_interval(values):
    """Returns the 2.5th and the 97.5th percentile of what is not NaN; NaN where nothing is."""
    values = values[~np.isnan(values)]
    return np.percentile(values, (2.5, 97.5)) if values.size else (np.nan, np.nan)


def voxel_ml(affine, shape):
    """Returns the volume of a voxel in ml, or `None` for a 2-D image of unknown pixel size."""
    if shape[0] == 1 and np.array_equal(affine, Volume(np.zeros((1, 1, 1))).affine):
        return None
    return float(abs(np.linalg.det(np.asarray(affine)[:3, :3]))) / 1000


def _members(regions, num_classes):
    """Zeros and ones `(1 + regions, num_classes)`: which classes make up each row."""
    members = np.zeros((1 + len(regions), num_classes))
    for row, region in enumerate(regions, start=1):
        members[row, list(region)] = 1
    members[0] = ~members.any(axis=0)
    return members


def _means(scores):
    means = _mean(scores, axis=0)
    return np.append(means, _mean(means[1:], axis=0))


def _mean(values, axis):
    """Mean of what is not NaN, silently NaN where there is nothing."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)
