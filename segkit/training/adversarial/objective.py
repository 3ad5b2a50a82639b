"""What a generator is judged by while it trains: how real its images are, or how right."""

import math

import numpy as np
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.metrics.generation.frechet_distance import frechet_of_moments
from segkit.metrics.random_features import random_features
from segkit.training.overlay import strip

PERFECT_DB = 100.0  # PSNR of an image without any error


class _Samples:
    """What objectives of generators have in common."""

    pictures = "condition_real_made"

    def __init__(self, upright):
        """Takes whether pictures keep the first row on top, see `segkit.training.overlay.panel`."""
        self._upright = upright

    def panels(self, inputs, labels, sample):
        """Returns pictures of condition, if there is one, real and made image; the last two alike.

        Args:
            inputs: Not used.
            labels: Not used.
            sample: From `Game.sample`.
        """
        names = [name for name in ("condition", "real", "fake") if name in sample]
        columns = [sample[name].numpy() for name in names]
        rows = zip(*columns, strict=True)
        return [self._picture(dict(zip(names, row, strict=True))) for row in rows]

    def _picture(self, images):
        upright = self._upright
        pair = strip([images["real"], images["fake"]], scale=images["real"], upright=upright)
        if "condition" not in images:
            return pair
        given = images["condition"]
        return np.concatenate([strip([given], scale=given, upright=upright), pair], axis=1)


class Realism(_Samples):
    """Objective: minus the Fréchet distance of real and made images; the higher the better.

        d = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    with means and covariances of `random_features` over all validation patches, from sums, so that
    it is the same for any number of batches and replicas. It depends on the number of patches:
    compare runs with the same `train.validation_batches` and `train.batch_size` only.

    Attributes: as in `segkit.training.segmentation.Segmentation`.

    Reference: Fréchet distance of Gaussians, Dowson and Landau, 1982,
    doi:10.1016/0047-259X(82)90077-X; for images: Heusel et al., arXiv:1706.08500, there with the
    features of another network.
    """

    metric, label = "realism", "realism"

    def count(self, labels, sample):
        """Returns moments, float32 `(2, features + 1, features + 1)`, of real and of made images.

        Each is the sum over examples of the outer product of their features, with a 1 in front.
        """
        return tf.stack([_moments(sample[name]) for name in ("real", "fake")])

    def score(self, counts):
        """Returns minus the distance; NaN of nothing, minus infinity if it is not finite."""
        counts = np.asarray(counts, np.float64)
        if counts.ndim == 0:
            return math.nan
        if not np.isfinite(counts).all():
            return -math.inf
        real, made = map(_gaussian, counts)
        return -frechet_of_moments(*real, *made)

    def by_name(self, counts):
        """Returns the spread: the total variance of the features of made images over the real."""
        counts = np.asarray(counts, np.float64)
        if counts.ndim == 0 or not np.isfinite(counts).all():
            return {}
        real, made = (np.trace(_gaussian(x)[1]) for x in counts)
        return {"spread": float(made / real) if real > 0 else math.nan}


class Fidelity(_Samples):
    """Objective: PSNR in dB, the mean over examples; where there is one right answer.

        psnr = 10 log10((max - min)^2 / mean squared error)

    with the range of the real patch; a patch that is constant has none, and does not count. An
    image without any error has 100 dB.

    Attributes: as in `segkit.training.segmentation.Segmentation`.
    """

    metric, label = "psnr", "PSNR"

    def count(self, labels, sample):
        """Returns the sum of PSNR and the number of examples that count, float32 `(2,)`."""
        real, made = sample["real"], sample["fake"]
        axes = list(range(1, len(real.shape)))
        span = tf.reduce_max(real, axes) - tf.reduce_min(real, axes)
        error = tf.reduce_mean(tf.square(made - real), axes)
        counted = span > 0
        least = tf.square(span) * 10 ** (-PERFECT_DB / 10)
        ratio = tf.where(counted, tf.square(span) / tf.maximum(error, least), 1.0)
        psnr = 10.0 * tf.math.log(ratio) / math.log(10.0)
        return tf.stack([tf.reduce_sum(psnr), tf.reduce_sum(tf.cast(counted, tf.float32))])

    def score(self, counts):
        """Returns the mean; NaN of nothing, 0 if no example counted."""
        counts = np.asarray(counts, np.float64)
        if counts.ndim == 0:
            return math.nan
        total, number = counts
        return float(total / number) if number else 0.0

    def by_name(self, counts):
        """Returns nothing: all examples are scored as one."""
        return {}


OBJECTIVES = {"realism": Realism, "psnr": Fidelity}


def build_objective(task):
    """Returns the objective of a task, by its `metric`.

    Raises:
        ConfigError: If there is none of that name.
    """
    if task.metric not in OBJECTIVES:
        raise ConfigError(f"no metric {task.metric!r} of tasks. {nearest(task.metric, OBJECTIVES)}")
    return OBJECTIVES[task.metric](task.patches.upright)


def _moments(images):
    features = random_features(images)
    extended = tf.concat([tf.ones_like(features[:, :1]), features], axis=-1)
    return tf.matmul(extended, extended, transpose_a=True)


def _gaussian(moments):
    """Mean and unbiased covariance of moments; of less than two examples the covariance is 0."""
    number, mean = moments[0, 0], moments[0, 1:] / moments[0, 0]
    covariance = moments[1:, 1:] - number * np.outer(mean, mean)
    # Of images that are all alike the rounding of sums is left, with eigenvalues below 0.
    values, vectors = np.linalg.eigh(covariance / max(number - 1, 1))
    values = np.maximum(values, 0) if number > 1 else 0.0 * values
    return mean, (vectors * values) @ vectors.T
