"""A small segmentation task that a small network learns in seconds."""

import numpy as np
import pytest
import tensorflow as tf

from segkit.config import config_from_dict
from segkit.losses import build_loss
from segkit.models import build_model
from segkit.training.devices import make_strategy


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

    def build(self):
        model = build_model("unet", 2, (16, 16, 1), filters=4, downsamplings=1)
        return model, build_loss("ce_dice")

    def train_batches(self, first_example, batch_size=4):
        data = tf.data.Dataset.from_tensor_slices((self.images, self.labels)).repeat()
        return data.skip(first_example).batch(batch_size, drop_remainder=True)

    def validation_batches(self):
        data = tf.data.Dataset.from_tensor_slices(discs(8, seed=1))
        return data.batch(4, drop_remainder=True)

    def strategy(self, replicas):
        return make_strategy(f"cpu:{replicas}")
