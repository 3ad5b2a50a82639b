"""How far a run has come, and what the epoch at hand has found: all that variables do not hold."""

import math
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field

import numpy as np


@dataclass
class EpochResults:
    """Results of the steps of one epoch, JSON-ready, so that a checkpoint can fall within it.

    Attributes:
        losses: Loss of each step.
        terms: Dict term of the loss -> its value in each step.
        learning_rates: Learning rate of each training step.
        watched: Dict name -> its value in each step, of what is watched beside the loss.
        gradient_norms: Norm of the gradient of each training step, before clipping.
        counts: Sum over the steps of what the objective counts, as nested lists.
        seconds: Time that the steps took.
        waited: Seconds of that in which they waited for their input.
    """

    losses: list = field(default_factory=list)
    terms: dict = field(default_factory=dict)
    learning_rates: list = field(default_factory=list)
    gradient_norms: list = field(default_factory=list)
    watched: dict = field(default_factory=dict)
    counts: list | None = None
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, result):
        """Adds what a training or a validation step returned; waits until it is there."""
        self.losses.append(float(result["loss"]))
        for name, value in result["terms"].items():
            self.terms.setdefault(name, []).append(float(value))
        for name, value in result.get("watched", {}).items():
            self.watched.setdefault(name, []).append(float(value))
        if "gradient_norm" in result:
            self.gradient_norms.append(float(result["gradient_norm"]))
        counts = np.float64(result["counts"])
        self.counts = (counts if self.counts is None else counts + self.counts).tolist()

    def row(self, split, objective):
        """Returns losses, what is watched and score as columns, named after the split.

        Of losses and what is watched they are means over the steps. A score that is NaN, because
        the steps counted nothing, has no column.
        """
        terms = self.terms if len(self.terms) > 1 else {}
        means = {"loss": self.losses, **{f"loss/{name}": v for name, v in terms.items()}}
        means |= self.watched
        row = {f"{split}_{name}": float(np.mean(values)) for name, values in means.items()}
        score = objective.score(self.counts)
        return row if math.isnan(score) else row | {f"{split}_{objective.metric}": score}

    def speed(self, batch_size):
        """Returns the columns of a training epoch that tell how it went: speed, rate, norm."""
        return {
            "gradient_norm": float(np.mean(self.gradient_norms)),
            "patches_per_second": len(self.losses) * batch_size / self.seconds,
            "input_wait_share": self.waited / self.seconds,
            "learning_rate": self.learning_rates[-1],
        }


@dataclass
class Progress:
    """How far a run has come; a checkpoint keeps it beside the variables.

    Attributes:
        step: Optimizer steps done.
        scores: The objective's score on the validation patches after each finished epoch.
        results: Results of the epoch that was begun.
        stopped: What ended the run early, see `interrupt.StopRequests`; not kept.
    """

    step: int = 0
    scores: list = field(default_factory=list)
    results: EpochResults = field(default_factory=EpochResults)
    stopped: str = ""

    @property
    def epoch(self):
        """Whole epochs done."""
        return len(self.scores)

    @property
    def best_epoch(self):
        """The first epoch that reached the best score, from 1; 0 before the first."""
        return self.scores.index(max(self.scores)) + 1 if self.scores else 0

    @property
    def best_score(self):
        """The best score; minus infinity before the first."""
        return max(self.scores, default=-math.inf)

    def to_json(self):
        """Returns nested plain values."""
        return {"step": self.step, "scores": self.scores, "results": asdict(self.results)}

    @classmethod
    def from_json(cls, values):
        """Returns what `to_json` was called on."""
        return cls(**{**values, "results": EpochResults(**values["results"])})
