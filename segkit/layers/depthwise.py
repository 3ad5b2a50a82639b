"""Depthwise convolution of 2-D and 3-D feature maps, and its transpose."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class DepthwiseConvolution(keras.layers.Layer):
    """Convolves each channel with a kernel of its own.

        y[v, c] = sum over offsets o of kernel[o, c] * x[s * v + o - k // 2, c] + bias[c]

    with stride `s`, kernel size `k` and zeros outside of the map. Voxel `v` of the result is
    centred at voxel `s * v` of the input, so a side `n` becomes `ceil(n / s)`.

    Keras has no depthwise convolution in 3-D, and a `Conv3D` with one group per channel is
    compiled by XLA on CPUs, which is over a hundred times slower. Here it is a sum of 2-D depthwise
    convolutions, one per slice of the kernel. TensorFlow computes the gradient of those with
    respect to the input by a kernel that is ten times slower than the convolution; here it is
    what it is in mathematics, the convolution of the gradient with the flipped kernel.
    A stride is taken by leaving out voxels of the result at stride 1.

    Args:
        kernel_size: One odd number per spatial axis.
        strides: One number per spatial axis; `None`: all 1.
        use_bias: Whether to add a bias.
        kernel_initializer: For the kernel, of shape `(*kernel_size, 1, channels)`.
    """

    def __init__(
        self,
        kernel_size,
        strides=None,
        *,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_size = tuple(kernel_size)
        self.strides = (1,) * len(self.kernel_size) if strides is None else tuple(strides)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        """Creates `kernel` `(*kernel_size, 1, channels)` and `bias` `(channels,)`."""
        channels = input_shape[-1]
        self.kernel = self.add_weight(
            (*self.kernel_size, 1, channels), self.kernel_initializer, name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight((channels,), "zeros", name="bias")

    def call(self, inputs):
        """Returns the convolution of `inputs` `(batch, *spatial, channels)`."""
        strided = (slice(None), *(slice(None, None, s) for s in self.strides))
        return self._add_bias(convolve(inputs, self.kernel)[strided])

    def _add_bias(self, outputs):
        return outputs + self.bias if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        """Returns the shape with each known side divided by its stride, rounded up."""
        batch, *sides, channels = input_shape
        sides = [n and -(-n // s) for n, s in zip(sides, self.strides, strict=True)]
        return (batch, *sides, channels)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="segkit")
class DepthwiseConvolutionTranspose(DepthwiseConvolution):
    """The transpose of `DepthwiseConvolution`: a side `n` becomes `s * n`.

        y[v, c] = sum over i, o with s * i + o - k // 2 = v of kernel[o, c] * x[i, c] + bias[c]

    Voxel `i` of the input is centred at voxel `s * i` of the result. It is computed as the
    convolution, with the flipped kernel, of `x` with `s - 1` zeros after each voxel.
    """

    def call(self, inputs):
        """Returns the transposed convolution of `inputs` `(batch, *spatial, channels)`."""
        flipped = flip(ops.convert_to_tensor(self.kernel))
        return self._add_bias(convolve(spread(inputs, self.strides), flipped))

    def compute_output_shape(self, input_shape):
        """Returns the shape with each known side times its stride."""
        batch, *sides, channels = input_shape
        sides = [n and n * s for n, s in zip(sides, self.strides, strict=True)]
        return (batch, *sides, channels)


def convolve(x, kernel):
    """Returns the depthwise convolution at stride 1 with zeros outside, differentiable in both.

    Args:
        x: Shape `(batch, *spatial, channels)`.
        kernel: Shape `(*kernel_size, 1, channels)`, odd sizes.
    """
    kernel = ops.convert_to_tensor(kernel)
    y = _convolve(ops.stop_gradient(x), kernel)
    return _with_gradient_of_input(y, x, ops.stop_gradient(kernel))


def spread(x, strides):
    """Returns `x` `(batch, *spatial, channels)` with `stride - 1` zeros after each voxel."""
    for axis, stride in enumerate(strides, start=1):
        shape = list(ops.shape(x))
        shape[axis] = shape[axis] * stride
        x = ops.stack([x] + [ops.zeros_like(x)] * (stride - 1), axis + 1)
        x = ops.reshape(x, shape)
    return x


def flip(kernel):
    """Returns a kernel `(*kernel_size, 1, channels)` reversed along all spatial axes."""
    return ops.flip(kernel, axis=tuple(range(len(kernel.shape) - 2)))


@ops.custom_gradient
def _with_gradient_of_input(y, x, kernel):
    """Returns `y`, which is the convolution of `x`, with its gradient with respect to `x`."""

    def gradient(upstream):
        return upstream, _convolve(upstream, flip(kernel)), ops.zeros_like(kernel)

    return y, gradient


def _convolve(x, kernel):
    kernel = ops.swapaxes(kernel, -1, -2)  # as depthwise_conv takes it
    if len(x.shape) == 4:
        return ops.depthwise_conv(x, kernel, padding="same")
    batch, depth, *plane = ops.shape(x)
    margin = kernel.shape[0] // 2
    padded = ops.pad(x, [(0, 0), (margin, margin), (0, 0), (0, 0), (0, 0)])
    taps = []
    for offset in range(kernel.shape[0]):
        slices = ops.reshape(padded[:, offset : offset + depth], (-1, *plane))
        taps.append(ops.depthwise_conv(slices, kernel[offset], padding="same"))
    return ops.reshape(sum(taps), (batch, depth, *plane))
