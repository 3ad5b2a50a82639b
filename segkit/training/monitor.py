"""What a run tells: TensorBoard events, `history.csv`, one line per epoch."""

import csv
from pathlib import Path

import tensorflow as tf


class Monitor:
    """Writes the results of each epoch to a run folder.

    Args:
        folder: Run folder; events go to `logs/train` and `logs/validation`.
        class_names: Names of all classes, background first.
        resume_at: Epoch to go on from: later rows of an older `history.csv` are dropped.
    """

    def __init__(self, folder, class_names, *, resume_at=0):
        self._history = Path(folder) / "history.csv"
        self._foreground = list(class_names)[1:]
        self._writers = {
            split: tf.summary.create_file_writer(str(Path(folder) / "logs" / split))
            for split in ("train", "validation")
        }
        self.rows = _read_rows(self._history)[:resume_at]

    def epoch(self, step, row, dice):
        """Records one epoch.

        Args:
            step: Optimizer steps done so far.
            row: Mapping column -> number; `loss`, `dice` and `dice/...` prefixed with
                `validation_` go to the validation log, the others to the training log.
            dice: Mapping split -> Dice per class, `(num_classes,)`; NaN where undefined.
        """
        row = dict(row)
        for split, values in dice.items():
            for name, value in zip(self._foreground, values[1:], strict=True):
                row[f"{split}_dice/{name}"] = float(value)
        self.rows.append({k: str(v) for k, v in row.items()})
        _write_rows(self._history, self.rows)
        for key, value in row.items():
            split, _, tag = key.rpartition("validation_")
            split = "validation" if key.startswith("validation_") else "train"
            with self._writers[split].as_default():
                tf.summary.scalar(tag.removeprefix("train_"), value, step=step)
        self.flush()

    def steps(self, first_step, losses):
        """Records the loss of each optimizer step, the first being number `first_step`."""
        with self._writers["train"].as_default():
            for offset, value in enumerate(losses):
                tf.summary.scalar("loss_per_step", value, step=first_step + offset)

    def images(self, step, panels):
        """Records pictures: a list of uint8 arrays `(height, width, 3)`."""
        with self._writers["validation"].as_default():
            for number, picture in enumerate(panels):
                tf.summary.image(f"image_truth_prediction/{number}", picture[None], step=step)

    def flush(self):
        """Makes everything recorded visible to TensorBoard."""
        for writer in self._writers.values():
            writer.flush()


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
