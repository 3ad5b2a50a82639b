"""The training loop: epochs, validation, best model, checkpoints, early stopping."""

import contextlib
import math
import time
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from segkit.errors import ConfigError
from segkit.errors import writing
from segkit.metrics.counts import dice_from_counts
from segkit.training.checkpoint import restore_newest
from segkit.training.checkpoint import save_checkpoint
from segkit.training.monitor import Monitor
from segkit.training.optimizers import build_optimizer
from segkit.training.overlay import panel
from segkit.training.run import create_run
from segkit.training.schedules import build_schedule
from segkit.training.step import make_train_step
from segkit.training.step import make_validation_step

NUM_PICTURES = 4


@dataclass
class Progress:
    """How far a run has come; a checkpoint keeps it beside the variables."""

    epoch: int = 0
    best_dice: float = -1.0
    best_epoch: int = 0
    scores: list = field(default_factory=list)  # validation Dice of each epoch


def fit(
    folder,
    config,
    manifest,
    strategy,
    build,
    train_batches,
    validation_batches,
    *,
    prepare=None,
    resume=False,
    report=tqdm.write,
):
    """Trains a model in a run folder, and keeps the best one there as `model.keras`.

    The folder is made once the model is built, so a setting that does not fit leaves none. Best
    is the highest mean foreground Dice over the validation patches, which are the same after
    every epoch.

    Args:
        folder: Run folder; made unless `resume`.
        config: A `Config`.
        manifest: Manifest of the data set: its classes are scored by name, and photographs (no
            spacing) are drawn with the first row on top, slices with anterior up.
        strategy: From `make_strategy`.
        build: Function without arguments that returns `(model, loss)`; called in the scope.
        train_batches: Function `first_example -> tf.data.Dataset` of global batches
            `(images, labels)`, endless, or of what `prepare` takes.
        validation_batches: Finite `tf.data.Dataset` of global batches `(images, labels)`.
        prepare: As in `make_train_step`.
        resume: Go on from the newest checkpoint.
        report: Called with each line of progress.

    Returns:
        `Progress` after the last epoch.

    Raises:
        ConfigError: If the batch does not divide by the replicas, the folder holds a run
            already, or the loss is not finite.
        DataError: If there is nothing to resume, or the disk is full.
    """
    train, folder = config.train, Path(folder)
    class_names = [entry["name"] for entry in manifest["classes"]]
    upright = manifest["preprocess"]["spacing_mm"] is None
    _check_batch(train.batch_size, strategy.num_replicas_in_sync)
    learning_rate = build_schedule(train)
    model, loss, optimizer = _build(train, strategy, build)
    variables = _named_variables(model, optimizer)
    step, progress = 0, Progress()
    if resume:
        step, saved = restore_newest(folder / "checkpoints", variables, warn=report)
        progress = Progress(**saved)
        report(f"Resumed {folder} after epoch {progress.epoch} of {train.epochs}.")
    else:
        create_run(folder, config, manifest)

    shared = {"num_classes": len(class_names), "batch_size": train.batch_size}
    xla = _use_xla(train.xla)
    train_step = make_train_step(
        strategy, model, loss, optimizer, xla=xla, prepare=prepare, **shared
    )
    validation_step = make_validation_step(strategy, model, loss, **shared)
    stream = iter(strategy.experimental_distribute_dataset(train_batches(step * train.batch_size)))
    held_out = strategy.experimental_distribute_dataset(validation_batches)
    shown = next(iter(validation_batches.unbatch().batch(NUM_PICTURES)))
    monitor = Monitor(folder, class_names, resume_at=progress.epoch)
    started, first_epoch = time.monotonic(), progress.epoch

    while progress.epoch < train.epochs and not _stalled(progress, train.early_stopping):
        label = f"epoch {progress.epoch + 1}/{train.epochs}"
        rates = [learning_rate(step + n, progress.scores) for n in range(train.steps_per_epoch)]
        trained, losses, train_dice = _train_epoch(
            train_step, stream, optimizer, rates, train, label
        )
        scores, dice = _validate(validation_step, held_out)
        progress.epoch += 1
        progress.scores.append(scores["validation_dice"])
        row = {"epoch": progress.epoch, **trained, **scores, "learning_rate": rates[-1]}
        with writing(folder, "Free some space, then repeat the command with --resume."):
            monitor.steps(step + 1, losses)
            step += train.steps_per_epoch
            monitor.epoch(step, row, {"train": train_dice, "validation": dice})
            monitor.images(step, _pictures(model, *shown, upright))
            _keep(folder, train, model, variables, progress, step, row["validation_dice"])
        done = (progress.epoch - first_epoch) / (train.epochs - first_epoch)
        left = (time.monotonic() - started) * (1 / done - 1)
        report(_line(label, row, dice, class_names, left))

    if progress.epoch < train.epochs:
        report(f"Stopped early: no better Dice for {train.early_stopping} epochs.")
    return progress


