"""Dropout of single activations or of whole feature maps, drawn for each example by itself."""

import keras
from keras import ops

from segkit.layers.per_example import uniform


@keras.saving.register_keras_serializable(package="segkit")
class Dropout(keras.layers.Layer):
    """Sets activations to 0 with probability `rate` in training, and scales up the others.

    What is dropped of an example does not depend on the rest of the batch: one, two or four
    replicas drop the same, and a resumed run what it would have dropped. Keras' own layer draws
    per replica.

    Args:
        rate: Share of the activations to drop, in [0, 1).
        spatial: Drop whole channels of an example instead of single activations.

    Reference:
        Srivastava et al., "Dropout", JMLR 15, 2014, section 4, scaled in training ("inverted")
        instead of afterwards. Whole channels: Tompson et al., "Efficient Object Localization
        Using Convolutional Networks", CVPR 2015, arXiv:1411.4280, section 3.2.
    """

    def __init__(self, rate, spatial=False, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.spatial = spatial
        self.seed_generator = keras.random.SeedGenerator() if rate else None

    def call(self, inputs, training=False):
        """Returns `inputs` `(batch, *spatial, channels)` with some activations dropped."""
        if not training or not self.rate:
            return inputs
        shape = inputs.shape[1:]
        drawn = (*(1 for _ in shape[:-1]), shape[-1]) if self.spatial else tuple(shape)
        numbers = uniform(self.name, self.seed_generator, ops.shape(inputs)[0], drawn)
        kept = ops.cast(numbers >= self.rate, inputs.dtype)
        return inputs * kept / (1.0 - self.rate)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "spatial": self.spatial}
