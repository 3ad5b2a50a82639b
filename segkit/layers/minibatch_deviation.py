"""How much the examples of a group differ, as one more channel: what a lack of variety lacks."""

import keras
from keras import ops

from segkit.errors import ShapeError

EPSILON = 1e-8


@keras.saving.register_keras_serializable(package="segkit")
class MinibatchDeviation(keras.layers.Layer):
    """Adds a channel that holds the mean deviation of the features over a group of examples.

        d = mean over voxels and channels of sqrt(variance over the group + 1e-8)

    with the biased variance, in float32. Groups are `group_size` consecutive examples, as in
    `BatchNormalization`, so the result is the same on any number of replicas as long as each part
    of the batch is whole groups.

    Args:
        group_size: Examples of a group, at least 2.

    Reference:
        Karras et al., "Progressive Growing of GANs", ICLR 2018, arXiv:1710.10196, section 3;
        groups: `minibatch_stddev_layer` of NVlabs/stylegan2, where they are not consecutive.
    """

    def __init__(self, group_size, **kwargs):
        super().__init__(**kwargs)
        self.group_size = group_size

    def call(self, inputs):
        """Returns `inputs` `(batch, *spatial, channels)` with one channel more.

        Raises:
            ShapeError: If the batch is not made of whole groups.
        """
        batch = inputs.shape[0]
        if batch is not None and batch % self.group_size:
            raise ShapeError(
                f"{self.name} compares groups of {self.group_size} examples, got {batch}. Each "
                "replica and accumulation step must see whole groups: change the batch size."
            )
        values = ops.cast(inputs, "float32")
        groups = ops.reshape(values, (-1, self.group_size, *ops.shape(inputs)[1:]))
        centred = groups - ops.mean(groups, axis=1, keepdims=True)
        deviation = ops.sqrt(ops.mean(ops.square(centred), axis=1, keepdims=True) + EPSILON)
        one = ops.mean(deviation, axis=tuple(range(2, len(groups.shape))), keepdims=True)
        added = ops.reshape(ops.zeros_like(groups[..., :1]) + one, (*ops.shape(inputs)[:-1], 1))
        return ops.concatenate([inputs, ops.cast(added, inputs.dtype)], axis=-1)

    def compute_output_shape(self, input_shape):
        """Returns the shape with one channel more."""
        return (*input_shape[:-1], input_shape[-1] + 1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "group_size": self.group_size}
