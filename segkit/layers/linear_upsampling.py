"""Linear interpolation to a finer grid, in 2-D and 3-D."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class LinearUpsampling(keras.layers.Layer):
    """Upsamples each axis by a whole factor, linearly (bilinear, trilinear).

    Voxel `f * i + k` of the result lies at `i + (k + 0.5) / f - 0.5` of the input: centres are
    half-pixel centres, as in Keras' bilinear `UpSampling2D`. Outside of the image the outermost
    voxels go on. Keras has no such layer in 3-D.

    Args:
        factors: One integer per spatial axis.
    """

    def __init__(self, factors, **kwargs):
        super().__init__(**kwargs)
        self.factors = tuple(factors)

    def call(self, inputs):
        """Returns `inputs` `(batch, *spatial, channels)` with each side times its factor."""
        for axis, factor in enumerate(self.factors, start=1):
            inputs = _upsample(inputs, axis, factor)
        return inputs

    def compute_output_shape(self, input_shape):
        """Returns the shape with each known side times its factor."""
        batch, *sides, channels = input_shape
        sides = [s and s * f for s, f in zip(sides, self.factors, strict=True)]
        return (batch, *sides, channels)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "factors": self.factors}


def _upsample(x, axis, factor):
    if factor == 1:
        return x
    size = ops.shape(x)[axis]
    whole = [slice(None)] * len(x.shape)
    first, last = ([*whole] for _ in range(2))
    first[axis], last[axis] = slice(0, 1), slice(size - 1, size)
    up_to, from_on = ([*whole] for _ in range(2))
    up_to[axis], from_on[axis] = slice(0, size - 1), slice(1, size)
    before = ops.concatenate([x[tuple(first)], x[tuple(up_to)]], axis)
    after = ops.concatenate([x[tuple(from_on)], x[tuple(last)]], axis)
    parts = []
    for k in range(factor):
        offset = (k + 0.5) / factor - 0.5
        neighbour = before if offset < 0 else after
        parts.append((1 - abs(offset)) * x + abs(offset) * neighbour)
    shape = list(ops.shape(x))
    shape[axis] = size * factor
    return ops.reshape(ops.stack(parts, axis + 1), shape)
