"""Which modalities of an image are there: a missing one is 0 in all its channels and voxels."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class ModalityPresence(keras.layers.Layer):
    """Gives 1 for each modality that has a voxel other than 0, and 0 for the others.

    Args:
        modalities: Number of channels of each modality, in the order of the channels.
    """

    def __init__(self, modalities, **kwargs):
        super().__init__(**kwargs)
        self.modalities = list(modalities)

    def call(self, inputs):
        """Returns `(batch, modalities)` for an image `(batch, *spatial, channels)`."""
        return ops.cast(present(inputs, self.modalities), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Returns `(batch, modalities)`."""
        return input_shape[0], len(self.modalities)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "modalities": self.modalities}


def present(image, modalities):
    """Returns whether each modality is there, bool `(batch, modalities)`.

    Args:
        image: Shape `(batch, *spatial, channels)`.
        modalities: Number of channels of each modality.
    """
    channels = ops.any(ops.not_equal(image, 0), axis=tuple(range(1, len(image.shape) - 1)))
    stops = [sum(modalities[: n + 1]) for n in range(len(modalities))]
    parts = [
        channels[:, stop - count : stop] for stop, count in zip(stops, modalities, strict=True)
    ]
    return ops.stack([ops.any(part, axis=-1) for part in parts], axis=-1)
