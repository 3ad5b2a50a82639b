"""Stochastic depth: residual branches that are left out at random."""

import keras
from keras import ops

from segkit.layers.per_example import uniform


@keras.saving.register_keras_serializable(package="segkit")
class StochasticDepth(keras.layers.Layer):
    """Sets whole examples of a residual branch to 0 in training, and scales up the others.

    `x + StochasticDepth(rate)(branch(x))`. Drawn for each example by itself, as in `Dropout`.

    Args:
        rate: Probability of leaving the branch out, in [0, 1).

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv:1603.09382,
        equation 2, per example instead of per batch and scaled in training instead of afterwards
        (equation 5).
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator() if rate else None

    def call(self, inputs, training=False):
        """Returns `inputs` `(batch, ...)` with some examples set to 0."""
        if not training or not self.rate:
            return inputs
        single = (1,) * (len(inputs.shape) - 1)
        numbers = uniform(self.name, self.seed_generator, ops.shape(inputs)[0], single)
        return inputs * ops.cast(numbers >= self.rate, inputs.dtype) / (1.0 - self.rate)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate}
