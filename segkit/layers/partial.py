"""Convolution of an image with holes, which counts known voxels only."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class PartialConvolution(keras.layers.Layer):
    """Convolves the known voxels of a window, scaled up for those that are not known.

        y = W (x * known) * (voxels of the window / known voxels in it) + b
        known' = 1

    where the window holds a known voxel, and `y = 0`, `known' = 0` elsewhere. In 2-D or 3-D; the
    zeros of the "same" padding count as not known.

    Input and output are lists of features `(batch, *spatial, channels)` and what is known of them,
    `(batch, *spatial, 1)`, 1 or 0.

    Args:
        filters: Number of filters.
        kernel_size: One number per spatial axis.
        strides: One number for all axes, or one per axis.
        use_bias: Whether to add a bias.

    Reference:
        Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", ECCV 2018,
        arXiv:1804.07723, equations 1 and 2.
    """

    def __init__(self, filters, kernel_size, strides=1, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        rank = len(self.kernel_size)
        self.strides = (strides,) * rank if isinstance(strides, int) else tuple(strides)
        self.use_bias = use_bias

    def build(self, input_shape):
        """Creates `kernel` `(*kernel_size, channels, filters)` and `bias`."""
        features, _ = input_shape
        shape = (*self.kernel_size, features[-1], self.filters)
        self.kernel = self.add_weight(shape, "he_normal", name="kernel")
        if self.use_bias:
            self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, inputs):
        """Returns features and what is known of them."""
        features, known = inputs
        # In float32: TensorFlow 2.21 convolves volumes of one channel and one slice wrongly in
        # bfloat16 on CPUs.
        window = ops.ones((*self.kernel_size, 1, 1), "float32")
        count = ops.conv(ops.cast(known, "float32"), window, self.strides, "same")
        seen = ops.cast(count > 0.5, features.dtype)
        scale = math.prod(self.kernel_size) / ops.maximum(count, 1.0)
        found = ops.conv(features * known, self.kernel, self.strides, "same")
        found = found * (ops.cast(scale, features.dtype) * seen)
        if self.use_bias:
            found = found + self.bias * seen
        return [found, seen]

    def compute_output_shape(self, input_shape):
        """Returns the shapes of features and of what is known."""
        batch, *sides, _ = input_shape[0]
        sides = [n and -(-n // s) for n, s in zip(sides, self.strides, strict=True)]
        return [(batch, *sides, self.filters), (batch, *sides, 1)]

    def get_config(self):
        """Returns the constructor's arguments."""
        options = ("filters", "kernel_size", "strides", "use_bias")
        return {**super().get_config(), **{name: getattr(self, name) for name in options}}
