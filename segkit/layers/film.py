"""Feature-wise linear modulation: what is known of a case scales and shifts feature maps."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class FiLM(keras.layers.Layer):
    """Scales and shifts each channel of a feature map by linear functions of a vector.

        y = (1 + gamma) * x + beta      (gamma, beta) = vector * kernel + bias

    Reference:
        Perez et al., "FiLM", AAAI 2018, arXiv:1709.07871, equation 2, where `1 + gamma` is
        called gamma.
    """

    kernel_input = 1  # of the two inputs, for the count of multiply-adds

    def build(self, input_shape):
        """Creates `kernel` and `bias`, which give `gamma` and `beta` of all channels."""
        features, vector = input_shape
        channels = features[-1]
        shape = (vector[-1], 2 * channels)
        self.kernel = self.add_weight(shape, "glorot_uniform", name="kernel")
        self.bias = self.add_weight((2 * channels,), "zeros", name="bias")

    def call(self, inputs):
        """Returns the modulated features.

        Args:
            inputs: List of features `(batch, *spatial, channels)` and a vector `(batch, width)`.
        """
        features, vector = inputs
        both = ops.matmul(vector, self.kernel) + self.bias
        shape = (-1, *(1 for _ in features.shape[1:-1]), 2 * features.shape[-1])
        gamma, beta = ops.split(ops.reshape(both, shape), 2, axis=-1)
        return (1 + gamma) * features + beta

    def compute_output_shape(self, input_shape):
        """Returns the shape of the features."""
        return input_shape[0]
