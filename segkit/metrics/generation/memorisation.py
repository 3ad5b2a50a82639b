"""Whether a generator gives back its training images: distances to the nearest of them."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from segkit.metrics.generation.features import checked
from segkit.metrics.generation.features import distance_blocks

LOWEST = 0.05  # share of all examples, those with the smallest distances, that are looked at
ALARM = 0.01  # p-value below which images count as memorised


class Memorisation(NamedTuple):
    """How near made examples come to the training set, against held-out ones.

    Attributes:
        made: Distance of each made example to its nearest training example, float64 `(made,)`.
        held_out: The same of held-out examples, `(held_out,)`.
        nearest: Number of that training example for each made one, int64 `(made,)`.
        relative: `made` over the distance within which the nearest twentieth of the training
            examples lie: near 0 for a copy, whatever the scale of the surroundings.
        ratio: Median of `made` over that of `held_out`; far below 1 where training examples are
            given back.
        nearer: Number of made examples whose relative distance is below that of every held-out
            one; copies are among them.
        p_value: How likely made examples would come so near if they were drawn as the held-out
            ones are, see `memorisation`.
    """

    made: np.ndarray
    held_out: np.ndarray
    nearest: np.ndarray
    relative: np.ndarray
    ratio: float
    nearer: int
    p_value: float

    @property
    def alarm(self):
        """Whether the p-value says that training examples are given back."""
        return self.p_value < ALARM


def memorisation(training, held_out, made):
    """Compares distances to the training set of made examples and of held-out ones.

    What is tested is the *relative* distance of `Memorisation`. A smooth image is near to all
    others, training examples or not, so plain distances would call a blurred generator one that
    memorises; and a rank test on all would still be moved by a slight blur. Two one-sided tests of
    the smallest relative distances, and the smaller p-value doubled:

    - how many made examples are nearer than every held-out one (precedence test);
    - how many are among the smallest twentieth (hypergeometric): the same where held-out ones are
      copies, too, such as empty slices.

    They take examples as independent. Slices of one case are not, so a p-value not far below 0.01
    says little; look at the nearest pairs.

    Args:
        training: Features of the training examples, shape `(examples, features)`; all of them, or
            what is not among them is not found.
        held_out: Features of real examples not trained on, drawn as the made ones should look.
        made: Features of made examples.

    Returns:
        `Memorisation`.

    Raises:
        DataError: If there are fewer than 20 examples of a kind, shapes do not fit or a value is
            not finite.

    Reference:
        The question, with a rank test on plain distances: Meehan et al., "A Non-Parametric Test to
        Detect Data-Copying in Generative Models", AISTATS 2020, arXiv:2004.05675, section 3.
    """
    training, held_out, made = checked(
        "the memorisation check", needed=20, training=training, held_out=held_out, made=made
    )
    made_distances, nearest, relative = _nearest(made, training)
    real_distances, _, expected = _nearest(held_out, training)
    median = np.median(real_distances)
    ratio = float(np.median(made_distances) / median) if median else np.nan
    nearer = int((relative < expected.min()).sum())
    tests = _first_p(nearer, relative, expected), _lowest_p(relative, expected)
    p_value = min(1.0, len(tests) * float(min(tests)))
    return Memorisation(made_distances, real_distances, nearest, relative, ratio, nearer, p_value)


def _nearest(examples, training):
    """Distance to the nearest training example, its number, and the relative distance."""
    last = max(1, round(LOWEST * len(training)) - 1)
    parts = []
    for _, distances in distance_blocks(examples, training):
        nearest = distances.argmin(axis=1)
        parts.append((distances.min(axis=1), nearest, np.partition(distances, last)[:, last]))
    distance, nearest, around = map(np.concatenate, zip(*parts, strict=True))
    # Of training examples that are all the same nothing is known: not near, not far.
    relative = np.divide(distance, around, out=np.ones_like(distance), where=around > 0)
    return distance, nearest, relative


def _first_p(nearer, made, held_out):
    """Probability that chance puts as many made examples below the lowest held-out one."""
    left = np.arange(nearer)
    return np.prod((len(made) - left) / (len(made) + len(held_out) - left))


def _lowest_p(made, held_out):
    """Probability that chance puts as many made examples among the lowest; ties count against."""
    values = np.concatenate([made, held_out])
    number = int(np.ceil(LOWEST * len(values)))
    threshold = np.partition(values, number - 1)[number - 1]
    drawn, found = int((values <= threshold).sum()), int((made <= threshold).sum())
    return stats.hypergeom.sf(found - 1, len(values), len(made), drawn)
