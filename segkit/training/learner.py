"""What learns: model, loss, optimizer and average of the weights, built in a strategy's scope."""

import contextlib
from typing import NamedTuple

import keras
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.layers.dtype_policy import dtype_policy
from segkit.training.averaging import Average
from segkit.training.averaging import build_rate
from segkit.training.layer_rates import build_layer_rates
from segkit.training.optimizers import build_optimizer
from segkit.training.run import save_model
from segkit.training.schedules import build_schedule
from segkit.training.step import full_resolution
from segkit.training.step import make_train_step
from segkit.training.step import make_validation_step
from segkit.training.transfer import read_weights
from segkit.training.transfer import transfer


class Learner(NamedTuple):
    """The parts of a run that change while it learns.

    That of a generator and its critic (`segkit.training.adversarial.learner`) has the attributes
    `model` and `transferred`, and the same methods.

    Attributes:
        model: `keras.Model` with the weights of the last step.
        loss: From `segkit.losses.build_loss`.
        optimizer: `keras.Optimizer`.
        schedule: Function `(step, scores) -> learning rate`.
        average: `Average` of the weights, or `None`.
        layer_rates: `LayerRates`, or `None`.
        transferred: What `transfer` reports of weights that were taken over, or `None`.
    """

    model: object
    loss: object
    optimizer: object
    schedule: object
    average: object
    layer_rates: object
    transferred: object

    @property
    def variables(self):
        """All variables, by names that the next process gives them too."""
        # By number: Keras' own names count the layers and optimizers of the process.
        parts = {"model": self.model.variables, "optimizer": self.optimizer.variables}
        if self.average:
            parts["average"] = self.average.variables
        return {f"{part}/{n:04d}": v for part, vs in parts.items() for n, v in enumerate(vs)}

    def make_steps(self, train, strategy, count, prepare=None):
        """Returns the functions `(train_step, validation_step)` of `segkit.training.step`."""
        shared = {"count": count, "batch_size": train.batch_size}
        parts = (strategy, self.model, self.loss)
        train_step = make_train_step(
            *parts,
            self.optimizer,
            xla=use_xla(train.xla),
            seed=train.seed,
            accumulation_steps=train.accumulation_steps,
            l1=train.l1,
            l2=train.l2,
            layer_rates=self.layer_rates,
            prepare=prepare,
            remat=train.remat,
            **shared,
        )
        return train_step, make_validation_step(*parts, **shared)

    def set_rate(self, step, scores):
        """Sets the learning rate of the step after so many, and returns it."""
        rate = self.schedule(step, scores)
        self.optimizer.learning_rate = rate
        return rate

    def follow(self, step):
        """Moves the average after step number `step`, from 1."""
        if self.average:
            self.average.update(step)

    def averaged(self):
        """Returns a context in which the model has the weights to be judged by."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def predict(self, inputs, targets):
        """Returns what the objective makes pictures of, see `Segmentation.panels`."""
        return self.model(inputs, training=False)

    def save_model(self, path):
        """Writes the model, of its logits those at full resolution only, whole or not at all."""
        model = self.model
        if isinstance(getattr(model, "output", None), dict):  # a network that is no graph has none
            kept = {
                name: model.output[name]
                for name in ("logits", "case_logits")
                if name in model.output
            }
            kept = kept if len(kept) > 1 else full_resolution(model.output)
            model = keras.Model(model.input, kept, name=model.name)
        save_model(model, path)


def build_learner(train, strategy, build, *, resume=False):
    """Builds model, loss, optimizer and average.

    Args:
        train: A `segkit.config.TrainConfig`.
        strategy: From `make_strategy`.
        build: Function without arguments that returns `(model, loss)`; called in the scope.
        resume: Do not look for `train.initial_weights`: a checkpoint will set all weights.

    Returns:
        A `Learner`.

    Raises:
        ConfigError: The batch does not divide by the replicas and accumulation steps, or XLA
            cannot compile the whole step there.
    """
    check_replicas(train, strategy)
    schedule = build_schedule(train)
    weights = None if resume or not train.initial_weights else read_weights(train.initial_weights)
    rate = build_rate(train.averaging, train.steps_per_epoch) if train.averaging else None
    with dtype_policy(train.precision), strategy.scope():
        keras.utils.set_random_seed(train.seed)
        model, loss = build()
        transferred = transfer(model, weights, train.initial_layers) if weights else None
        optimizer = build_optimizer(train)
        optimizer.build(model.trainable_variables)
    average = Average(strategy, model.weights, rate) if rate else None
    rates = build_layer_rates(model, train)
    return Learner(model, loss, optimizer, schedule, average, rates, transferred)


def distribute(strategy, batch_size, make_dataset):
    """Returns a data set whose elements are shares of a global batch, one per replica.

    Args:
        strategy: From `make_strategy`.
        batch_size: Size of the global batch.
        make_dataset: Function `part -> tf.data.Dataset` of the batches of one worker, where
            `part` is (its number, number of workers).
    """
    replicas = strategy.num_replicas_in_sync
    share = batch_size // replicas

    def of_worker(context):
        workers = context.num_input_pipelines
        batches = make_dataset((context.input_pipeline_id, workers))
        count = int(batches.cardinality())
        shares = count * (replicas // workers) if count > 0 else count
        # Where the number is known, no worker has to ask the others whether they are at the end.
        certain = tf.data.experimental.assert_cardinality(shares)
        return batches.rebatch(share, drop_remainder=True).apply(certain)

    return strategy.distribute_datasets_from_function(of_worker)


def check_replicas(train, strategy):
    """Refuses settings that do not go with the number of replicas; see `build_learner`."""
    replicas = strategy.num_replicas_in_sync
    _check_batch(train.batch_size, replicas, train.accumulation_steps)
    if train.xla == "step" and replicas > 1 and not tf.config.list_logical_devices("GPU"):
        raise ConfigError(
            f"train.xla=step compiles the reduction over {replicas} replicas, which TensorFlow can "
            "do on GPUs only. Set train.xla=on."
        )


def _check_batch(batch_size, replicas, accumulation_steps):
    parts = replicas * accumulation_steps
    if batch_size % parts:
        below = batch_size - batch_size % parts
        steps = f" of {accumulation_steps} accumulation steps" if accumulation_steps > 1 else ""
        raise ConfigError(
            f"train.batch_size {batch_size} does not divide by {replicas} replicas{steps}. "
            f"Use {below or parts} or {below + parts}."
        )


def use_xla(setting):
    """Returns whether to compile with XLA, or `"step"`, for a setting of `train.xla`."""
    return bool(tf.config.list_logical_devices("GPU")) if setting == "auto" else setting
