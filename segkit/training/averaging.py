"""Averages of the weights over training, which often do better than the last weights.

An average moves towards the weights after each step, `average += rate * (weights - average)`;
the kinds of average differ in their rates alone. Running statistics of batch normalization are
averaged with the weights.
"""

import contextlib

import tensorflow as tf

from segkit.tables import load
from segkit.tables import named_options
from segkit.training import AVERAGES

WHAT = "train.averaging"


def ema(step, steps_per_epoch, *, decay: float = 0.999):
    """Returns the rate of an exponential moving average.

    Args:
        step: Optimizer steps done, from 1.
        steps_per_epoch: Optimizer steps per epoch.
        decay: Share of the average that a step keeps. Less in the first steps,
            `(1 + step) / (10 + step)`, so that initial weights are soon forgotten.

    Reference:
        Polyak and Juditsky, 1992, doi:10.1137/0330046; the start as in
        `tf.train.ExponentialMovingAverage`.
    """
    return max(1 - decay, 9 / (10 + step))


def swa(step, steps_per_epoch, *, start_epoch: int):
    """Returns the rate of stochastic weight averaging: the plain mean over ends of epochs.

    Args:
        step: Optimizer steps done, from 1.
        steps_per_epoch: Optimizer steps per epoch.
        start_epoch: The first epoch whose end counts, from 1; until then the average is the
            weights. Combine it with a schedule that stays high, `constant` or `triangular`.

    Reference:
        Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018, arXiv:1803.05407,
        algorithm 1. There running statistics are computed anew from the training data; here they
        are averaged.
    """
    epoch, within = divmod(step, steps_per_epoch)
    return 0.0 if within else 1 / max(1, epoch - start_epoch + 1)


def build_rate(averaging, steps_per_epoch):
    """Returns the rates of an average that a config describes.

    Args:
        averaging: Name in `segkit.training.AVERAGES`, or a mapping of `name` and options.
        steps_per_epoch: Optimizer steps per epoch.

    Returns:
        Function of the number of steps done, in [0, 1].

    Raises:
        ConfigError: Unknown name or option, or a value of the wrong type.
    """
    name, options = named_options(averaging, WHAT, AVERAGES)
    rate = load(AVERAGES, name, WHAT)
    return lambda step: rate(step, steps_per_epoch, **options)


class Average:
    """An average of all floating-point weights of a model.

    Attributes:
        variables: Dict name -> `tf.Variable`, float32: what a checkpoint keeps.
    """

    def __init__(self, strategy, model, rate):
        """Starts at the weights of the model.

        Args:
            strategy: The strategy in whose scope the model was built.
            model: `keras.Model`.
            rate: Function of the number of steps done, in [0, 1].
        """
        self._rate, self._strategy = rate, strategy
        self._weights = [w for w in model.weights if tf.as_dtype(w.dtype).is_floating]
        with strategy.scope():
            averages = [tf.Variable(w.value, trainable=False) for w in self._weights]
        self.variables = {f"{n:04d}/{w.path}": a for n, (w, a) in enumerate(self._pairs(averages))}
        self._averages = averages
        self._move = tf.function(self._moved, autograph=False)

    def update(self, step):
        """Moves the average after optimizer step number `step`, from 1."""
        rate = self._rate(step)
        if rate:
            self._move(tf.constant(rate, tf.float32))

    @contextlib.contextmanager
    def applied(self):
        """Puts the average in the place of the model's weights for a while."""
        kept = [w.numpy() for w in self._weights]
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.assign(average.numpy())
        try:
            yield
        finally:
            for weight, value in zip(self._weights, kept, strict=True):
                weight.assign(value)

    def _pairs(self, averages):
        return list(zip(self._weights, averages, strict=True))

    def _moved(self, rate):
        for weight, average in self._pairs(self._averages):
            self._strategy.extended.update(
                average,
                lambda a, w: a.assign_add(rate * (tf.cast(w, a.dtype) - a)),
                args=(weight.value,),
            )
