"""What the members of an ensemble are trained on: bootstrap samples, or boosted cases. NumPy."""

from typing import NamedTuple

import numpy as np

SHARES = 4  # repeats of a case of mean weight


class Boosted(NamedTuple):
    """What AdaBoost.R2 makes of a member.

    Attributes:
        mean_loss: Weighted mean of the losses, in [0, 1].
        member_weight: Weight of the member, `log(1 / beta)`; 0 if it is to be left out.
        weights: Case weights for the next member, or `None` if there is to be none.
    """

    mean_loss: float
    member_weight: float
    weights: dict | None


def bootstrap_repeats(patients, seed, member):
    """Draws as many patients with replacement as there are, all cases of each together.

    Args:
        patients: List with a list of case ids per patient.
        seed: Seed of the ensemble.
        member: Number of the member; each has a draw of its own.

    Returns:
        Dict case id -> how often its patient was drawn, for `data.repeats`.

    Reference:
        Breiman, "Bagging Predictors", Machine Learning 24, 1996; there over cases.
    """
    drawn = np.random.default_rng([seed, member]).integers(len(patients), size=len(patients))
    counts = np.bincount(drawn, minlength=len(patients)).tolist()
    return {case: count for cases, count in zip(patients, counts, strict=True) for case in cases}


def boost(weights, errors):
    """Does one round of AdaBoost.R2 with the linear loss, over cases.

        L_c = e_c / max e        mean_loss = sum_c w_c L_c / sum_c w_c
        beta = mean_loss / (1 - mean_loss)        w_c <- w_c beta^(1 - L_c)

    The algorithm ends where `mean_loss` is 0.5 or more; a member without any error ends it too
    and has weight 1, because `log(1 / 0)` is no number.

    Args:
        weights: Case id -> weight that the member was trained with, above 0 in all.
        errors: Case id -> error of the member in [0, 1]; a case that is missing has none.

    Returns:
        `Boosted`, with weights of mean 1.

    Reference:
        Drucker, "Improving Regressors using Boosting Techniques", ICML 1997, section 3. There
        the error is an absolute residual, here 1 - mean foreground Dice; there cases are drawn
        by weight, here `as_repeats` rounds it; there the members' weighted median predicts, here
        the weighted mean of their probabilities.
    """
    cases = list(weights)
    weight = np.array([weights[case] for case in cases], float)
    error = np.array([errors.get(case, 0.0) for case in cases], float)
    if not error.any():
        return Boosted(0.0, 1.0, None)
    loss = error / error.max()
    mean = float(weight @ loss / weight.sum())
    if mean >= 0.5:
        return Boosted(mean, 0.0, None)
    beta = mean / (1 - mean)
    if beta == 0:  # all that is wrong has a weight of 0
        return Boosted(mean, 1.0, None)
    weight *= beta ** (1 - loss)
    weight /= weight.mean()
    return Boosted(mean, float(np.log(1 / beta)), dict(zip(cases, weight.tolist(), strict=True)))


def as_repeats(weights):
    """Returns weights as `data.repeats`: multiples of a quarter of the mean, halves rounded up.

    A case of less than an eighth of the mean weight is left out.

    Args:
        weights: Case id -> weight.
    """
    mean = sum(weights.values()) / len(weights)
    return {case: int(SHARES * weight / mean + 0.5) for case, weight in weights.items()}