def _build(train, strategy, build):
    with _precision(train.precision), strategy.scope():
        keras.utils.set_random_seed(train.seed)
        model, loss = build()
        optimizer = build_optimizer(train, num_replicas=strategy.num_replicas_in_sync)
        optimizer.build(model.trainable_variables)
    return model, loss, optimizer


def _keep(folder, train, model, variables, progress, step, dice):
    """Saves the model if it is the best so far, and a checkpoint if one is due."""
    if dice > progress.best_dice:
        progress.best_dice, progress.best_epoch = dice, progress.epoch
        _save_model(model, folder / "model.keras")
    last = progress.epoch == train.epochs or _stalled(progress, train.early_stopping)
    if last or progress.epoch % train.checkpoint_every == 0:
        keep = train.keep_checkpoints
        save_checkpoint(folder / "checkpoints", step, variables, asdict(progress), keep=keep)


def _check_batch(batch_size, replicas):
    if batch_size % replicas:
        below = batch_size - batch_size % replicas
        raise ConfigError(
            f"train.batch_size {batch_size} does not divide by {replicas} replicas. "
            f"Use {below or replicas} or {below + replicas}."
        )


@contextlib.contextmanager
def _precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _use_xla(setting):
    return bool(tf.config.list_logical_devices("GPU")) if setting == "auto" else setting


def _named_variables(model, optimizer):
    """Variables by a name that the next process gives them too.

    The first part of an optimizer variable's path counts the optimizers of the process.
    """
    named = {f"model/{n:04d}/{v.path}": v for n, v in enumerate(model.variables)}
    for n, v in enumerate(optimizer.variables):
        named[f"optimizer/{n:04d}/{v.path.partition('/')[2]}"] = v
    return named


def _stalled(progress, patience):
    return patience > 0 and progress.epoch - progress.best_epoch >= patience


def _train_epoch(train_step, stream, optimizer, rates, train, label):
    """Runs one epoch, a step per learning rate; returns its row, losses and Dice per class."""
    results, waited, started = [], 0.0, time.monotonic()
    with tqdm(total=train.steps_per_epoch, desc=label, leave=False, disable=None) as bar:
        for rate in rates:
            before = time.monotonic()
            batch = next(stream)
            waited += time.monotonic() - before
            optimizer.learning_rate = rate
            results.append(train_step(*batch))
            bar.update()
    losses = np.array([float(r["loss"]) for r in results])
    seconds = time.monotonic() - started
    if not np.isfinite(losses).all():
        bad = int(np.flatnonzero(~np.isfinite(losses))[0]) + 1
        raise ConfigError(
            f"the loss became {losses[bad - 1]} in {label}, step {bad}. Lower "
            "train.learning_rate or train.clip_norm; earlier checkpoints are kept."
        )
    dice = dice_from_counts(sum(r["counts"].numpy() for r in results))
    row = {
        "train_loss": float(losses.mean()),
        "train_dice": _mean(dice),
        "gradient_norm": float(np.mean([float(r["gradient_norm"]) for r in results])),
        "patches_per_second": train.steps_per_epoch * train.batch_size / seconds,
        "input_wait_share": waited / seconds,
    }
    return row, losses, dice


def _validate(validation_step, batches):
    results = [validation_step(*batch) for batch in batches]
    dice = dice_from_counts(sum(r["counts"].numpy() for r in results))
    loss = float(np.mean([float(r["loss"]) for r in results]))
    return {"validation_loss": loss, "validation_dice": _mean(dice)}, dice


def _mean(dice):
    """Mean over the foreground classes that occurred; 0 when none did."""
    foreground = np.asarray(dice)[1:]
    return float(np.nanmean(foreground)) if not np.isnan(foreground).all() else 0.0


def _pictures(model, images, labels, upright):
    predictions = keras.ops.argmax(model(images, training=False), axis=-1)
    predictions = keras.ops.convert_to_numpy(predictions)
    examples = zip(images.numpy(), labels.numpy(), predictions, strict=True)
    return [panel(*example, upright=upright) for example in examples]


def _save_model(model, path):
    temporary = path.with_name(".model.tmp.keras")
    try:
        model.save(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _line(label, row, dice, class_names, seconds_left):
    classes = ", ".join(
        f"{name} {value:.3f}"
        for name, value in zip(class_names[1:], dice[1:], strict=True)
        if not math.isnan(value)
    )
    minutes, seconds = divmod(round(seconds_left), 60)
    return (
        f"{label}  loss {row['train_loss']:.4f}  val loss {row['validation_loss']:.4f}  "
        f"val Dice {row['validation_dice']:.4f} ({classes})  "
        f"{row['patches_per_second']:.1f} patches/s  wait {row['input_wait_share']:.0%}  "
        f"ETA {minutes}:{seconds:02d}"
    )
