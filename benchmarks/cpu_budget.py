"""Trainings of a given CPU time, for the scripts that compare at equal budgets; measures nothing.

Two short trainings measure what a step costs, the second of them longer until its steps stand out
of the start-up; what fits in the budget is done in `EPOCHS` epochs. The budget is CPU time of all
cores, start-up and validation included, because the time on the clock depends on what else a
machine does.
"""

import shutil
from typing import NamedTuple

from benchmarks import runs
from benchmarks.runs import overrides

EPOCHS = 20
PILOTS = (5, 20)  # steps
VALIDATION_BATCHES = 16


class Spent(NamedTuple):
    """What a training took: its steps, CPU seconds of each by the pilots, CPU seconds in all."""

    steps: int
    step_seconds: float
    seconds: float


def train_for(minutes, folder, arguments, settings):
    """Trains within a budget and returns what was `Spent`; what is finished is not done again.

    Args:
        minutes: CPU minutes.
        folder: `pathlib.Path` of this training; its run is `folder / "run"`.
        arguments: Of tools/train.py: what is trained, on what.
        settings: `KEY=VALUE` of the config, but for those of the length.
    """
    step, rest = cost(folder, arguments, settings)
    per_epoch = max(1, round((60 * minutes - rest) / (EPOCHS * step)))
    seconds = train(folder / "run", arguments, settings, EPOCHS, per_epoch)
    return Spent(EPOCHS * per_epoch, step, seconds)


def cost(folder, arguments, settings):
    """Returns CPU seconds of a step, and of all else: start-up and the validation of all epochs."""
    few, many = PILOTS

    def pilot(steps):
        return train(folder / f"pilot{steps}", arguments, settings, 1, steps)

    short, long = pilot(few), pilot(many)
    while long - short < short / 4:  # start-up differs by a few seconds from time to time
        many *= 4
        long = pilot(many)
    step = (long - short) / (many - few)
    validation = VALIDATION_BATCHES * step / 3  # forward is about a third of a step
    return step, short - few * step + (EPOCHS - 1) * validation


def train(run, arguments, settings, epochs, steps):
    """Trains and returns the CPU seconds that it took; a training that was cut off begins anew."""
    spent = run.parent / f"{run.name}.seconds"
    if spent.exists():
        return float(spent.read_text())
    settings = [
        *settings,
        f"train.epochs={epochs}",
        f"train.steps_per_epoch={steps}",
        f"train.validation_batches={VALIDATION_BATCHES}",
    ]
    shutil.rmtree(run, ignore_errors=True)  # what its first part took is not known
    arguments = [*arguments, "--no-evaluate", *overrides(*settings)]
    seconds = runs.train("train.py", run, *arguments)
    spent.write_text(f"{seconds:.1f}")
    return seconds
