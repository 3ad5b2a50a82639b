"""nnU-Net's U-Net of plain convolutions, made from a plan."""

from functools import partial

import keras

from segkit.models.blocks import Style
from segkit.models.blocks import conv_stage
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import decode
from segkit.models.encoder_decoder import encode
from segkit.models.stages import from_plan


def plain_unet(
    num_classes,
    input_shape,
    *,
    features_per_stage: list[int] = (32, 64, 128, 256, 320, 320),
    strides: list[int | list[int]] | None = None,
    kernel_sizes: int | list[int | list[int]] = 3,
    n_conv_per_stage: int | list[int] = 2,
    n_conv_per_stage_decoder: int | list[int] = 2,
    normalization: str = "instance",
    spatial_dropout: float = 0.0,
    deep_supervision: bool = False,
):
    """Builds `PlainConvUNet` of nnU-Net, in 2-D or 3-D, from the options of its plans.

    Weights are those of `dynamic_network_architectures`, one for one: every convolution has a
    bias, also where a normalization removes it; instance normalization is affine; LeakyReLU has
    slope 0.01. Departures: a strided convolution pads an even side behind the image, not in front
    (with all kernels mirrored the networks compute the same on the mirrored image); without
    `deep_supervision` the heads that would not be used are not made.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            `None` or multiples of the product of the strides along their axis.
        features_per_stage: Filters of each stage, finest first; their number is the number of
            stages. The default is nnU-Net's for a patch of 128 along three axes.
        strides: Per stage one number, or one per axis, as `[[1, 1, 1], [1, 2, 2], [2, 2, 2]]`;
            `None`: 2 after the first stage.
        kernel_sizes: The same for kernels, or one number for all.
        n_conv_per_stage: Convolutions of each stage of the encoder, or one number for all.
        n_conv_per_stage_decoder: Convolutions of each stage of the decoder, *coarsest first* as
            in plans, or one number for all.
        normalization: `"instance"`, `"group"` (8 groups; filters must be multiples of 8),
            `"batch"` (over groups of two examples) or `"none"`.
        spatial_dropout: Rate at which whole channels are dropped after each convolution.
        deep_supervision: Score every stage of the decoder: the network then returns a dict of
            `logits`, `logits_1` (of the next coarser stage), ...

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: A list that does not fit the number of stages or axes, a number out of range,
            unknown normalization, or fewer than two classes.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side does not fit; names the
            size to pad to.

    Reference:
        Isensee et al., "nnU-Net", Nature Methods 2021, doi:10.1038/s41592-020-01008-z;
        `PlainConvUNet` in MIC-DKFZ/dynamic-network-architectures.
    """
    stages = from_plan(
        "plain_unet",
        num_classes,
        input_shape,
        features_per_stage=features_per_stage,
        strides=strides,
        kernel_sizes=kernel_sizes,
        convs=n_conv_per_stage,
        convs_decoder=n_conv_per_stage_decoder,
    )
    check_range("plain_unet", "spatial_dropout", spatial_dropout, low=0, high=1)
    style = Style(normalization, bias=True, spatial_dropout=spatial_dropout)
    stage = partial(conv_stage, style=style)

    image = keras.Input(input_shape, name="image")
    maps = encode(image, stages, stage)
    outputs = decode(maps, stages, stage, num_classes, deep_supervision=deep_supervision)
    return keras.Model(image, outputs, name="plain_unet")
