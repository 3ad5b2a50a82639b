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
    """An average of floating-point weights.

    Attributes:
        variables: List of `tf.Variable`, in the order of the weights.
    """

    def __init__(self, strategy, weights, rate):
        """Starts at the weights.

        Args:
            strategy: The strategy in whose scope the weights were made.
            weights: Keras variables; those of other types than floats are left out.
            rate: Function of the number of steps done, in [0, 1].
        """
        self._rate, self._strategy = rate, strategy
        self._weights = [w for w in weights if tf.as_dtype(w.dtype).is_floating]
        with strategy.scope():
            self.variables = [tf.Variable(w.value, trainable=False) for w in self._weights]
        self._move = tf.function(self._moved, autograph=False)

    def update(self, step):
        """Moves the average after optimizer step number `step`, from 1."""
        rate = self._rate(step)
        if rate:
            self._move(tf.constant(rate, tf.float32))

    @contextlib.contextmanager
    def applied(self):
        """Puts the average in the place of the weights for a while."""
        kept = [w.numpy() for w in self._weights]
        self._set([average.numpy() for average in self.variables])
        try:
            yield
        finally:
            self._set(kept)

    def _set(self, values):
        for weight, value in zip(self._weights, values, strict=True):
            weight.assign(value)

    def _moved(self, rate):
        def towards(average, weight):
            average.assign_add(tf.cast(rate, average.dtype) * (weight - average))

        for average, weight in zip(self.variables, self._weights, strict=True):
            self._strategy.extended.update(average, towards, args=(weight.value,))
