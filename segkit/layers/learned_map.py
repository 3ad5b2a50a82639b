"""A feature map that is the same for every example, and learned."""

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
        """Creates the map."""
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.map = self.add_weight(self.shape, normal, name="map")

    def call(self, inputs):
        """Returns the map for each example of `inputs` `(batch, ...)`."""
        batch = ops.shape(inputs)[0]
        return ops.broadcast_to(self.map, (batch, *self.shape))

    def compute_output_shape(self, input_shape):
        """Returns the shape of the map, with the batch before it."""
        return (input_shape[0], *self.shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "shape": self.shape}
