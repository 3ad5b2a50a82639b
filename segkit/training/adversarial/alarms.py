"""Alarms: what goes wrong in most games that go wrong, seen in the history of the run.

Each alarm is raised once, after the epoch in which it becomes true. Nothing stops: the lines say
what to look at.
"""

import math
from statistics import median

PATIENCE = 3  # epochs in a row
COLLAPSED = 0.1  # spread of made images over that of real ones
SURE, UNSURE = 0.98, 0.02  # accuracy of a critic that wins; distance from 1/2 of one that guesses
FLAT = 0.01  # change of the critic's loss over these epochs, relative
DIVERGED = 20.0  # times the median of the epochs before, or times 1 where that is below


def alarms(rows):
    """Returns the lines to warn of after the last epoch.

    Args:
        rows: Rows of `history.csv`, dicts column -> number or text, one per epoch.
    """
    now, before = _raised(rows), _raised(rows[:-1])
    return [line for name, line in now.items() if name not in before]


def _raised(rows):
    """Dict name -> line of the alarms that are true after the last of these epochs."""
    lines = {"diverged": _diverged(rows)}
    last = rows[-PATIENCE:]
    if len(last) == PATIENCE:
        lines["collapsed"] = _collapsed(last)
        lines["sure"] = _sure(last)
        lines["unsure"] = _unsure(last)
    return {name: line for name, line in lines.items() if line}


def _collapsed(rows):
    spreads = _column(rows, "validation_realism/spread")
    if spreads and max(spreads) < COLLAPSED:
        return (
            f"mode collapse: the spread of the made images has been below {COLLAPSED:.0%} of that "
            f"of the real ones for {PATIENCE} epochs. Look at the pictures; try loss.r1, "
            "loss.critic_augment or a lower train.learning_rate."
        )
    return ""


def _sure(rows):
    accuracy = _column(rows, "train_critic_accuracy")
    if accuracy and min(accuracy) > SURE:
        return (
            f"the critic wins: it has been right about more than {SURE:.0%} of the images for "
            f"{PATIENCE} epochs, so the generator learns little. Try loss.critic_augment, loss.r1 "
            "or a lower loss.critic_rate."
        )
    return ""


def _unsure(rows):
    accuracy, losses = _column(rows, "train_critic_accuracy"), _column(rows, "train_loss/critic")
    if not accuracy or not losses:
        return ""
    guesses = max(abs(x - 0.5) for x in accuracy) < UNSURE
    flat = max(losses) - min(losses) <= FLAT * max(map(abs, losses))
    if guesses and flat:
        return (
            f"the critic guesses: it has been right about half of the images for {PATIENCE} "
            "epochs, and its loss does not move. The images are as good as real to it, or it does "
            "not learn. Look at the pictures; try a larger critic, loss.critic_rate or "
            "loss.critic_steps."
        )
    return ""


def _diverged(rows):
    for name in ("train_loss", "train_loss/critic", "gradient_norm", "train_critic_gradient_norm"):
        # In float16 a step whose gradient overflows is skipped, and its norm says nothing.
        values = [abs(x) for x in _column(rows, name) if math.isfinite(x)]
        if len(values) <= PATIENCE:
            continue
        usual = median(values[:-1])
        if values[-1] > DIVERGED * max(usual, 1.0):
            return (
                f"divergence: {name} is {values[-1]:.3g}, and its median was {usual:.3g} so far. "
                "Lower train.learning_rate, or add loss.r1."
            )
    return ""


def _column(rows, name):
    """The numbers of a column, empty if a row lacks it."""
    values = [row.get(name) for row in rows]
    return [] if None in values or "" in values else [float(x) for x in values]
