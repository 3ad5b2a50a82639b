"""Instance normalization whose scale and offset are maps, such as those made from labels."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class SpadeNormalization(keras.layers.Layer):
    """Normalizes each channel of each example, then scales and shifts it voxel by voxel.

        y = (1 + gamma) * (x - mean) / sqrt(variance + epsilon) + beta

    Mean and biased variance are those of `InstanceNormalization`, in float32; `gamma` and `beta`
    are inputs, one value per voxel and channel.

    Args:
        epsilon: Added to the variance.

    Reference:
        Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019,
        arXiv:1903.07291, equation 1; there with the statistics of the batch, and `1 + gamma` is
        called gamma.
    """

    def __init__(self, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def call(self, inputs):
        """Returns the normalized features.

        Args:
            inputs: List of features `(batch, *spatial, channels)` and maps
                `(batch, *spatial, 2 * channels)`, `gamma` of all channels before `beta`.
        """
        features, maps = (ops.cast(tensor, "float32") for tensor in inputs)
        spatial = tuple(range(1, len(features.shape) - 1))
        centred = features - ops.mean(features, spatial, keepdims=True)
        variance = ops.mean(ops.square(centred), spatial, keepdims=True)
        gamma, beta = ops.split(maps, 2, axis=-1)
        found = (1.0 + gamma) * centred * ops.rsqrt(variance + self.epsilon) + beta
        return ops.cast(found, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the features."""
        return input_shape[0]

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}
