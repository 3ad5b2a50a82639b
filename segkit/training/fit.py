"""The training loop: epochs, validation, best model, checkpoints, stopping and going on."""

import contextlib
import math
import time
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from tqdm import tqdm

from segkit.errors import DataError
from segkit.errors import writing
from segkit.training.checkpoint import checkpoint_path
from segkit.training.checkpoint import is_whole
from segkit.training.checkpoint import load_checkpoint
from segkit.training.checkpoint import newest_whole
from segkit.training.checkpoint import save_checkpoint
from segkit.training.cluster import is_first_worker
from segkit.training.cluster import number_of_workers
from segkit.training.interrupt import stop_requests
from segkit.training.learner import build_learner
from segkit.training.learner import distribute
from segkit.training.monitor import Monitor
from segkit.training.nonfinite import check_finite
from segkit.training.progress import EpochResults
from segkit.training.progress import Progress
from segkit.training.run import create_run
from segkit.training.segmentation import Segmentation
from segkit.training.transfer import describe
from segkit.training.transfer import write_report

NUM_PICTURES = 4


class Batches(NamedTuple):
    """Where batches come from; a part is (number of this worker, number of workers).

    Attributes:
        train: Function `(first_example, part) -> tf.data.Dataset`, endless, of a worker's share
            of the global batches `(inputs, labels)`, or of what `prepare` takes. Inputs are
            images or a dict of `image` and `covariates`; labels, or a dict of `label` and `target`.
        validation: Function `part -> tf.data.Dataset`, finite, of `(inputs, labels)`.
        inspect: Function `first_example -> (cases, images, labels)` of one global batch, case ids
            and NumPy arrays, to name what a loss was not finite on.
    """

    train: object
    validation: object
    inspect: object


def fit(
    folder,
    config,
    manifest,
    strategy,
    build,
    batches,
    *,
    objective=None,
    prepare=None,
    learn=build_learner,
    watch=None,
    resume=False,
    report=tqdm.write,
):
    """Trains a model in a run folder, and keeps the best one there as `model.keras`.

    The folder is made once model and data are at hand, so a setting that does not fit leaves
    none. Best is the highest score of the objective, such as the mean Dice, over the validation
    patches, which are the same after every epoch. SIGTERM, Ctrl-C or a file `STOP` in the folder
    end the run after the step at hand, with a checkpoint.

    Args:
        folder: Run folder; made unless `resume`.
        config: A `Config`.
        manifest: Manifest of the data set.
        strategy: From `make_strategy`. Of several workers, the first one writes.
        build: Function without arguments that returns `(model, loss)`, or what `learn` takes;
            called in the scope.
        batches: `Batches`.
        objective: What the run is judged by; `None`: the `Segmentation` of the data set's classes.
        prepare: As in `make_train_step`.
        learn: Function `(train, strategy, build, resume=...)` that returns what learns: a
            `Learner`, or an object with its attributes and methods.
        watch: Function of the rows of `history.csv` so far, dicts of text, that returns lines to
            warn of; `None`: nothing is watched.
        resume: Go on from the newest checkpoint.
        report: Called with each line of progress.

    Returns:
        `Progress` at the end; its `stopped` says what ended it early.

    Raises:
        ConfigError: If the batch does not divide by the replicas, the folder holds a run
            already, or the loss is not finite.
        DataError: If there is nothing to resume, the disk is full, or another worker is gone.
    """
    objective = objective or Segmentation(manifest, config.loss.options)
    learner = learn(config.train, strategy, build, resume=resume)
    parts = (strategy, learner, batches, objective, prepare, watch, report)
    loop = _Loop(folder, config, manifest, *parts)
    loop.start(resume)
    with stop_requests(loop.folder) as requests, _lost_workers():
        while not loop.finished:
            loop.train_epoch(requests)
            if loop.epoch_is_whole:
                loop.end_epoch()
            loop.keep()
    loop.end()
    return loop.progress


