"""Bilinear interpolation as the initial kernel of a transposed convolution."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class Bilinear(keras.initializers.Initializer):
    """Makes a 2-D transposed convolution upsample each channel on its own, bilinearly.

    For kernel `2 * f`, stride `f` and "same" padding the result is bilinear interpolation by
    the factor `f` with half-pixel centres. Outside the image there are zeros, so the outermost
    `f / 2` pixels fade; this scales the logits of all classes alike and moves no decision.

    Reference:
        Long et al., "Fully Convolutional Networks", CVPR 2015, arXiv:1411.4038, section 3.3.
    """

    def __call__(self, shape, dtype=None):
        """Returns the kernel.

        Args:
            shape: `(height, width, out_channels, in_channels)`.
            dtype: Its dtype.
        """
        height, width, out_channels, in_channels = shape
        window = np.outer(_triangle(height), _triangle(width))
        kernel = window[:, :, None, None] * np.eye(out_channels, in_channels)
        return ops.convert_to_tensor(kernel, dtype=dtype or "float32")


def _triangle(size):
    factor = (size + 1) // 2
    centre = (size - 1) / 2
    return 1 - np.abs(np.arange(size) - centre) / factor
