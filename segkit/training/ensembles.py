"""What the members of an ensemble are trained on: bootstrap samples, or boosted cases. NumPy."""

from typing import NamedTuple

import numpy as np

SHARES = 4  # repeats of a case of mean weight


class Boosted(NamedTuple):
    """What AdaBoost.RT makes of a member.

    Attributes:
        error_rate: Share of the weight that lies on wrong cases, in [0, 1].
        member_weight: Weight of the member, `log(1 / beta)`; 0 if it is to be left out.
        weights: Case weights for the next member, or `None` if there is to be none.
    """

    error_rate: float
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


def boost(weights, errors, threshold):
    """Does one round of AdaBoost.RT, over cases.

        wrong_c = e_c > threshold        beta = sum_c w_c wrong_c / sum_c w_c
        w_c <- w_c beta where a case is not wrong        member_weight = log(1 / beta)

    A member without a wrong case ends the algorithm; it counts as if half a case were wrong,
    because `log(1 / 0)` is no number.

    Args:
        weights: Case id -> weight that the member was trained with, above 0 in all.
        errors: Case id -> error of the member in [0, 1]; a case that is missing has none.
        threshold: Largest error that is still right.

    Returns:
        `Boosted`, with weights of mean 1.

    Reference:
        Solomatine and Shrestha, "AdaBoost.RT: a boosting algorithm for regression problems", IJCNN
        2004, doi:10.1109/IJCNN.2004.1380102, with `n = 1`. There the error is that of a number,
        relative to it, here 1 - mean foreground Dice; there cases are drawn by weight, here
        `as_repeats` rounds it. AdaBoost.R2 is no choice: it measures errors by the largest one
        and ends where the mean is half of that, which Dice reaches with the first member.
    """
    cases = list(weights)
    weight = np.array([weights[case] for case in cases], float)
    wrong = np.array([errors.get(case, 0.0) > threshold for case in cases])
    beta = float(weight @ wrong / weight.sum())
    if beta == 0:
        return Boosted(beta, float(np.log(2 * len(cases))), None)
    weight[~wrong] *= beta
    weight /= weight.mean()
    return Boosted(beta, float(np.log(1 / beta)), dict(zip(cases, weight.tolist(), strict=True)))


def as_repeats(weights):
    """Returns weights as `data.repeats`: multiples of a quarter of the mean, halves rounded up.

    A case of less than an eighth of the mean weight is left out.

    Args:
        weights: Case id -> weight.
    """
    mean = sum(weights.values()) / len(weights)
    return {case: int(SHARES * weight / mean + 0.5) for case, weight in weights.items()}
