"""A small segmentation task that a small network learns in seconds."""

import numpy as np
import pytest
import tensorflow as tf

from segkit.config import config_from_dict
from segkit.losses import build_loss
from segkit.models import build_model
from segkit.training.devices import make_strategy
from segkit.training.fit import Batches
from segkit.training.learner import distribute


def share_of(part, batch):
    """The share of one worker of a batch."""
    number, count = part
    size = batch[0].shape[0] // count
    return tuple(x[number * size : (number + 1) * size] for x in batch)


def discs(count, size=16, seed=0):
    """Bright discs on noise: images `(count, size, size, 1)`, labels `(count, size, size)`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    centres = rng.uniform(5, size - 5, (count, 2, 1, 1))
    labels = np.hypot(rows - centres[:, 0], columns - centres[:, 1]) < 4
    images = labels + rng.normal(0, 0.3, labels.shape)
    return images[..., None].astype(np.float32), labels.astype(np.int32)


@pytest.fixture(scope="session")
def task():
    """Configuration, builder and data sets for `fit`."""
    return Task()


class Task:
    """What `fit` needs, with any setting replaced: `task.config(epochs=3)`."""

    images, labels = discs(64)

    def config(self, **train):
        settings = {"epochs": 2, "steps_per_epoch": 4, "batch_size": 4, "learning_rate": 0.01}
        return config_from_dict(
            {
                "model": {"name": "unet", "filters": 4, "downsamplings": 1},
                "data": {"patch_size": [16, 16]},
                "loss": {"name": "ce_dice"},
                "train": {**settings, **train},
            }
        )

    def build(self, **options):
        options = {"filters": 4, "downsamplings": 1, **options}
        model = build_model("unet", 2, (16, 16, 1), **options)
        return model, build_loss("ce_dice")

    def train_batches(self, first_example=0, part=(0, 1), batch_size=4):
        data = tf.data.Dataset.from_tensor_slices((self.images, self.labels)).repeat()
        data = data.skip(first_example).batch(batch_size, drop_remainder=True)
        return data.map(lambda *batch: share_of(part, batch))

    def validation_batches(self, part=(0, 1)):
        data = tf.data.Dataset.from_tensor_slices(discs(8, seed=1))
        return data.batch(4, drop_remainder=True).map(lambda *batch: share_of(part, batch))

    def inspect(self, first_example):
        numbers = np.arange(first_example, first_example + 4) % len(self.images)
        return [f"disc{n}" for n in numbers], self.images[numbers], self.labels[numbers]

    @property
    def batches(self):
        """What `fit` takes."""
        return Batches(self.train_batches, self.validation_batches, self.inspect)

    def steps_of(self, strategy, step, count):
        """Results of a training step on the first `count` global batches of 4."""
        stream = iter(distribute(strategy, 4, lambda part: self.train_batches(0, part)))
        first = (tf.constant(4 * n, tf.int64) for n in range(count))
        return [step(next(stream), number, tf.constant(0.0)) for number in first]

    def strategy(self, replicas):
        return make_strategy(f"cpu:{replicas}")
