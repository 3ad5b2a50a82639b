"""Noise that is added to feature maps, one number per voxel."""

import keras
from keras import ops

from segkit.layers.per_example import normal


@keras.saving.register_keras_serializable(package="segkit")
class PixelNoise(keras.layers.Layer):
    """Adds standard normal noise, the same for all channels, times a learned strength.

    Drawn in training and in inference: it is what an image has beside its content. Within a step
    the noise depends on the key of the example only, as in `Dropout`; elsewhere each call draws
    other noise from Keras' generator. The strength starts at 0.

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020,
        arXiv:1912.04958, figure 2c, where the strength is B.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape):
        """Creates `strength`, one number."""
        self.strength = self.add_weight((), "zeros", name="strength")

    def call(self, inputs):
        """Returns `inputs` `(batch, *spatial, channels)`, all sides known, with noise."""
        shape = (*inputs.shape[1:-1], 1)
        noise = normal(self.name, self.seed_generator, ops.shape(inputs)[0], shape)
        return inputs + self.strength * ops.cast(noise, inputs.dtype)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape
