"""Small games for tests: images of discs from their label maps, or from noise."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from segkit.config import config_from_dict
from segkit.losses import build_loss
from segkit.models import build_critic
from segkit.models import build_model
from segkit.training.adversarial.learner import build_adversarial_learner
from segkit.training.adversarial.learner import keyed
from segkit.training.adversarial.objective import build_objective
from segkit.training.adversarial.tasks import Patches
from segkit.training.adversarial.tasks import build_task
from segkit.training.fit import Batches
from segkit.training.learner import distribute
from tests.training.conftest import discs
from tests.training.conftest import share_of

BATCH, SHAPE = 4, (16, 16, 1)
SMALL = {
    "spade": {"filters": 4, "upsamplings": 1, "hidden": 4, "noise": 4},
    "dcgan": {"filters": 8, "upsamplings": 1, "noise": 4},
    "patch": {"filters": 4, "downsamplings": 1, "scales": 1},
    "global": {"filters": 4, "downsamplings": 1},
}
TASK_OF = {"spade": "labels", "dcgan": "noise"}


def config_of(model="spade", loss=None, **train):
    """Returns a config; training as in `tests.training.conftest`."""
    settings = {"epochs": 2, "steps_per_epoch": 2, "batch_size": BATCH, "learning_rate": 0.01}
    return config_from_dict(
        {
            "model": {"name": model},
            "data": {"patch_size": list(SHAPE[:-1])},
            "loss": {"name": "adversarial", **(loss or {})},
            "task": {"name": TASK_OF.get(model, "noise")},
            "train": {**settings, **train},
        }
    )


def builder(config, critic=None):
    """Returns `(task, build)` of a config, with networks of the library in their small form."""
    task = build_task(config.task.name, Patches(SHAPE, 2))
    loss, name = build_loss("adversarial", **config.loss.options), critic or "patch"

    def make_generator():
        return build_model(config.model.name, 2, SHAPE, **SMALL[config.model.name])

    def make_critic(channels):
        return build_critic(name, SHAPE, channels, **SMALL[name])

    return task, lambda: task.game(loss, make_generator, make_critic)


def train_batches(first_example=0, part=(0, 1), batch_size=BATCH):
    data = tf.data.Dataset.from_tensor_slices(discs(32)).repeat()
    data = data.skip(first_example).batch(batch_size, drop_remainder=True)
    return data.map(lambda *batch: share_of(part, batch))


def validation_batches(part=(0, 1)):
    data = tf.data.Dataset.from_tensor_slices(discs(8, seed=1)).batch(BATCH, drop_remainder=True)
    data = data.map(lambda *batch: share_of(part, batch))
    return keyed(data, seed=0, batch_size=BATCH, part=part)


def inspect(first_example):
    images, labels = discs(32)
    numbers = np.arange(first_example, first_example + BATCH) % 32
    return [f"disc{n}" for n in numbers], images[numbers], labels[numbers]


BATCHES = Batches(train_batches, validation_batches, inspect)


def play(strategy, config, *, steps, critic=None, prepare=None):
    """Returns the learner after a few steps, the results of these, and those of validation."""
    task, build = builder(config, critic)
    learner = build_adversarial_learner(config.train, strategy, build)
    objective = build_objective(task)
    step, validate = learner.make_steps(config.train, strategy, objective.count, prepare)
    size, results = config.train.batch_size, []
    stream = iter(distribute(strategy, size, lambda part: train_batches(0, part, size)))
    for number in range(steps):
        learner.set_rate(number, [])
        first = tf.constant(number * size, tf.int64)
        results.append(step(next(stream), first, tf.constant(0.0)))
        learner.follow(number + 1)
    with learner.averaged():
        held_out = [validate(batch) for batch in distribute(strategy, BATCH, validation_batches)]
    return learner, results, held_out


def flat(results):
    """All numbers of results as dict name -> array over steps."""
    found = {}
    for result in results:
        for name in ("loss", "gradient_norm", "counts"):
            if name in result:
                found.setdefault(name, []).append(result[name].numpy())
        for group in ("terms", "watched"):
            for name, value in result[group].items():
                found.setdefault(name, []).append(value.numpy())
    return {name: np.array(values) for name, values in found.items()}


def weights(learner):
    """All weights of both networks, by side."""
    sides = {"generators": learner.game.generators, "critics": learner.game.critics}
    return {
        name: np.concatenate([np.ravel(w.numpy()) for p in players for w in p.model.weights])
        for name, players in sides.items()
    }


def linear_generator():
    """Makes `z * g` of one number of noise, with four weights `g`."""
    noise = keras.Input((1,), name="noise")
    made = layers.Dense(4, use_bias=False, dtype="float32", name="g")(noise)
    return keras.Model({"noise": noise}, layers.Reshape((2, 2, 1), dtype="float32")(made))


def linear_critic(channels=0):
    """Gives each voxel the logit `c * x`."""
    image = keras.Input((2, 2, 1), name="image")
    logits = layers.Conv2D(1, 1, use_bias=False, dtype="float32", name="c")(image)
    return keras.Model({"image": image}, {"logits_0": logits})
