"""Convolutional LSTM: a memory per pixel that runs along a sequence of feature maps."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class ConvLSTM(keras.layers.Layer):
    """Runs a convolutional LSTM along axis 1 and returns the hidden state of every frame.

    With `*` a convolution with "same" padding, `s` the sigmoid and products per element:

        i, f, o = s(W_i * x_t + U_i * h_{t-1} + b_i), s(...), s(...)
        c_t = f c_{t-1} + i tanh(W_c * x_t + U_c * h_{t-1} + b_c)
        h_t = o tanh(c_t)

    starting from `h = c = 0`. The sequence may have any length and the frames any size, also when
    they are not known in advance. Gates and cell are computed in float32 whatever the compute
    dtype, because a bfloat16 cell forgets what it adds up in small steps.

    Beside `keras.layers.ConvLSTM2D` the convolutions of the inputs run over all frames at once and
    the four gates share one convolution; frames need no fixed size, and there is no seed among the
    weights. The weights have Keras' shapes, order and initial values.

    Input has shape `(batch, length, height, width, channels)`, output `(batch, length, height,
    width, filters)` in the compute dtype.

    Args:
        filters: Channels of the states and of the output.
        kernel_size: Side of the kernels, of inputs and of states.
        reverse: Run from the last frame to the first; the output stays in the order of the input.

    Reference:
        Shi et al., "Convolutional LSTM Network", NeurIPS 2015, arXiv:1506.04214, equation 3,
        there with peepholes `W_ci c` and so on, which have a weight per pixel and thereby fix the
        size of the image; left out as in Keras. The forget gate starts with a bias of 1
        (Jozefowicz et al., ICML 2015).
    """

    def __init__(self, filters, kernel_size=3, reverse=False, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.reverse = reverse

    def build(self, input_shape):
        """Creates the kernels of inputs and states, gates in the order i, f, c, o, and the bias."""
        sides, gates = (self.kernel_size, self.kernel_size), 4 * self.filters
        self.kernel = self.add_weight(
            (*sides, input_shape[-1], gates), "glorot_uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            (*sides, self.filters, gates), "orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight((gates,), self._forget_nothing, name="bias", autocast=False)

    def call(self, inputs):
        """Returns the hidden states of `inputs`."""
        shape = ops.shape(inputs)
        frames = ops.reshape(inputs, (-1, *shape[2:]))
        drive = ops.conv(frames, self.kernel, padding="same")
        drive = ops.reshape(drive, (-1, *shape[1:4], 4 * self.filters))
        drive = ops.transpose(drive, (1, 0, 2, 3, 4))
        state = ops.zeros((shape[0], *shape[2:4], self.filters), "float32")
        run = ops.scan if drive.shape[0] is None else _unrolled
        _, (hidden, _) = run(self._step, (state, state), drive, reverse=self.reverse)
        return ops.cast(ops.transpose(hidden, (1, 0, 2, 3, 4)), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """Returns `input_shape` with `filters` channels."""
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        """Returns the constructor's arguments."""
        own = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "reverse": self.reverse,
        }
        return {**super().get_config(), **own}

    def _step(self, states, drive):
        hidden, cell = states
        recurrent = ops.conv(
            ops.cast(hidden, self.compute_dtype), self.recurrent_kernel, padding="same"
        )
        gates = ops.cast(drive, "float32") + ops.cast(recurrent, "float32") + self.bias
        i, f, c, o = ops.split(gates, 4, axis=-1)
        cell = ops.sigmoid(f) * cell + ops.sigmoid(i) * ops.tanh(c)
        states = ops.sigmoid(o) * ops.tanh(cell), cell
        return states, states

    def _forget_nothing(self, shape, dtype):
        forget = ops.arange(shape[0]) // self.filters == 1
        return ops.cast(forget, dtype)


def _unrolled(step, states, drive, reverse):
    """As `ops.scan`, the gradient of which XLA cannot compile with TensorFlow."""
    frames, results = ops.unstack(drive), []
    for frame in frames[::-1] if reverse else frames:
        states, result = step(states, frame)
        results.append(result)
    hidden, cell = zip(*(results[::-1] if reverse else results), strict=True)
    return states, (ops.stack(hidden), ops.stack(cell))
