"""nnU-Net's U-Net with a residual encoder, made from a plan or a preset."""

from dataclasses import replace
from functools import partial

import keras
from keras import layers

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.models.blocks import Style
from segkit.models.blocks import conv_norm
from segkit.models.blocks import conv_stage
from segkit.models.blocks import relu_of_sum
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import decode
from segkit.models.encoder_decoder import encode
from segkit.models.stages import from_plan

AVERAGE_POOL = {2: layers.AveragePooling2D, 3: layers.AveragePooling3D}
# Number of stages, by number of axes, that nnU-Net's planners arrive at where all axes have one
# spacing and images are larger than the patch: 128^3, 192^3 and 256 x 224 x 224; 512 x 512,
# 896 x 768 and 1024 x 1024.
PRESETS = {"M": {2: 8, 3: 6}, "L": {2: 8, 3: 6}, "XL": {2: 9, 3: 6}}
MAX_FILTERS = {2: 512, 3: 320}
BLOCKS = (1, 3, 4, 6)  # and 6 from there on


def resenc_unet(
    num_classes,
    input_shape,
    *,
    preset: str = "M",
    features_per_stage: list[int] | None = None,
    strides: list[int | list[int]] | None = None,
    kernel_sizes: int | list[int | list[int]] = 3,
    n_blocks_per_stage: int | list[int] | None = None,
    n_conv_per_stage_decoder: int | list[int] = 1,
    normalization: str = "instance",
    spatial_dropout: float = 0.0,
    deep_supervision: bool = False,
):
    """Builds `ResidualEncoderUNet` of nnU-Net, in 2-D or 3-D.

    A convolution (the stem), then stages of residual blocks in the form of ResNet-D: two
    convolutions, and beside them average pooling where the block has a stride and a convolution
    of kernel 1 where the number of filters changes. The decoder is that of `plain_unet`. Weights
    are those of `dynamic_network_architectures`, one for one. Departures: those of `plain_unet`;
    the last normalization of a block starts at scale 1, not 0, so that gradients reach all
    weights from the first step on.

    nnU-Net's ResEnc M, L and XL are planners: they widen the patch until a memory budget of 8,
    24 or 40 GB is used. Of them this takes the network: filters 32, 64, 128, ... up to 320 (512
    in 2-D), blocks 1, 3, 4, 6, 6, ..., one convolution per stage of the decoder, and the number
    of stages for the patch they arrive at where all axes have one spacing. That is 6 in 3-D for
    all three, and in 2-D 8, 8 and 9: so M and L are one network, and differ in the patch and
    batch that they are trained with, which are options of a run.

    Args:
        num_classes: Number of classes, background included.
        input_shape: As in `plain_unet`.
        preset: `"M"`, `"L"` or `"XL"`: where the number of stages and their filters come from
            unless `features_per_stage` is given.
        features_per_stage: As in `plain_unet`; `None`: those of the preset.
        strides: As in `plain_unet`.
        kernel_sizes: As in `plain_unet`.
        n_blocks_per_stage: Residual blocks of each stage, or one number for all; `None`: 1, 3, 4,
            6, 6, ...
        n_conv_per_stage_decoder: As in `plain_unet`.
        normalization: As in `plain_unet`.
        spatial_dropout: Rate at which whole channels are dropped after the first convolution of
            each block and after each convolution of the decoder.
        deep_supervision: As in `plain_unet`.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: Unknown preset, or as `plain_unet`.
        ShapeError: As `plain_unet`.

    Reference:
        Isensee et al., "nnU-Net Revisited", MICCAI 2024, arXiv:2404.09556; He et al., "Bag of
        Tricks for Image Classification", CVPR 2019, arXiv:1812.01187, figure 2c;
        `ResidualEncoderUNet` in MIC-DKFZ/dynamic-network-architectures.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r} of resenc_unet. {nearest(preset, PRESETS)}")
    if features_per_stage is None:
        features_per_stage = _filters(preset, len(input_shape) - 1)
    if n_blocks_per_stage is None:
        number = len(features_per_stage)
        n_blocks_per_stage = [BLOCKS[min(level, len(BLOCKS) - 1)] for level in range(number)]
    stages = from_plan(
        "resenc_unet",
        num_classes,
        input_shape,
        features_per_stage=features_per_stage,
        strides=strides,
        kernel_sizes=kernel_sizes,
        convs=n_blocks_per_stage,
        convs_decoder=n_conv_per_stage_decoder,
        convs_name="n_blocks_per_stage",
    )
    check_range("resenc_unet", "spatial_dropout", spatial_dropout, low=0, high=1)
    style = Style(normalization, bias=True, spatial_dropout=spatial_dropout)
    plain = partial(conv_stage, style=style)

    image = keras.Input(input_shape, name="image")
    stem = {"kernel": stages.kernels[0], "stride": 1, "convs": 1, "name": "encoder0_stem"}
    x = plain(image, stages.filters[0], **stem)
    maps = encode(x, stages, partial(_stage, style=style))
    outputs = decode(maps, stages, plain, num_classes, deep_supervision=deep_supervision)
    return keras.Model(image, outputs, name="resenc_unet")


def _filters(preset, rank):
    number = PRESETS[preset].get(rank, 0)
    return [min(32 * 2**level, MAX_FILTERS[rank]) for level in range(number)]


def _stage(x, filters, *, kernel, stride, convs, style, name):
    for number in range(1, convs + 1):
        x = _block(x, filters, kernel, stride, style, f"{name}_block{number}")
        stride = (1,) * len(stride)
    return x


def _block(x, filters, kernel, stride, style, name):
    beside = x
    if any(step > 1 for step in stride):
        # In float32: TensorFlow does not pool float16 volumes on CPUs.
        pool = AVERAGE_POOL[len(stride)](stride, dtype="float32", name=f"{name}_pool")
        beside = pool(beside)
    if x.shape[-1] != filters:
        plain = replace(style, bias=False, spatial_dropout=0.0)
        beside = conv_norm(
            beside, filters, kernel=1, stride=1, style=plain, name=f"{name}_beside", number=1
        )
    x = conv_stage(x, filters, kernel=kernel, stride=stride, convs=1, style=style, name=name)
    last = replace(style, spatial_dropout=0.0)
    x = conv_norm(x, filters, kernel=kernel, stride=1, style=last, name=name, number=2)
    return relu_of_sum(beside, x, style=style, name=name, number=2)
