"""Instance normalization of 2-D and 3-D feature maps."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class InstanceNormalization(keras.layers.Layer):
    """Gives each channel of each example zero mean and unit variance over its voxels.

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    The variance is the biased one. Nothing is shared between examples, so the result depends
    neither on the batch size nor on the number of replicas, and training and inference agree.
    A channel that is constant, and any channel of a map of one voxel, becomes `beta`.
    Statistics are computed in float32 in two passes whatever the input dtype: a float16 sum
    overflows at 65504, and the one-pass variance loses all digits far from zero.

    Input and output have shape `(batch, *spatial, channels)`; the output has the compute dtype.

    Reference:
        Ulyanov et al., "Instance Normalization", 2016, arXiv:1607.08022, equation 2, there
        without `gamma` and `beta`.
    """

    def __init__(self, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        """Creates `gamma` and `beta`, float32 also under mixed precision."""
        shape = (input_shape[-1],)
        self.gamma = self.add_weight(shape, "ones", name="gamma", autocast=False)
        self.beta = self.add_weight(shape, "zeros", name="beta", autocast=False)

    def call(self, inputs):
        """Returns the normalized `inputs`."""
        spatial = tuple(range(1, len(inputs.shape) - 1))
        inputs = ops.cast(inputs, "float32")
        centred = inputs - ops.mean(inputs, spatial, keepdims=True)
        variance = ops.mean(ops.square(centred), spatial, keepdims=True)
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast(centred * scale + self.beta, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon}
