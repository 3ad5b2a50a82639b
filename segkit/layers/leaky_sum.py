"""LeakyReLU of a sum, written so that TensorFlow computes it rightly on CPUs."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class LeakySum(keras.layers.Layer):
    """LeakyReLU that may follow the sum of a convolution with bias and something else.

    TensorFlow 2.20 with oneDNN, its default on x86 CPUs, fuses convolution, bias, sum and LeakyReLU
    of a graph to one operation that has a slope of 0.2 whatever was asked for. A choice between two
    values is not fused.
    """

    def __init__(self, slope, **kwargs):
        """Takes the slope below 0."""
        super().__init__(**kwargs)
        self.slope = slope

    def call(self, inputs):
        """Returns the inputs, times the slope where they are below 0."""
        return ops.where(inputs > 0, inputs, self.slope * inputs)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self):
        """Returns the slope beside what every layer has."""
        return {**super().get_config(), "slope": self.slope}
