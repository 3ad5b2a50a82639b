"""Mirrored margins around an image, and the crop that takes them off again."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="segkit")
class MirrorPadding(keras.layers.Layer):
    """Surrounds an image by what a mirror at its outermost voxels shows.

    The voxels at the border are not repeated: `1 2 3` becomes `3 2 1 2 3 2 1`. Where the margin is
    wider than the image, mirrors face each other and the image repeats.

    Each side is first raised to the next `offset + k * multiple`, `k >= 0`, and then grows by
    `2 * margin`. An odd voxel goes behind the image.

    Args:
        margin: Voxels before and after each axis.
        multiple: Step between sides that need no more than the margin.
        offset: Smallest of these sides.
    """

    def __init__(self, margin, multiple=1, offset=0, **kwargs):
        super().__init__(**kwargs)
        self.margin = margin
        self.multiple = multiple
        self.offset = offset

    def call(self, inputs):
        """Returns `inputs` `(batch, *spatial, channels)` with wider sides."""
        for axis in range(1, len(inputs.shape) - 1):
            inputs = ops.take(inputs, self._indices(ops.shape(inputs)[axis]), axis)
        return inputs

    def _indices(self, size):
        padded = self._padded(size)
        # A side that is unknown until the network runs is a tensor.
        xp = np if isinstance(size, int) else ops
        period = xp.maximum(2 * (size - 1), 1)
        before = self.margin + (padded - 2 * self.margin - size) // 2
        index = xp.mod(xp.arange(padded, dtype="int32") - before, period)
        return xp.minimum(index, period - index)

    def _padded(self, size):
        steps = -((self.offset - size) // self.multiple)
        steps = max(steps, 0) if isinstance(size, int) else ops.maximum(steps, 0)
        return self.offset + self.multiple * steps + 2 * self.margin

    def compute_output_shape(self, input_shape):
        """Returns the shape with each known side widened."""
        batch, *sides, channels = input_shape
        return (batch, *(s and self._padded(s) for s in sides), channels)

    def get_config(self):
        """Returns the constructor's arguments."""
        options = ("margin", "multiple", "offset")
        return {**super().get_config(), **{name: getattr(self, name) for name in options}}


@keras.saving.register_keras_serializable(package="segkit")
class CropLike(keras.layers.Layer):
    """Takes the middle of a feature map, as large as another one.

    Input is a list of the map and the one whose sides count, both `(batch, *spatial, channels)`,
    or `(batch, *spatial)` for the second. Where an odd number of voxels is cut off, one more goes
    behind.
    """

    def call(self, inputs):
        """Returns the middle of the first input."""
        x, like = inputs
        middle = [slice(None)]
        for axis in range(1, len(x.shape) - 1):
            size = ops.shape(like)[axis]
            start = (ops.shape(x)[axis] - size) // 2
            middle.append(slice(start, start + size))
        return x[tuple(middle)]

    def compute_output_shape(self, input_shape):
        """Returns the shape of the second input, with the channels of the first."""
        x, like = input_shape
        return (x[0], *like[1:-1], x[-1])
