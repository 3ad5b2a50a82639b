"""V-Net: residual stages of wide convolutions, in 2-D and 3-D."""

import keras
from keras import layers
from keras import ops

from segkit.errors import ConfigError
from segkit.layers.normalization import normalization as make_normalization
from segkit.models.axes import multiples
from segkit.models.axes import per_axis
from segkit.models.axes import rank_of
from segkit.models.axes import stage_strides
from segkit.models.blocks import CONV
from segkit.models.blocks import CONV_TRANSPOSE
from segkit.models.checks import check_input
from segkit.models.checks import check_range


def vnet(
    num_classes,
    input_shape,
    *,
    filters: int = 16,
    convs_per_stage: list[int] = (1, 2, 3, 3, 3),
    strides: list[int | list[int]] | None = None,
    kernel_size: int | list[int] = 5,
    normalization: str = "none",
):
    """Builds V-Net, 2-D or 3-D as `input_shape` is.

    A stage adds its input to the result of its last convolution, before the PReLU. The input of
    the first stage is the image, its channels repeated up to `filters`. Resolution is halved by
    convolutions and doubled by transposed ones whose kernel is the stride, each with a PReLU.

    Departures from the paper: any number of channels and classes, and 2-D; other strides and
    kernels if wanted; a normalization if wanted, before the addition or PReLU, whose convolution
    then has no bias. The paper's network, with one channel and two classes, has 65,175,314
    weights. MONAI's `VNet` has 45,603,070 with `bias` and PReLU: its stages have 1, 1, 2, 3, 2
    convolutions and 2, 2, 1, 1 on the way back, there is batch normalization, and the scores are
    made by a convolution of kernel 5, PReLU and the paper's of kernel 1.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            `None` or multiples of the product of the strides.
        filters: Filters of the first stage; they double with each stage.
        convs_per_stage: Convolutions of each stage, finest first; the way back mirrors them.
        strides: Per stage, one number or one per axis; the first is 1. `None`: 2 after the first.
        kernel_size: One number or one per axis.
        normalization: `"none"` as in the paper, or `"instance"`, `"group"` (8 groups; filters
            must be multiples of 8), `"batch"` (over groups of two examples), which train with
            less care.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: Unknown normalization, a number out of range, or fewer than two classes.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side does not fit; names the
            size to pad to.

    Reference:
        Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
        Segmentation", 3DV 2016, arXiv:1606.04797, figure 2 and table 1.
    """
    name = "vnet"
    rank = rank_of(name, input_shape)
    number = len(convs_per_stage)
    kernel_size = per_axis(name, "kernel_size", kernel_size, rank)
    check_range(name, "filters", filters, low=1)
    if number < 2 or min(convs_per_stage) < 1:
        raise ConfigError(
            f"{name} needs at least 2 stages with at least 1 convolution each, got "
            f"convs_per_stage {list(convs_per_stage)}."
        )
    strides = [1] + [2] * (number - 1) if strides is None else strides
    strides = stage_strides(name, strides, rank, stages=range(number, number + 1))
    check_input(name, num_classes, input_shape, rank=rank, multiple=multiples(strides))
    stage = _Stage(rank, kernel_size, normalization)

    inputs = keras.Input(input_shape, name="image")
    repeated = [i % input_shape[-1] for i in range(filters)]
    x = stage(ops.take(inputs, repeated, axis=-1), inputs, convs_per_stage[0], name="encoder0")
    skips = []
    for level in range(1, number):
        skips.append(x)
        x = stage.resample(x, filters * 2**level, strides[level], CONV, name=f"down{level}")
        x = stage(x, x, convs_per_stage[level], name=f"encoder{level}")
    for level in reversed(range(number - 1)):
        stride = strides[level + 1]
        x = stage.resample(x, filters * 2**level, stride, CONV_TRANSPOSE, name=f"up{level}")
        x = layers.Concatenate(name=f"skip{level}")([skips[level], x])
        x = stage(x, x, convs_per_stage[level], name=f"decoder{level}")
    logits = CONV[rank](num_classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=name)


class _Stage:
    """Makes the stages of one network, which share rank, kernel size and normalization."""

    def __init__(self, rank, kernel_size, normalization):
        self.rank = rank
        self.kernel_size = kernel_size
        self.normalization = normalization

    def __call__(self, carried, x, convs, *, name):
        """Returns the residual stage: convolutions of `x`, to which `carried` is added."""
        channels = carried.shape[-1]
        for i in range(1, convs + 1):
            options = {"padding": "same", "name": f"{name}_conv{i}"}
            x = self._conv(x, channels, self.kernel_size, CONV, **options)
            if i == convs:
                x = layers.Add(name=f"{name}_add")([carried, x])
            x = self._prelu(x, name=f"{name}_prelu{i}")
        return x

    def resample(self, x, filters, stride, kind, *, name):
        """Returns a feature map on a coarser or a finer grid; kernel and stride are equal."""
        x = self._conv(x, filters, stride, kind, strides=stride, name=name)
        return self._prelu(x, name=f"{name}_prelu")

    def _conv(self, x, filters, kernel, kind, *, name, **options):
        x = kind[self.rank](
            filters,
            kernel,
            use_bias=self.normalization == "none",
            kernel_initializer="he_normal",
            name=name,
            **options,
        )(x)
        return make_normalization(self.normalization, filters, name=f"{name}_norm")(x)

    def _prelu(self, x, *, name):
        """Returns the PReLU with one slope per channel, 0.25 at first as in He et al. 2015."""
        slope = keras.initializers.Constant(0.25)
        return layers.PReLU(slope, shared_axes=list(range(1, self.rank + 1)), name=name)(x)
