"""Batch normalization that does not depend on the number of replicas."""

import keras
from keras import ops

from segkit.errors import ShapeError
from segkit.layers.step_context import current_step


@keras.saving.register_keras_serializable(package="segkit")
class BatchNormalization(keras.layers.Layer):
    """Normalizes each channel over groups of examples in training, by running means otherwise.

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    In training mean and biased variance are those of `group_size` consecutive examples, not of
    whatever part of the batch a replica or an accumulation step holds; so the result is the same
    on one, two or four replicas as long as each part is whole groups. Running means move once
    per optimizer step, by the mean over all groups of the global batch (the running variance is
    that within groups). Statistics are computed in float32.

    Args:
        group_size: Examples that are normalized together.
        momentum: Share of the old value that a running mean keeps in each step.
        epsilon: Added to the variance.

    Reference:
        Ioffe and Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167, algorithm 1; over
        groups of fixed size: Hoffer et al., "Train longer, generalize better", NeurIPS 2017,
        arXiv:1705.08741, algorithm 1 ("ghost batch normalization").
    """

    def __init__(self, group_size=2, momentum=0.99, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.group_size = group_size
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape):
        """Creates scale, offset and running statistics, float32 also under mixed precision."""
        options = {"shape": (input_shape[-1],), "autocast": False}
        self.gamma = self.add_weight(initializer="ones", name="gamma", **options)
        self.beta = self.add_weight(initializer="zeros", name="beta", **options)
        running = {"trainable": False, "aggregation": "mean", **options}
        self.moving_mean = self.add_weight(initializer="zeros", name="moving_mean", **running)
        self.moving_variance = self.add_weight(
            initializer="ones", name="moving_variance", **running
        )

    def call(self, inputs, training=False):
        """Returns `inputs` `(batch, *spatial, channels)` normalized.

        Raises:
            ShapeError: In training, if the batch is not made of whole groups.
        """
        values = ops.cast(inputs, "float32")
        if not training:
            return self._normalized(values, self.moving_mean, self.moving_variance)
        grouped = self._grouped(values)
        axes = tuple(range(1, len(grouped.shape) - 1))
        mean = ops.mean(grouped, axes, keepdims=True)
        variance = ops.mean(ops.square(grouped - mean), axes, keepdims=True)
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, variance)
        return ops.reshape(self._normalized(grouped, mean, variance), ops.shape(inputs))

    def _grouped(self, values):
        """The batch as `(groups, group_size, *spatial, channels)`."""
        batch = values.shape[0]
        if batch is not None and batch % self.group_size:
            raise ShapeError(
                f"{self.name} normalizes groups of {self.group_size} examples, got {batch}. Each "
                "replica and accumulation step must see whole groups: change the batch size."
            )
        return ops.reshape(values, (-1, self.group_size, *ops.shape(values)[1:]))

    def _normalized(self, values, mean, variance):
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast((values - mean) * scale + self.beta, self.compute_dtype)

    def _move(self, variable, groups):
        """Moves a running mean towards the mean over groups, in the step if there is one."""
        found = ops.mean(groups, axis=tuple(range(len(groups.shape) - 1)))
        moved = variable * self.momentum + found * (1.0 - self.momentum)
        context = current_step()
        if context is None:
            variable.assign(moved)
        else:
            context.updates[variable.path] = moved

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        options = ("group_size", "momentum", "epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in options}}
