"""What tests of trainings share: settings for seconds, what a run has recorded, and waiting."""

import csv
import time

TINY = (
    "model.filters=4",
    "model.downsamplings=1",
    "data.patch_size=[32, 32]",
    "train.steps_per_epoch=2",
    "train.batch_size=4",
    "train.validation_batches=2",
)


def history(run):
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
