"""A feature map that is the same for every example, and learned."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class LearnedMap(keras.layers.Layer):
    """Gives one learned feature map for each example; the input says only how many there are.

    Args:
        shape: Shape of the map, `(*spatial, channels)`.

    Reference:
        Karras et al., "A Style-Based Generator Architecture for GANs", CVPR 2019,
        arXiv:1812.04948, section 2.
    """

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def build(self, input_shape):
        """Creates the values of the map, in one row."""
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.values = self.add_weight((math.prod(self.shape),), normal, name="values")

    def call(self, inputs):
        """Returns the map for each example of `inputs` `(batch, ...)`."""
        batch = ops.shape(inputs)[0]
        return ops.broadcast_to(ops.reshape(self.values, self.shape), (batch, *self.shape))

    def compute_output_shape(self, input_shape):
        """Returns the shape of the map, with the batch before it."""
        return (input_shape[0], *self.shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "shape": self.shape}
