"""What a run tells: TensorBoard events, `history.csv`, `progress.png`."""

import csv
import resource
import time
from pathlib import Path

import tensorflow as tf

from segkit.training.chart import draw_history

_SECONDS_BETWEEN_CHARTS = 10


class Monitor:
    """Writes the results of a run to its folder.

    Attributes:
        rows: The rows of `history.csv`, dicts column -> text.
    """

    def __init__(self, folder, objective, train, *, resume_at=0):
        """Opens the records.

        Args:
            folder: Run folder; events go to `logs/train` and `logs/validation`.
            objective: As in `fit`.
            train: The run's `TrainConfig`, for what is written on request only.
            resume_at: Epoch to go on from: later rows of an older `history.csv` are dropped.
        """
        self._folder, self._train = Path(folder), train
        self._objective = objective
        self._writers = {
            split: tf.summary.create_file_writer(str(self._folder / "logs" / split))
            for split in ("train", "validation")
        }
        self.rows = _read_rows(self._folder / "history.csv")[:resume_at]
        self._drawn, self._profiling = time.monotonic(), False

    def before_step(self, step):
        """Starts or ends the profiler around the chosen steps; `step` steps are done."""
        first, last = self._train.profile_steps or (0, 0)
        if step + 1 == first:
            tf.profiler.experimental.start(str(self._folder / "logs" / "train"))
            self._profiling = True
        elif step == last:
            self._end_profile()

    def epoch(self, step, row, train, validation, model):
        """Records one epoch.

        Args:
            step: Optimizer steps done so far.
            row: Mapping column -> number; columns that start with `validation_` go to the
                validation log, the others to the training log.
            train: `EpochResults` of the training steps.
            validation: `EpochResults` of the validation steps.
            model: `keras.Model`, for the histograms of its weights.
        """
        row = {**row, "memory_mb": memory_mb()}
        for split, results in (("train", train), ("validation", validation)):
            for name, value in self._objective.by_name(results.counts).items():
                row[f"{split}_{self._objective.metric}/{name}"] = value
        self.rows.append({k: str(v) for k, v in row.items()})
        _write_rows(self._folder / "history.csv", self.rows)
        self._steps(step, train)
        for key, value in row.items():
            split = "validation" if key.startswith("validation_") else "train"
            self._scalar(split, key.removeprefix(f"{split}_"), value, step)
        if self._train.histograms:
            with self._writers["train"].as_default():
                for variable in model.trainable_variables:
                    tf.summary.histogram(variable.path, variable.value, step=step)
        self.flush()
        if time.monotonic() - self._drawn > _SECONDS_BETWEEN_CHARTS:
            self._draw()

    def images(self, step, panels):
        """Records pictures: a list of uint8 arrays `(height, width, 3)`."""
        with self._writers["validation"].as_default():
            for number, picture in enumerate(panels):
                tag = f"{self._objective.pictures}/{number}"
                tf.summary.image(tag, picture[None], step=step)

    def warnings(self, step, lines):
        """Records what was warned of, a list of lines."""
        with self._writers["train"].as_default():
            for line in lines:
                tf.summary.text("warnings", line, step=step)
        self.flush()

    def hparams(self, settings, best_score):
        """Records settings, a flat mapping name -> value, and the score that they reached."""
        from tensorboard.plugins.hparams import api

        with self._writers["validation"].as_default():
            api.hparams(
                {k: v if isinstance(v, int | float) else str(v) for k, v in settings.items()}
            )
            tf.summary.scalar(f"best_{self._objective.metric}", best_score, step=0)

    def flush(self):
        """Makes everything recorded visible to TensorBoard."""
        for writer in self._writers.values():
            writer.flush()

    def close(self):
        """Ends the records, with an up-to-date chart."""
        self._end_profile()
        if self.rows:
            self._draw()
        for writer in self._writers.values():
            writer.close()

    def _steps(self, step, train):
        """Records loss, rate, gradient and what else is watched of each of the last steps."""
        per_step = {
            "loss_per_step": train.losses,
            "learning_rate_per_step": train.learning_rates,
            "gradient_norm_per_step": train.gradient_norms,
            **{f"{name}_per_step": values for name, values in train.watched.items()},
        }
        for tag, values in per_step.items():
            for number, value in enumerate(values, start=step - len(values) + 1):
                self._scalar("train", tag, value, number)

    def _scalar(self, split, tag, value, step):
        with self._writers[split].as_default():
            tf.summary.scalar(tag, value, step=step)

    def _draw(self):
        score = self._objective.metric, self._objective.label
        draw_history(self._folder / "progress.png", self.rows, *score)
        self._drawn = time.monotonic()

    def _end_profile(self):
        if self._profiling:
            tf.profiler.experimental.stop()
            self._profiling = False


def memory_mb():
    """Returns the highest memory in use so far, in MiB: of all GPUs, else of the process."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        peaks = (tf.config.experimental.get_memory_info(gpu.name)["peak"] for gpu in gpus)
        return sum(peaks) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write_rows(path, rows):
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
