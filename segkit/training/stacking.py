"""Stacking: a logistic model that joins the class probabilities of several networks."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from segkit.layers.mean_probabilities import FLOOR

VOXELS = 1000  # sampled per class and case
RIDGE = 1e-4


class Samples(NamedTuple):
    """Voxels to fit on.

    Attributes:
        features: float32, shape `(voxels, bases, classes)`: log probabilities.
        labels: int, shape `(voxels,)`: class indices.
        weights: float64, shape `(voxels,)`: how many voxels of its case each stands for.
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def choose_voxels(label, seed, count=VOXELS):
    """Draws voxels of a case, equally many of each class as far as there are.

    Each is weighted with the number of voxels of its class over the number drawn of it (Horvitz
    and Thompson 1952), so a weighted sum over the voxels estimates the sum over the whole case
    without bias, and probabilities fitted on them are those of all voxels.

    Args:
        label: Class indices of any shape.
        seed: Seed of the draw.
        count: Voxels to draw of each class.

    Returns:
        `(where, weights)`: indices into the flat label, and float64 weights.
    """
    rng, flat = np.random.default_rng(seed), label.reshape(-1)
    where, weights = [], []
    for index in np.unique(flat):
        voxels = np.flatnonzero(flat == index)
        drawn = rng.choice(voxels, min(count, len(voxels)), replace=False)
        where.append(drawn)
        weights.append(np.full(len(drawn), len(voxels) / len(drawn)))
    return np.concatenate(where), np.concatenate(weights)


def log_probabilities(logits):
    """Returns the log of the softmax over the last axis, at least log(1e-7), in float32."""
    return np.maximum(log_softmax(logits, axis=-1), np.log(FLOOR)).astype(np.float32)


def join(parts):
    """Returns the `Samples` of several cases as one."""
    return Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def fit_stacking(samples):
    """Fits a multinomial logistic model from log probabilities to classes.

    Minimises the weighted mean cross-entropy of `features * kernel + bias` plus `1e-4` times the
    squared distance from the plain mean of the log probabilities, where the fit starts. This
    makes the minimum unique and keeps the plain mean where the data say nothing.

    Args:
        samples: `Samples`.

    Returns:
        `(kernel, bias)`: float32, shapes `(bases * classes, classes)` and `(classes,)`.

    Reference:
        Wolpert, "Stacked Generalization", Neural Networks 5, 1992: the features must be
        predictions of models that were not trained on the case.
    """
    count, bases, classes = samples.features.shape
    features = samples.features.reshape(count, -1).astype(float)
    features = np.column_stack([features, np.ones(count)])
    weights = samples.weights / samples.weights.sum()
    start = _mean_of_bases(bases, classes)
    truth = np.eye(classes)[samples.labels]

    def objective(flat):
        matrix = flat.reshape(start.shape)
        log_p = log_softmax(features @ matrix, axis=-1)
        loss = -weights @ (log_p * truth).sum(axis=-1) + RIDGE * ((matrix - start) ** 2).sum()
        slope = features.T @ (weights[:, None] * (np.exp(log_p) - truth))
        return loss, (slope + 2 * RIDGE * (matrix - start)).reshape(-1)

    found = minimize(
        objective, start.reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    )
    matrix = found.x.reshape(start.shape).astype(np.float32)
    return matrix[:-1], matrix[-1]


def cross_entropy(samples, kernel, bias):
    """Returns the weighted mean cross-entropy of a logistic model, in nats."""
    logits = samples.features.reshape(len(samples.labels), -1) @ kernel + bias
    log_p = log_softmax(logits.astype(float), axis=-1)
    picked = np.take_along_axis(log_p, samples.labels[:, None], axis=-1)[:, 0]
    return float(-np.average(picked, weights=samples.weights))


def _mean_of_bases(bases, classes):
    """The kernel of the mean of log probabilities over a row of zeros, the bias."""
    return np.concatenate([np.tile(np.eye(classes) / bases, (bases, 1)), np.zeros((1, classes))])
