"""Stacking: a logistic model that joins the class probabilities of several networks."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from segkit.errors import DataError
from segkit.layers.mean_probabilities import FLOOR

VOXELS = 1000  # sampled per class and case
RIDGE = 1e-3


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


def choose_voxels(label, seed, classes, count=VOXELS):
    """Draws voxels of a case, equally many of each class as far as there are.

    Each is weighted with the number of voxels of its class over the number drawn of it (Horvitz
    and Thompson 1952), so a weighted sum over the voxels estimates the sum over the whole case
    without bias, and probabilities fitted on them are those of all voxels.

    Args:
        label: Class indices of any shape.
        seed: Seed of the draw.
        classes: Number of classes; voxels of higher indices, to be ignored, are not drawn.
        count: Voxels to draw of each class.

    Returns:
        `(where, weights)`: indices into the flat label, and float64 weights.
    """
    rng, flat = np.random.default_rng(seed), label.reshape(-1)
    where, weights = [], []
    for index in np.unique(flat[flat < classes]):
        voxels = np.flatnonzero(flat == index)
        drawn = rng.choice(voxels, min(count, len(voxels)), replace=False)
        where.append(drawn)
        weights.append(np.full(len(drawn), len(voxels) / len(drawn)))
    return np.concatenate(where), np.concatenate(weights)


def log_probabilities(logits):
    """Returns the log of the softmax over the last axis, at least log(1e-7), in float32."""
    return np.maximum(log_softmax(logits, axis=-1), np.log(FLOOR)).astype(np.float32)


def sample(predictors, image, label, seed, covariates=None):
    """Returns the `Samples` of one case.

    Args:
        predictors: `Predictor` of each base model, none of which has trained on the case.
        image: float32, shape `(d, h, w, channels)`, prepared.
        label: Class indices, shape `(d, h, w)`.
        seed: As for `choose_voxels`.
        covariates: Encoded covariates of the case, for those predictors that take some.
    """
    where, weights = choose_voxels(label, seed, predictors[0].num_classes)
    features = []
    for predictor in predictors:
        known = covariates if predictor.num_covariates else None
        logits = (
            predictor.logits(image, covariates=known).numpy().reshape(-1, predictor.num_classes)
        )
        features.append(log_probabilities(logits[where]))
    labels = label.reshape(-1)[where].astype(int)
    return Samples(np.stack(features, axis=1), labels, weights)


def join(parts):
    """Returns the `Samples` of several cases as one.

    Raises:
        DataError: If there is none.
    """
    parts = list(parts)
    if not parts:
        raise DataError("no case of a fold has a label to fit the stacking on.")
    return Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def fit_stacking(samples):
    """Fits a multinomial logistic model from log probabilities to classes.

    Minimises the weighted mean cross-entropy of `features * kernel + bias` plus `1e-3` times the
    squared distance of the kernel from that of the plain mean of the log probabilities, where
    the fit starts: it stays there where the data say nothing. The bias is free, so the mean
    probability of each class is its share of the voxels.

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
    penalised = np.arange(len(start))[:, None] < len(start) - 1  # all but the bias
    truth = np.eye(classes)[samples.labels]

    def objective(flat):
        matrix = flat.reshape(start.shape)
        log_p = log_softmax(features @ matrix, axis=-1)
        moved = (matrix - start) * penalised
        loss = -weights @ (log_p * truth).sum(axis=-1) + RIDGE * (moved**2).sum()
        slope = features.T @ (weights[:, None] * (np.exp(log_p) - truth)) + 2 * RIDGE * moved
        return loss, slope.reshape(-1)

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


def cross_fitted(folds, names):
    """Scores base models, their plain mean and the stack on folds, by voxel.

    The stack of a fold is fitted on the other folds.

    Args:
        folds: List of `Samples`, at least two.
        names: Names of the base models.

    Returns:
        Dict name -> mean cross-entropy in nats over all voxels; `"mean"` is the mean of the log
        probabilities, `"stack"` the logistic model.
    """
    samples, count = join(folds), len(names)
    classes = samples.features.shape[-1]
    ways = {f"base{n} {name}": np.eye(count)[n] for n, name in enumerate(names)}
    ways["mean"] = np.full(count, 1 / count)
    scores = {
        name: cross_entropy(samples, np.kron(shares[:, None], np.eye(classes)), np.zeros(classes))
        for name, shares in ways.items()
    }
    held_out = []
    for number, fold in enumerate(folds):
        others = join([*folds[:number], *folds[number + 1 :]])
        held_out.append(cross_entropy(fold, *fit_stacking(others)))
    shares = [fold.weights.sum() for fold in folds]
    return scores | {"stack": float(np.average(held_out, weights=shares))}


def cross_entropy_table(scores):
    """Returns the result of `cross_fitted` as text."""
    width = max(map(len, scores))
    lines = ["Cross-entropy of out-of-fold voxels (lower is better):", ""]
    return "\n".join([*lines, *(f"{name:{width}}  {value:.4f}" for name, value in scores.items())])


def _mean_of_bases(bases, classes):
    """The kernel of the mean of log probabilities over a row of zeros, the bias."""
    return np.concatenate([np.tile(np.eye(classes) / bases, (bases, 1)), np.zeros((1, classes))])
