"""The class of a case from its covariates alone: what a network with images has to beat. NumPy."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.special import softmax

RIDGE = 1e-2


def fit_classifier(vectors, targets, classes, *, ridge=RIDGE):
    """Fits a multinomial logistic model.

    Minimises the mean cross-entropy of `vectors * kernel + bias` plus `ridge` times the sum of the
    squared kernel. The bias is free, so the mean probability of each class is its share.

    Args:
        vectors: Encoded covariates, shape `(cases, width)`.
        targets: Class indices, int, shape `(cases,)`.
        classes: Number of classes.
        ridge: Weight of the penalty, above 0 for a solution that is unique.

    Returns:
        `(kernel, bias)`: float64, shapes `(width, classes)` and `(classes,)`.
    """
    features = np.column_stack([np.asarray(vectors, float), np.ones(len(vectors))])
    truth = np.eye(classes)[targets]
    shape = (features.shape[1], classes)
    penalised = np.arange(shape[0])[:, None] < shape[0] - 1  # all but the bias

    def objective(flat):
        matrix = flat.reshape(shape)
        log_p = log_softmax(features @ matrix, axis=-1)
        kernel = matrix * penalised
        loss = -(log_p * truth).sum() / len(features) + ridge * (kernel**2).sum()
        slope = features.T @ (np.exp(log_p) - truth) / len(features) + 2 * ridge * kernel
        return loss, slope.reshape(-1)

    options = {"maxiter": 1000, "gtol": 1e-8}
    found = minimize(objective, np.zeros(shape).reshape(-1), jac=True, options=options)
    matrix = found.x.reshape(shape)
    return matrix[:-1], matrix[-1]


def classify(vectors, kernel, bias):
    """Returns the probability of each class, float64 `(cases, classes)`."""
    return softmax(np.asarray(vectors, float) @ kernel + bias, axis=-1)


def out_of_fold(vectors, targets, folds, classes, *, ridge=RIDGE):
    """Returns the probabilities of each case by a model that was not fitted on its fold.

    Args:
        vectors: As for `fit_classifier`.
        targets: As for `fit_classifier`.
        folds: Fold of each case, any values, shape `(cases,)`; two different ones at least.
        classes: As for `fit_classifier`.
        ridge: As for `fit_classifier`.

    Returns:
        float64, shape `(cases, classes)`.
    """
    probabilities = np.zeros((len(targets), classes))
    for fold in np.unique(folds):
        held_out = np.asarray(folds) == fold
        model = fit_classifier(vectors[~held_out], targets[~held_out], classes, ridge=ridge)
        probabilities[held_out] = classify(vectors[held_out], *model)
    return probabilities


def scores(probabilities, targets):
    """Returns the scores of predicted classes.

    Args:
        probabilities: Shape `(cases, classes)`.
        targets: Class indices, shape `(cases,)`.

    Returns:
        Dict with `accuracy`; `balanced_accuracy`, the mean over the classes that occur of the
        share of each that was found; and `cross_entropy` in nats.
    """
    guesses, targets = probabilities.argmax(axis=1), np.asarray(targets)
    found = [np.mean(guesses[targets == index] == index) for index in np.unique(targets)]
    picked = np.take_along_axis(probabilities, targets[:, None], axis=1)
    return {
        "accuracy": float(np.mean(guesses == targets)),
        "balanced_accuracy": float(np.mean(found)),
        "cross_entropy": float(-np.log(np.maximum(picked, 1e-12)).mean()),
    }
