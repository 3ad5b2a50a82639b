"""DeepLabv3+: atrous spatial pyramid pooling on a residual network, with a decoder."""

import keras
from keras import layers

from segkit.errors import ConfigError
from segkit.layers.linear_upsampling import LinearUpsampling
from segkit.layers.normalization import GROUPS
from segkit.layers.normalization import normalization as make_normalization
from segkit.models.axes import rank_of
from segkit.models.blocks import CONV
from segkit.models.checks import check_input
from segkit.models.checks import check_range

POOL = {2: layers.GlobalAveragePooling2D, 3: layers.GlobalAveragePooling3D}
PICK = {2: layers.MaxPooling2D, 3: layers.MaxPooling3D}
# Per output stride: stride and dilation of the four residual stages. They start at stride 4.
STAGES = {16: ((1, 1), (2, 1), (2, 1), (1, 2)), 8: ((1, 1), (2, 1), (1, 2), (1, 4))}


def deeplabv3plus(
    num_classes,
    input_shape,
    *,
    filters: int = 64,
    blocks: list[int] = (2, 2, 2, 2),
    output_stride: int = 16,
    rates: list[int] = (6, 12, 18),
    pyramid_filters: int = 256,
    normalization: str = "group",
):
    """Builds DeepLabv3+, 2-D or 3-D as `input_shape` is.

    The encoder is a residual network whose last stages have dilated convolutions in place of
    strides, then parallel convolutions of kernel 1, of kernel 3 dilated by each of `rates`, and of
    the mean over the image. The decoder upsamples their joined features by linear interpolation to
    a quarter of the resolution, joins the features of the first residual stage, scores, and
    interpolates the scores to the full resolution.

    Departures from the paper: residual blocks of two convolutions as in ResNet-18 instead of
    Xception or ResNet-101, from random weights; two strided convolutions of kernel 3 in front of
    them instead of one of kernel 7 and a pooling; plain instead of depthwise separable
    convolutions, also in the pyramid; group instead of batch normalization; no normalization of the
    mean over the image, because a map of one voxel has no statistics; no dropout. With the
    defaults, 21 classes and 3 channels it has 16,617,877 weights.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            `None` or multiples of `output_stride`.
        filters: Of the first residual stage; they double with each of the four stages.
        blocks: Residual blocks of each of the four stages.
        output_stride: 16 or 8: the side of the image over that of the last features.
        rates: Dilations of the pyramid at output stride 16; doubled at 8. A dilation of at least
            the side of the features sees its centre only: for patches of 64 pixels choose 1 to 3.
        pyramid_filters: Of the pyramid's branches and of the decoder, a multiple of 16; the
            features of the first residual stage are reduced to 3/16 of them.
        normalization: `"group"` (8 groups; all filters must be multiples of 8), `"instance"`,
            `"batch"` (over groups of two examples) or `"none"`.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: Unknown normalization, a number out of range, or fewer than two classes.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side does not fit; names the
            size to pad to.

    Reference:
        Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
        Segmentation", ECCV 2018, arXiv:1802.02611, figure 2 and section 3.2; the residual blocks:
        He et al., "Deep Residual Learning", CVPR 2016, arXiv:1512.03385, figure 2.
    """
    name = "deeplabv3plus"
    rank = rank_of(name, input_shape)
    _check_options(name, filters, blocks, output_stride, rates, pyramid_filters)
    check_input(name, num_classes, input_shape, rank=rank, multiple=output_stride)
    conv = _Convolution(rank, normalization)
    rates = [rate * 16 // output_stride for rate in rates]

    x = inputs = keras.Input(input_shape, name="image")
    for number, width in enumerate((filters // 2, filters), start=1):
        x = conv.relu(x, width, 3, strides=2, name=f"stem{number}")
    stages = []
    for number, (stride, dilation) in enumerate(STAGES[output_stride]):
        for block in range(1, blocks[number] + 1):
            options = {"stride": stride if block == 1 else 1, "dilation": dilation}
            x = _residual(
                conv, x, filters * 2**number, f"stage{number + 1}_block{block}", **options
            )
        stages.append(x)

    x = _pyramid(conv, x, pyramid_filters, rates)
    x = LinearUpsampling((output_stride // 4,) * rank, name="upsample_features")(x)
    # 48 of 256 filters in the paper: few, so that the pyramid's features outweigh them.
    reduced = max(1, round(pyramid_filters * 3 / 16 / GROUPS)) * GROUPS
    skip = conv.relu(stages[0], reduced, 1, name="low_level")
    x = layers.Concatenate(name="decoder")([x, skip])
    for number in (1, 2):
        x = conv.relu(x, pyramid_filters, 3, name=f"decoder_conv{number}")
    x = CONV[rank](num_classes, 1, dtype="float32", name="scores")(x)
    logits = LinearUpsampling((4,) * rank, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=name)


def _check_options(name, filters, blocks, output_stride, rates, pyramid_filters):
    check_range(name, "filters", filters, low=2)
    if filters % 2:
        raise ConfigError(f"{name} needs an even number of filters, got {filters}.")
    if pyramid_filters < 1 or pyramid_filters % 16:
        raise ConfigError(
            f"{name} needs pyramid_filters to be a multiple of 16, got {pyramid_filters}."
        )
    if len(blocks) != 4 or min(blocks) < 1:
        raise ConfigError(f"{name} needs blocks of four stages, at least 1 each, got {blocks}.")
    if output_stride not in STAGES:
        raise ConfigError(f"{name} needs an output_stride of 16 or 8, got {output_stride}.")
    if not rates or min(rates) < 1:
        raise ConfigError(f"{name} needs rates of at least 1, one or more, got {list(rates)}.")


def _residual(conv, x, filters, name, *, stride, dilation):
    """Returns a residual block of two convolutions; its input is projected where shapes differ."""
    y = conv.relu(x, filters, 3, strides=stride, dilation_rate=dilation, name=f"{name}_conv1")
    y = conv(y, filters, 3, dilation_rate=dilation, name=f"{name}_conv2")
    if stride > 1:
        # Of a strided convolution of kernel 1, oneDNN's gradient writes out of bounds (TF 2.20).
        x = PICK[conv.rank](1, strides=stride, name=f"{name}_pick")(x)
    if stride > 1 or x.shape[-1] != filters:
        x = conv(x, filters, 1, name=f"{name}_project")
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(x)


def _pyramid(conv, x, filters, rates):
    """Returns the features of atrous spatial pyramid pooling, joined by a 1 x 1 convolution."""
    branches = [conv.relu(x, filters, 1, name="pyramid_point")]
    for rate in rates:
        branches.append(conv.relu(x, filters, 3, dilation_rate=rate, name=f"pyramid_rate{rate}"))
    mean = POOL[conv.rank](keepdims=True, name="pyramid_mean")(x)
    mean = _Convolution(conv.rank, "none").relu(mean, filters, 1, name="pyramid_image")
    everywhere = layers.Add(name="pyramid_everywhere")([mean, keras.ops.zeros_like(branches[0])])
    branches.append(everywhere)
    x = layers.Concatenate(name="pyramid")(branches)
    return conv.relu(x, filters, 1, name="pyramid_join")


class _Convolution:
    """Makes the normalized convolutions of one network, which share rank and normalization."""

    def __init__(self, rank, normalization):
        self.rank = rank
        self.normalization = normalization

    def __call__(self, x, filters, kernel, *, name, **options):
        """Returns a convolution and its normalization."""
        x = CONV[self.rank](
            filters,
            kernel,
            padding="same",
            use_bias=self.normalization == "none",
            kernel_initializer="he_normal",
            name=name,
            **options,
        )(x)
        return make_normalization(self.normalization, filters, name=f"{name}_norm")(x)

    def relu(self, x, filters, kernel, *, name, **options):
        """Returns a convolution, its normalization and a ReLU."""
        x = self(x, filters, kernel, name=name, **options)
        return layers.ReLU(name=f"{name}_relu")(x)
