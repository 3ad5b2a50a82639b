"""Convolution whose kernel is scaled for each example by a style."""

import keras
from keras import ops

EPSILON = 1e-8


@keras.saving.register_keras_serializable(package="segkit")
class ModulatedConvolution(keras.layers.Layer):
    """Convolves each example with a kernel of its own, in 2-D or 3-D, "same" padding.

    For an example with style `s`, one number per channel `i` of the input, offset `o` and filter
    `j`:

        w'[o, i, j] = s[i] * w[o, i, j]
        w"[o, i, j] = w'[o, i, j] / sqrt(sum over o and i of w'[o, i, j]^2 + 1e-8)

    and `y = x * w" + b`; without `demodulate`, `w'` in place of `w"`. Computed as one convolution
    of all examples, with the channels scaled before it and the filters after it, which is the
    same. The divisor is computed in float32.

    Args:
        filters: Number of filters.
        kernel_size: One odd number per spatial axis.
        demodulate: Whether to divide.

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020,
        arXiv:1912.04958, equations 1 and 3.
    """

    def __init__(self, filters, kernel_size, demodulate=True, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.demodulate = demodulate

    def build(self, input_shape):
        """Creates `kernel` `(*kernel_size, channels, filters)` and `bias`."""
        features, _ = input_shape
        shape = (*self.kernel_size, features[-1], self.filters)
        self.kernel = self.add_weight(shape, "he_normal", name="kernel", autocast=False)
        self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, inputs):
        """Returns the convolution.

        Args:
            inputs: List of features `(batch, *spatial, channels)` and styles `(batch, channels)`.
        """
        features, style = inputs
        scaled = features * _over_voxels(style, features)
        found = ops.conv(scaled, ops.cast(self.kernel, features.dtype), padding="same")
        if self.demodulate:
            power = ops.sum(ops.square(self.kernel), axis=tuple(range(len(self.kernel_size))))
            norm = ops.matmul(ops.square(ops.cast(style, "float32")), power)
            divisor = ops.cast(ops.rsqrt(norm + EPSILON), features.dtype)
            found = found * _over_voxels(divisor, features)
        return found + self.bias

    def compute_output_shape(self, input_shape):
        """Returns the shape of the features, with one channel per filter."""
        return (*input_shape[0][:-1], self.filters)

    def get_config(self):
        """Returns the constructor's arguments."""
        options = ("filters", "kernel_size", "demodulate")
        return {**super().get_config(), **{name: getattr(self, name) for name in options}}


def _over_voxels(vector, features):
    ones = (1 for _ in features.shape[1:-1])
    return ops.reshape(vector, (-1, *ones, vector.shape[-1]))
