"""Scores of whole cases: per class and case, with their mean and its uncertainty.

A class absent from both truth and prediction has no Dice: it is NaN, left out of means and
counted. A class absent from the truth alone scores 0.
"""

import numpy as np

from segkit.metrics.counts import accuracy_from_counts
from segkit.metrics.counts import dice_from_counts
from segkit.metrics.counts import iou_from_counts
from segkit.volume import Volume

SCORES = {"dice": dice_from_counts, "iou": iou_from_counts, "accuracy": accuracy_from_counts}


def count_voxels(truth, prediction, num_classes):
    """Counts true positives, false positives and false negatives of each class.

    Args:
        truth: Class indices of any shape, each below `num_classes`.
        prediction: Class indices, same shape.
        num_classes: Number of classes, background included.

    Returns:
        float64, shape `(num_classes, 3)`, as the functions of `SCORES` take it.
    """
    pairs = truth.reshape(-1).astype(np.int64) * num_classes + prediction.reshape(-1)
    table = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    hits = np.diag(table)
    counts = np.stack([hits, table.sum(axis=0) - hits, table.sum(axis=1) - hits], axis=-1)
    return counts.astype(np.float64)


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


def _means(scores):
    means = _mean(scores, axis=0)
    return np.append(means, _mean(means[1:], axis=0))


def _mean(values, axis):
    """Mean of what is not NaN, silently NaN where there is nothing."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)
