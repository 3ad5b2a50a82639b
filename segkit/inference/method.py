"""A method without learned weights as the first stage of a cascade."""

import numpy as np
import tensorflow as tf

from segkit.volume import CANONICAL
from segkit.volume import Volume


class Method(tf.Module):
    """Segments images by a method of `segkit.classical`, outside of TensorFlow graphs only.

    Attributes:
        orientation: Axis letters in which images are expected.
        num_channels: Channels of images.
    """

    def __init__(self, method, num_classes, options, num_channels):
        """Names a method.

        Args:
            method: Key of `segkit.classical.METHODS`.
            num_classes: Number of classes, background included.
            options: Its options.
            num_channels: Channels of images.
        """
        super().__init__(name="method")
        self.orientation, self.num_channels = CANONICAL, num_channels
        self._what = {"name": method, "num_classes": num_classes, **options}

    def segment(self, image, spacing_mm, on_tile=None):
        """Returns the classes of an image, as `Predictor.segment`; `on_tile` is not called."""
        from segkit.classical import segment

        # To nanometres: the spacing has passed through float32, the conversion's has not.
        spacing_mm = np.round(spacing_mm.numpy().astype(float), 6)
        affine = np.eye(4)[[2, 1, 0, 3]] @ np.diag([*spacing_mm, 1.0])
        found = segment(volume=Volume(image.numpy(), affine), **self._what)
        return tf.constant(found.array, tf.int32)
