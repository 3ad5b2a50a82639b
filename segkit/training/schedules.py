"""Learning-rate schedules: plain functions that say what share of `train.learning_rate` to take.

All take the same four arguments, and are pure functions of them:

    step             number of optimizer steps done, from 0
    total_steps      number of steps of the whole run
    steps_per_epoch  number of steps of an epoch
    scores           validation Dice after each finished epoch, a list of floats

So a run that resumes with its step and its scores goes on exactly where it was.
"""

import math
from functools import partial

from segkit.tables import load
from segkit.tables import named_options
from segkit.training import SCHEDULES
from segkit.training.checks import check_positive
from segkit.training.checks import check_share

WHAT = "train.schedule"


def build_schedule(train):
    """Returns the learning rate of each step that a `TrainConfig` describes.

    It is `learning_rate * schedule * min((step + 1) / warmup_steps, 1)`: the linear warm-up goes
    from `1 / warmup_steps` at step 0 to 1 at step `warmup_steps - 1` (as in Goyal et al., 2017,
    arXiv:1706.02677, section 2.2) and multiplies the schedule, which runs from step 0.

    Args:
        train: A `segkit.config.TrainConfig`.

    Returns:
        Function `(step, scores) -> float`; see the top of this module.

    Raises:
        ConfigError: Unknown schedule or option, wrong type or value out of range.
    """
    name, options = named_options(train.schedule, WHAT, SCHEDULES)
    share = partial(load(SCHEDULES, name, WHAT), **options)
    total_steps = train.epochs * train.steps_per_epoch

    def learning_rate(step, scores):
        warmup = min((step + 1) / train.warmup_steps, 1.0) if train.warmup_steps else 1.0
        scheduled = share(step, total_steps, train.steps_per_epoch, scores)
        return train.learning_rate * scheduled * warmup

    learning_rate(0, [])  # refuses values out of range before anything is built
    return learning_rate


def constant(step, total_steps, steps_per_epoch, scores):
    """Returns 1."""
    return 1.0


def poly(step, total_steps, steps_per_epoch, scores, *, power: float = 0.9):
    """Returns `(1 - step / total_steps) ** power`.

    Reference: Chen et al., "DeepLab", TPAMI 2018, arXiv:1606.00915, section 4.1; the power is
    nnU-Net's. Departure from nnU-Net: decays every step, not every epoch.
    """
    check_positive(WHAT, power=power)
    return (1 - _done(step, total_steps)) ** power


def cosine(step, total_steps, steps_per_epoch, scores, *, floor: float = 0.0):
    """Returns half a cosine from 1 to `floor`.

        floor + (1 - floor) * (1 + cos(pi * step / total_steps)) / 2

    Reference: Loshchilov and Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, equation 5, without
    restarts.
    """
    check_share(WHAT, floor=floor)
    return _above(floor, (1 + math.cos(math.pi * _done(step, total_steps))) / 2)


def step_decay(step, total_steps, steps_per_epoch, scores, *, every: int = 30, factor: float = 0.1):
    """Returns `factor ** floor(epoch / every)`: a drop every so many epochs.

    The defaults are close to Goyal et al., 2017, arXiv:1706.02677, section 5.1: a tenth at the
    epochs 30, 60 and 80 of 90.
    """
    check_positive(WHAT, every=every)
    check_share(WHAT, factor=factor)
    return factor ** (step // (every * steps_per_epoch))


def exponential(step, total_steps, steps_per_epoch, scores, *, decay: float = 0.95):
    """Returns `decay ** (step / steps_per_epoch)`: times `decay` per epoch, a little each step."""
    check_share(WHAT, decay=decay)
    return decay ** (step / steps_per_epoch)


def triangular(
    step, total_steps, steps_per_epoch, scores, *, half_cycle: float = 4.0, floor: float = 0.25
):
    """Returns a triangle wave: up from `floor` to 1 in `half_cycle` epochs, down in as many.

    Reference: Smith, "Cyclical learning rates", WACV 2017, arXiv:1506.01186, section 3.1, policy
    `triangular`; its stepsize is `half_cycle * steps_per_epoch`. The defaults lie in the ranges
    of sections 3.2 and 3.3: 2 to 10 epochs, and a floor of 1/3 or 1/4.
    """
    check_positive(WHAT, half_cycle=half_cycle)
    check_share(WHAT, floor=floor)
    position = step / (half_cycle * steps_per_epoch)
    return _above(floor, 1 - abs(position % 2 - 1))


def plateau(
    step,
    total_steps,
    steps_per_epoch,
    scores,
    *,
    factor: float = 0.1,
    patience: int = 10,
    min_delta: float = 1e-4,
    floor: float = 0.0,
):
    """Returns 1, times `factor` whenever the validation Dice stalled, but at least `floor`.

    Stalled means that `patience` epochs in a row did not exceed the best Dice before them by more
    than `min_delta`; the count then starts again. These are the rules of Keras'
    `ReduceLROnPlateau`. Warm-up epochs count.
    """
    check_share(WHAT, factor=factor, min_delta=min_delta, floor=floor)
    check_positive(WHAT, patience=patience)
    share, best, waited = 1.0, -math.inf, 0
    for score in scores:
        waited += 1
        if score - min_delta > best:
            best, waited = score, 0
        elif waited == patience:
            share, waited = share * factor, 0
    return max(share, floor)


def _done(step, total_steps):
    """Share of the run that is done; 1 after its end."""
    return min(step / total_steps, 1.0)


def _above(floor, share):
    return floor + (1 - floor) * share
