"""Progress of trainings that run side by side in processes of their own; no TensorFlow."""

import time

from segkit.models import DETECTORS
from segkit.training.checkpoint import list_checkpoints
from segkit.training.jobs import read_history


class JobsProgress:
    """Reports each epoch that a run ends, and the time left over all runs."""

    def __init__(self, runs, what, report):
        """Looks at what is done already.

        Args:
            runs: Objects with `name`, unique; `folder`; `config`, a `Config`; `finished`, whether
                nothing is left to do; `score`, then a sentence about the outcome.
            what: What they are, in the plural.
            report: Called with each line.
        """
        self._runs, self._what, self._report, self._begun = runs, what, report, []
        self._ended = {run.name for run in runs if run.finished}
        self._epochs = {run.name: _last_epoch(run) for run in runs}
        self._started, self._before = time.monotonic(), self._share()

    def begin(self, run):
        """Looks at a run from now on: before, its folder may tell of an attempt that is void."""
        self._begun.append(run)

    def update(self):
        """Reports what is new."""
        for run in self._begun:
            history = read_history(run.folder)
            epoch = history[-1][0] if history else 0
            if epoch > self._epochs[run.name]:
                self._epochs[run.name] = epoch
                self.say(
                    run,
                    f"epoch {epoch}/{run.config.train.epochs}  val {_score_name(run)} "
                    f"{history[-1][1]:.4f}  "
                    f"all {self._what} {self._share():.0%}  ETA {self._left()}",
                )

    def end(self, run, reason):
        """Says how a run ended: why it failed, or its score where `reason` is `None`."""
        self.update()
        self._ended.add(run.name)
        log = run.folder / "log.txt"
        self.say(run, f"failed: {reason} (see {log})" if reason else f"is finished. {run.score}")

    def say(self, run, text):
        """Reports a line about a run."""
        self._report(f"{run.name}  {text}")

    def _share(self):
        """The share of all epochs that is done; a run that has ended has none left."""
        done = [
            1 if run.name in self._ended else self._epochs[run.name] / run.config.train.epochs
            for run in self._runs
        ]
        return sum(done) / len(done)

    def _left(self):
        done = self._share()
        seconds = (time.monotonic() - self._started) * (1 - done) / (done - self._before)
        hours, seconds = divmod(round(seconds), 3600)
        return f"{hours}:{seconds // 60:02d}:{seconds % 60:02d}"


def _score_name(run):
    return "F1 of objects" if run.config.model.name in DETECTORS else "Dice"


def _last_epoch(run):
    history = read_history(run.folder) if list_checkpoints(run.folder / "checkpoints") else []
    return history[-1][0] if history else 0
