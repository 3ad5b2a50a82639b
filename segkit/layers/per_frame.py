"""A layer of single images, applied to every frame of a sequence."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class PerFrame(keras.layers.Wrapper):
    """Applies a layer to each frame of a sequence by itself, with the same weights.

    `(batch, length, ...)` becomes `(batch * length, ...)` for the layer and is turned back, so all
    frames go through it at once, where `keras.layers.TimeDistributed` maps it over the frames.

    Not for layers that tell examples apart or mix them, such as dropout or batch normalization:
    the examples that they see are frames.

    Args:
        layer: `keras.layers.Layer` from `(batch, ...)` to `(batch, ...)`.
    """

    def build(self, input_shape):
        """Builds the layer for single frames."""
        super().build((input_shape[0], *input_shape[2:]))

    def call(self, inputs):
        """Returns the layer's results, `(batch, length, ...)`."""
        length = ops.shape(inputs)[1]
        frames = self.layer(ops.reshape(inputs, (-1, *ops.shape(inputs)[2:])))
        return ops.reshape(frames, (-1, length, *ops.shape(frames)[1:]))

    def compute_output_shape(self, input_shape):
        """Returns the layer's output shape with the length put back."""
        shape = self.layer.compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *shape[1:])
