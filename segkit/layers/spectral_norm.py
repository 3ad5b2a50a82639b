"""Convolution and matrix product whose kernel has a largest singular value of 1."""

import keras
from keras import ops

from segkit.layers.step_context import current_step

EPSILON = 1e-12


class _SpectralLayer(keras.layers.Layer):
    """Kernel, bias and the vector of the power iteration; see `SpectralConvolution`."""

    def __init__(self, filters, use_bias=True, iterations=1, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.use_bias = use_bias
        self.iterations = iterations

    def _create(self, kernel_shape):
        initializer = "glorot_uniform"
        # Singular values in float32, also under mixed precision.
        self.kernel = self.add_weight(kernel_shape, initializer, name="kernel", autocast=False)
        if self.use_bias:
            self.bias = self.add_weight((self.filters,), "zeros", name="bias")
        self.left = self.add_weight(
            (1, self.filters),
            keras.initializers.RandomNormal(),
            name="left",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def normalized_kernel(self, training=False):
        """Returns the kernel over its largest singular value, in the compute dtype."""
        matrix = ops.reshape(self.kernel, (-1, self.filters))
        fixed = ops.stop_gradient(matrix)
        left = ops.convert_to_tensor(self.left)
        for _ in range(self.iterations):
            right = _unit(ops.matmul(left, ops.transpose(fixed)))
            left = _unit(ops.matmul(right, fixed))
        if training:
            self._move(left)
        value = ops.sum(ops.matmul(right, matrix) * left)
        return ops.cast(self.kernel / value, self.compute_dtype)

    def _move(self, left):
        """Keeps the vector for the next step: in the step, if there is one, which assigns it."""
        context = current_step()
        if context is None:
            self.left.assign(left)
        else:
            context.updates[self.left.path] = left

    def _add_bias(self, outputs):
        return outputs + self.bias if self.use_bias else outputs

    def get_config(self):
        """Returns the constructor's arguments."""
        options = ("filters", "use_bias", "iterations")
        return {**super().get_config(), **{name: getattr(self, name) for name in options}}


@keras.saving.register_keras_serializable(package="segkit")
class SpectralConvolution(_SpectralLayer):
    """Convolves in 2-D or 3-D, "same" padding, with a kernel over its largest singular value.

    The kernel is taken as a matrix `W` `(positions and channels, filters)`. From a vector `left`
    that is kept from step to step, power iteration finds

        right = W left / |W left|      left = W' right / |W' right|      sigma = right' W left

    and the kernel that is applied is `W / sigma`. The two vectors are constants for the gradient,
    `sigma` is not. Where all calls of a step have one kernel, as for real and made images, they
    have one `sigma`: `left` moves once per optimizer step, by `step_context().updates`, and is the
    same on every replica. Inference computes `sigma` alike and keeps nothing. In float32.

    Keras' own layer assigns in its call, once for each call, and writes over the kernel.

    Reference:
        Miyato et al., "Spectral Normalization", ICLR 2018, arXiv:1802.05957, algorithm 1.
    """

    def __init__(self, filters, kernel_size, strides=1, use_bias=True, iterations=1, **kwargs):
        """Makes the layer.

        Args:
            filters: Number of filters.
            kernel_size: One number per spatial axis.
            strides: One number for all axes, or one per axis.
            use_bias: Whether to add a bias.
            iterations: Steps of the power iteration in each call.
            **kwargs: As for every layer.
        """
        super().__init__(filters, use_bias, iterations, **kwargs)
        self.kernel_size = tuple(kernel_size)
        rank = len(self.kernel_size)
        self.strides = (strides,) * rank if isinstance(strides, int) else tuple(strides)

    def build(self, input_shape):
        """Creates `kernel` `(*kernel_size, channels, filters)`, `bias` and `left`."""
        self._create((*self.kernel_size, input_shape[-1], self.filters))

    def call(self, inputs, training=False):
        """Returns the convolution of `inputs` `(batch, *spatial, channels)`."""
        kernel = self.normalized_kernel(training)
        return self._add_bias(ops.conv(inputs, kernel, self.strides, "same"))

    def compute_output_shape(self, input_shape):
        """Returns the shape with each known side over its stride, rounded up."""
        batch, *sides, _ = input_shape
        sides = [n and -(-n // s) for n, s in zip(sides, self.strides, strict=True)]
        return (batch, *sides, self.filters)

    def get_config(self):
        """Returns the constructor's arguments."""
        options = {"kernel_size": self.kernel_size, "strides": self.strides}
        return {**super().get_config(), **options}


@keras.saving.register_keras_serializable(package="segkit")
class SpectralDense(_SpectralLayer):
    """Multiplies by a matrix over its largest singular value, see `SpectralConvolution`.

    Args:
        filters: Number of results.
        use_bias: Whether to add a bias.
        iterations: Steps of the power iteration in each call.
    """

    def build(self, input_shape):
        """Creates `kernel` `(channels, filters)`, `bias` and `left`."""
        self._create((input_shape[-1], self.filters))

    def call(self, inputs, training=False):
        """Returns the product of `inputs` `(batch, channels)`."""
        return self._add_bias(ops.matmul(inputs, self.normalized_kernel(training)))

    def compute_output_shape(self, input_shape):
        """Returns the shape with the number of results."""
        return (*input_shape[:-1], self.filters)


def _unit(vector):
    return vector * ops.rsqrt(ops.sum(ops.square(vector)) + EPSILON)