@contextlib.contextmanager
def _lost_workers():
    """Turns TensorFlow's error about a worker that is gone into one line."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if number_of_workers() == 1:
            raise
        raise DataError(
            f"another worker ended or cannot be reached ({type(error).__name__} in a reduction). "
            "Start all workers again with --resume."
        ) from error


class _Loop:
    """One run: its parts, and what happens in an epoch."""

    def __init__(
        self,
        folder,
        config,
        manifest,
        strategy,
        learner,
        batches,
        objective,
        prepare,
        watch,
        report,
    ):
        self.folder, self.config, self.manifest = Path(folder), config, manifest
        self.train, self.batches, self.report = config.train, batches, report
        self.strategy, self.chief = strategy, is_first_worker()
        self.learner, self.objective, self.watch = learner, objective, watch
        self.train_step, self.validation_step = learner.make_steps(
            self.train, strategy, objective.count, prepare
        )
        self.progress = Progress()

    @property
    def finished(self):
        """Whether all epochs are done, or something ends the run before."""
        progress = self.progress
        return bool(progress.stopped) or progress.epoch >= self.train.epochs or self.stalled

    @property
    def stalled(self):
        """Whether early stopping ends the run."""
        waited = self.progress.epoch - self.progress.best_epoch
        return 0 < self.train.early_stopping <= waited

    @property
    def epoch_is_whole(self):
        """Whether the steps of the epoch at hand are done."""
        return len(self.progress.results.losses) == self.train.steps_per_epoch

    def start(self, resume):
        """Makes or reads the run folder, and opens the streams of data."""
        if resume:
            self._restore()
        size, first = self.train.batch_size, self.progress.step * self.train.batch_size
        train, validation = self.batches.train, self.batches.validation
        stream = distribute(self.strategy, size, lambda part: train(first, part))
        self.held_out = distribute(self.strategy, size, validation)
        self.stream = iter(stream)
        if self.chief:
            self.shown = next(iter(validation((0, 1)).unbatch().batch(NUM_PICTURES)))
            if not resume:
                create_run(self.folder, self.config, self.manifest)
                self._tell_transfer()
            epoch = self.progress.epoch
            self.monitor = Monitor(self.folder, self.objective, self.train, resume_at=epoch)
        self.started, self.first_step = time.monotonic(), self.progress.step

    def train_epoch(self, requests):
        """Does the steps of the epoch at hand that are left, or as many as it may.

        The loop reads the results of a step while the next one runs, so that a GPU need not wait.
        """
        results, pending = self.progress.results, None
        label = f"epoch {self.progress.epoch + 1}/{self.train.epochs}"
        done, total = len(results.losses), self.train.steps_per_epoch
        with tqdm(total=total, initial=done, desc=label, leave=False, disable=None) as bar:
            while done < total:
                result = self._one_step(requests)
                done += 1
                go_on = pending is None or self._add(pending, requests)
                pending = result
                bar.update()
                if not go_on:
                    break
            if pending is not None:
                self._add(pending, requests)
        folder = self.folder if self.chief else None
        check_finite(self.progress, self.train.batch_size, self.batches.inspect, folder)

    def end_epoch(self):
        """Validates, records, and begins the next epoch."""
        train, progress = self.progress.results, self.progress
        with self.learner.averaged():
            validation = EpochResults()
            for batch in self.held_out:
                validation.add(self.validation_step(batch))
            pictures = self._pictures() if self.chief else []
        objective, row = self.objective, {"epoch": progress.epoch + 1}
        row |= train.row("train", objective) | validation.row("validation", objective)
        row |= train.speed(self.train.batch_size)
        progress.scores.append(row[f"validation_{objective.metric}"])
        progress.results = EpochResults()
        if self.chief:
            with writing(self.folder, "Free some space, then repeat the command with --resume."):
                self.monitor.epoch(progress.step, row, train, validation, self.learner.model)
                self.monitor.images(progress.step, pictures)
        self.report(self._line(row, objective.by_name(validation.counts)))
        if self.chief and self.watch:
            self._warn(self.watch(self.monitor.rows))

    def keep(self):
        """Writes a checkpoint where one is due, and the model if it is the best so far."""
        progress, train = self.progress, self.train
        between = bool(progress.results.losses)
        best = not between and progress.best_epoch == progress.epoch
        due = not between and progress.epoch % train.checkpoint_every == 0
        if not self.chief or not (best or due or self.finished):
            return
        with writing(self.folder, "Free some space, then repeat the command with --resume."):
            save_checkpoint(
                self.folder / "checkpoints",
                progress.step,
                self.learner.variables,
                progress.to_json(),
                keep=train.keep_checkpoints,
                best=progress.best_epoch * train.steps_per_epoch,
            )
            if best:
                self._save_best()

    def end(self):
        """Says why the run ended, and closes its records."""
        progress, train = self.progress, self.train
        if self.chief:
            if train.hparams and not progress.stopped:
                self.monitor.hparams(self.config.flat(), progress.best_score)
            self.monitor.close()
        if progress.stopped:
            self.report(f"Stopped by {progress.stopped} after step {progress.step}.")
        elif progress.epoch < train.epochs:
            label, waited = self.objective.label, train.early_stopping
            self.report(f"Stopped early: no better {label} for {waited} epochs.")

    def _tell_transfer(self):
        transferred = self.learner.transferred
        if transferred:
            with writing(self.folder, "Free some space."):
                write_report(self.folder / "transfer.csv", transferred)
            self.report(f"Weights of {self.train.initial_weights}:\n{describe(transferred)}")

    def _restore(self):
        folder, variables = self.folder / "checkpoints", self.learner.variables
        newest = newest_whole(folder, warn=self.report)
        progress = Progress.from_json(load_checkpoint(newest, variables))
        best = checkpoint_path(folder, progress.best_epoch * self.train.steps_per_epoch)
        if self.chief and is_whole(best):
            # What came after the newest checkpoint may have left another model than the best.
            load_checkpoint(best, variables)
            self._save_best()
            load_checkpoint(newest, variables)
        self.progress = progress
        within = f", step {progress.step}" if progress.results.losses else ""
        epochs = f"epoch {progress.epoch} of {self.train.epochs}"
        self.report(f"Resumed {self.folder} after {epochs}{within}.")

    def _one_step(self, requests):
        results, progress, learner = self.progress.results, self.progress, self.learner
        before = time.monotonic()
        batch = next(self.stream)
        results.waited += time.monotonic() - before
        results.learning_rates.append(learner.set_rate(progress.step, progress.scores))
        first = tf.constant(progress.step * self.train.batch_size, tf.int64)
        if self.chief:
            self.monitor.before_step(progress.step)
        result = self.train_step(batch, first, tf.constant(float(requests.asked())))
        progress.step += 1
        learner.follow(progress.step)
        results.seconds += time.monotonic() - before
        return result

    def _add(self, result, requests):
        """Adds a step's results, waiting for them; returns whether to go on."""
        results = self.progress.results
        before = time.monotonic()
        results.add(result)
        results.seconds += time.monotonic() - before
        if float(result["stop"]):
            self.progress.stopped = requests.reason or "another worker"
        return not self.progress.stopped and math.isfinite(results.losses[-1])

    def _save_best(self):
        with self.learner.averaged():
            self.learner.save_model(self.folder / "model.keras")

    def _pictures(self):
        inputs, targets = self.shown
        outputs = self.learner.predict(inputs, targets)
        return self.objective.panels(inputs, targets, outputs)

    def _warn(self, lines):
        for line in lines:
            self.report(f"warning: {line}")
        self.monitor.warnings(self.progress.step, lines)

    def _line(self, row, by_name):
        """One line about an epoch, with the time that is left."""
        known = {name: value for name, value in by_name.items() if not math.isnan(value)}
        scores = ", ".join(f"{name} {value:.3f}" for name, value in known.items())
        metric, label = self.objective.metric, self.objective.label
        total = self.train.epochs * self.train.steps_per_epoch
        per_step = (time.monotonic() - self.started) / (self.progress.step - self.first_step)
        minutes, seconds = divmod(round(per_step * (total - self.progress.step)), 60)
        return (
            f"epoch {row['epoch']}/{self.train.epochs}  loss {row['train_loss']:.4f}  "
            f"val loss {row['validation_loss']:.4f}  "
            f"val {label} {row[f'validation_{metric}']:.4f}{f' ({scores})' if by_name else ''}  "
            f"{row['patches_per_second']:.1f} patches/s  wait {row['input_wait_share']:.0%}  "
            f"ETA {minutes}:{seconds:02d}"
        )
