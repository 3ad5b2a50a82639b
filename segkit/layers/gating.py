"""The second half of a gated convolution: features that are let through by learned gates."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class Gating(keras.layers.Layer):
    """Halves the channels `(f, g)` of a convolution to `elu(f) * sigmoid(g)`.

    A convolution with twice as many filters and this layer are a gated convolution: in each voxel
    the network learns which of its channels to trust, as inside and outside of a hole.

    Reference:
        Yu et al., "Free-Form Image Inpainting with Gated Convolution", ICCV 2019,
        arXiv:1806.03589, equation 3; ELU as in section 3.5.
    """

    def call(self, inputs):
        """Returns `inputs` `(batch, *spatial, 2 * channels)` gated, `(batch, ..., channels)`."""
        features, gates = ops.split(inputs, 2, axis=-1)
        return ops.elu(features) * ops.sigmoid(gates)

    def compute_output_shape(self, input_shape):
        """Returns the shape with half of the channels."""
        return (*input_shape[:-1], input_shape[-1] // 2)
