"""U-Net in 2-D and 3-D, in the form that nnU-Net made robust."""

from functools import partial

import keras

from segkit.errors import ConfigError
from segkit.layers.dropout import Dropout
from segkit.models.blocks import Style
from segkit.models.blocks import conv_stage
from segkit.models.blocks import residual_stage
from segkit.models.checks import check_input
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import decode
from segkit.models.encoder_decoder import encode
from segkit.models.stages import doubling


def unet(
    num_classes,
    input_shape,
    *,
    filters: int = 32,
    downsamplings: int = 4,
    convs_per_stage: int = 2,
    max_filters: int = 512,
    normalization: str = "instance",
    residual: bool = False,
    dropout: float = 0.0,
    spatial_dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    deep_supervision: bool = False,
):
    """Builds the 2-D U-Net.

    Departures from the 2015 paper, all taken from nnU-Net: padded instead of valid
    convolutions (so the output has the size of the input and skips need no crop), strided
    convolutions instead of max pooling, instance normalization, LeakyReLU with slope 0.01,
    32 instead of 64 first filters, at most `max_filters`. Departures from nnU-Net: a
    convolution that is normalized has no bias, because the normalization removes it; deep
    supervision is an option; the kernels are 3 and the strides 2 along every axis.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)`; sides are `None` or multiples of
            `2 ** downsamplings`.
        filters: Filters of the first stage; they double with each downsampling.
        downsamplings: How often the resolution is halved.
        convs_per_stage: Convolutions per stage, in the encoder and in the decoder.
        max_filters: Upper bound on the filters of a stage.
        normalization: `"instance"`, `"group"` (8 groups; filters must be multiples of 8),
            `"batch"` (over groups of two examples) or `"none"`.
        residual: Add the result of a stage's first convolution to that of its last.
        dropout: Rate at the end of the contracting path, where the 2015 paper has it.
        spatial_dropout: Rate at which whole channels are dropped after each convolution of a
            stage, before the normalization, as in nnU-Net's blocks.
        stochastic_depth: Rate at which the convolutions after a stage's first are left out; needs
            `residual`.
        deep_supervision: Score every stage of the expanding path: the network then returns a dict
            of `logits`, `logits_1` (half the resolution), ... It needs two downsamplings.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, height, width, num_classes)`.

    Raises:
        ConfigError: Unknown normalization, a number out of range, or fewer than two classes.
        ShapeError: If `input_shape` is not 2-D, or a side does not fit; names the size to pad to.

    Reference:
        Ronneberger et al., "U-Net", MICCAI 2015, arXiv:1505.04597, figure 1; Isensee et al.,
        "nnU-Net", Nature Methods 2021, doi:10.1038/s41592-020-01008-z.
    """
    return _build("unet", 2, **locals())


def unet3d(
    num_classes,
    input_shape,
    *,
    filters: int = 32,
    downsamplings: int = 3,
    convs_per_stage: int = 2,
    max_filters: int = 320,
    normalization: str = "instance",
    residual: bool = False,
    dropout: float = 0.0,
    spatial_dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    deep_supervision: bool = False,
):
    """Builds the 3-D U-Net.

    Departures from the 2016 paper beyond those that `unet` lists: the filters double at the
    start of a stage and not within it, and there is no batch normalization.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(depth, height, width, channels)`; sides are `None` or multiples of
            `2 ** downsamplings`.
        filters: As in `unet`.
        downsamplings: As in `unet`; the paper has three.
        convs_per_stage: As in `unet`.
        max_filters: As in `unet`.
        normalization: As in `unet`.
        residual: As in `unet`.
        dropout: As in `unet`.
        spatial_dropout: As in `unet`.
        stochastic_depth: As in `unet`.
        deep_supervision: As in `unet`.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, depth, height, width,
        num_classes)`.

    Raises:
        ConfigError: Unknown normalization, a number out of range, or fewer than two classes.
        ShapeError: If `input_shape` is not 3-D, or a side does not fit; names the size to pad to.

    Reference:
        Çiçek et al., "3D U-Net", MICCAI 2016, arXiv:1606.06650, figure 2; Isensee et al.,
        "nnU-Net", Nature Methods 2021, doi:10.1038/s41592-020-01008-z.
    """
    return _build("unet3d", 3, **locals())


def _build(
    name,
    rank,
    *,
    num_classes,
    input_shape,
    filters,
    downsamplings,
    convs_per_stage,
    max_filters,
    normalization,
    residual,
    dropout,
    spatial_dropout,
    stochastic_depth,
    deep_supervision,
):
    check_range(name, "downsamplings", downsamplings, low=2 if deep_supervision else 0)
    check_range(name, "convs_per_stage", convs_per_stage, low=2 if residual else 1)
    rates = {"dropout": dropout, "spatial_dropout": spatial_dropout}
    for option, rate in {**rates, "stochastic_depth": stochastic_depth}.items():
        check_range(name, option, rate, low=0, high=1)
    if stochastic_depth and not residual:
        raise ConfigError(f"{name} needs residual: true for stochastic_depth, got false.")
    stages = doubling(
        name,
        rank,
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
        convs_per_stage=convs_per_stage,
    )
    check_input(name, num_classes, input_shape, rank=rank, multiple=stages.multiples)
    style = Style(normalization=normalization, spatial_dropout=spatial_dropout)
    stage = partial(conv_stage, style=style)
    if residual:
        stage = partial(residual_stage, style=style, stochastic_depth=stochastic_depth)

    image = keras.Input(input_shape, name="image")
    maps = encode(image, stages, stage)
    if dropout:
        maps[-1] = Dropout(dropout, name="dropout")(maps[-1])
    outputs = decode(maps, stages, stage, num_classes, deep_supervision=deep_supervision)
    return keras.Model(image, outputs, name=name)
