"""Modality dropout: whole modalities of an image that are left out at random."""

import keras
import numpy as np
from keras import ops

from segkit.layers.modality_presence import present
from segkit.layers.per_example import uniform


@keras.saving.register_keras_serializable(package="segkit")
class ModalityDropout(keras.layers.Layer):
    """Sets whole modalities of an example to 0 in training, as a missing one is; never all.

    Each modality draws a number in [0, 1) and is dropped where that is below `rate`, but of those
    that the example has the one with the largest number stays. Nothing is scaled up: what weighs
    the modalities must know which are there (`ModalityPresence`). Drawn for each example by
    itself, as in `Dropout`.

    Args:
        rate: Probability of dropping a modality, in [0, 1).
        modalities: Number of channels of each modality, in the order of the channels.

    Reference:
        Neverova et al., "ModDrop", TPAMI 38, 2016, arXiv:1501.00102; there all may be
        dropped at once.
    """

    def __init__(self, rate, modalities, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.modalities = list(modalities)
        self.seed_generator = keras.random.SeedGenerator() if rate else None

    def call(self, inputs, training=False):
        """Returns `inputs` `(batch, *spatial, channels)` with some modalities set to 0."""
        if not training or not self.rate:
            return inputs
        count = len(self.modalities)
        numbers = uniform(self.name, self.seed_generator, ops.shape(inputs)[0], (count,))
        there = ops.cast(present(inputs, self.modalities), "float32")
        ranks = numbers + there
        last = ops.equal(ranks, ops.max(ranks, axis=-1, keepdims=True))
        kept = ops.logical_or(numbers >= self.rate, last)
        kept = ops.take(kept, np.repeat(np.arange(count), self.modalities), axis=1)
        kept = ops.reshape(kept, (-1, *(1 for _ in inputs.shape[1:-1]), inputs.shape[-1]))
        return ops.where(kept, inputs, ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        """Returns `input_shape`."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "modalities": self.modalities}
