"""What learns in a game: both sides' networks and optimizers, and the average of the generators."""

import contextlib
from typing import NamedTuple

import keras
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.layers.dtype_policy import dtype_policy
from segkit.layers.step_context import step_context
from segkit.training.adversarial.step import make_adversarial_step
from segkit.training.adversarial.step import make_adversarial_validation
from segkit.training.adversarial.step import trainable_variables
from segkit.training.averaging import Average
from segkit.training.averaging import build_rate
from segkit.training.learner import check_replicas
from segkit.training.learner import use_xla
from segkit.training.optimizers import build_optimizer
from segkit.training.replica import example_keys
from segkit.training.run import save_model
from segkit.training.schedules import build_schedule
from segkit.training.transfer import read_weights
from segkit.training.transfer import transfer

# Settings that say something about one network and its layers, and what they are without effect.
UNUSED = {"l1": 0.0, "l2": 0.0, "layer_decay": 1.0, "freeze": [], "remat": False}


class AdversarialLearner(NamedTuple):
    """The parts of a game that change while it learns; see `segkit.training.learner.Learner`.

    Attributes:
        game: `Game`.
        optimizers: `(generators', critics')`.
        schedule: Function `(step, scores) -> learning rate` of the generators.
        average: `Average` of the generators' weights, or `None`.
        transferred: What `transfer` reports of weights of the generator that were taken over, or
            `None`.
    """

    game: object
    optimizers: tuple
    schedule: object
    average: object
    transferred: object

    @property
    def model(self):
        """The generator that the run is about."""
        return self.game.generators[0].model

    @property
    def variables(self):
        """All variables, by names that the next process gives them too."""
        players = [*self.game.generators, *self.game.critics]
        parts = {f"model_{player.name}": player.model.variables for player in players}
        for side, optimizer in zip(("generator", "critic"), self.optimizers, strict=True):
            parts[f"optimizer_{side}"] = optimizer.variables
        if self.average:
            parts["average"] = self.average.variables
        return {f"{part}/{n:04d}": v for part, vs in parts.items() for n, v in enumerate(vs)}

    def make_steps(self, train, strategy, count, prepare=None):
        """Returns the functions `(train_step, validation_step)` of this package's `step`."""
        train_step = make_adversarial_step(
            strategy,
            self.game,
            self.optimizers,
            batch_size=train.batch_size,
            xla=use_xla(train.xla),
            seed=train.seed,
            accumulation_steps=train.accumulation_steps,
            prepare=prepare,
        )
        options = {"count": count, "batch_size": train.batch_size}
        return train_step, make_adversarial_validation(strategy, self.game, **options)

    def set_rate(self, step, scores):
        """Sets both learning rates of the step after so many; returns that of the generators."""
        rate = self.schedule(step, scores)
        generators, critics = self.optimizers
        generators.learning_rate = rate
        critics.learning_rate = rate * self.game.loss.critic_rate
        return rate

    def follow(self, step):
        """Moves the average after step number `step`, from 1."""
        if self.average:
            self.average.update(step)

    def averaged(self):
        """Returns a context in which the generators have the weights to be judged by."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def predict(self, inputs, targets):
        """Returns samples, see `Game.sample`, of a batch from `keyed`."""
        with step_context(inputs["keys"]):
            return self.game.sample(inputs["image"], targets)

    def save_model(self, path):
        """Writes the generator, whole or not at all."""
        save_model(self.model, path)


def build_adversarial_learner(train, strategy, build, *, resume=False):
    """Builds the networks, and the optimizers and averages of both sides.

    Args:
        train: A `segkit.config.TrainConfig`; its optimizer is that of both sides, and its
            `initial_weights` are those of the first generator.
        strategy: From `make_strategy`.
        build: Function without arguments that returns a `Game`; called in the scope.
        resume: As in `segkit.training.learner.build_learner`.

    Returns:
        An `AdversarialLearner`.

    Raises:
        ConfigError: As `build_learner`, or a setting that a game has no use for.
    """
    check_settings(train)
    check_replicas(train, strategy)
    schedule = build_schedule(train)
    weights = None if resume or not train.initial_weights else read_weights(train.initial_weights)
    rate = build_rate(train.averaging, train.steps_per_epoch) if train.averaging else None
    with dtype_policy(train.precision), strategy.scope():
        keras.utils.set_random_seed(train.seed)
        game = build()
        model = game.generators[0].model
        transferred = transfer(model, weights, train.initial_layers) if weights else None
        optimizers = tuple(_optimizer(train, side) for side in (game.generators, game.critics))
    learned = [w for player in game.generators for w in player.model.weights]
    average = Average(strategy, learned, rate) if rate else None
    return AdversarialLearner(game, optimizers, schedule, average, transferred)


def check_settings(train):
    """Refuses settings of single networks.

    Raises:
        ConfigError: Names the first.
    """
    for name, neutral in UNUSED.items():
        value = getattr(train, name)
        if value != neutral:
            raise ConfigError(
                f"train.{name} is {value}, which a generator and its critic do not take. Set "
                f"train.{name}={str(neutral).lower()}."
            )


def keyed(batches, *, seed, batch_size, part=(0, 1)):
    """Returns batches with the keys of their random numbers, the same ones in every iteration.

    Args:
        batches: `tf.data.Dataset` of `(images, labels)`.
        seed: Seed of the random numbers.
        batch_size: Size of the global batch.
        part: Which part of every global batch it holds: `(number, count)`.

    Returns:
        `tf.data.Dataset` of `({"image": images, "keys": keys}, labels)`.
    """
    number, count = part
    share = batch_size // count

    def add(batch, data):
        images, labels = data
        start = batch * batch_size + number * share
        keys = example_keys(seed, start + tf.range(share, dtype=tf.int64))
        return {"image": images, "keys": keys}, labels

    return batches.enumerate().map(add)


def _optimizer(train, players):
    optimizer = build_optimizer(train)
    optimizer.build(trainable_variables(players))
    return optimizer
