"""Attention U-Net: what the decoder joins is weighed by what it has seen at the coarser stage."""

from functools import partial

import keras
from keras import layers

from segkit.layers.linear_upsampling import LinearUpsampling
from segkit.models.blocks import CONV
from segkit.models.blocks import Style
from segkit.models.blocks import conv_stage
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import decode
from segkit.models.encoder_decoder import encode
from segkit.models.stages import from_plan


def attention_unet(
    num_classes,
    input_shape,
    *,
    features_per_stage: list[int] = (16, 32, 64, 128, 256),
    strides: list[int | list[int]] | None = None,
    kernel_sizes: int | list[int | list[int]] = 3,
    n_conv_per_stage: int | list[int] = 2,
    n_conv_per_stage_decoder: int | list[int] = 2,
    normalization: str = "instance",
    spatial_dropout: float = 0.0,
    deep_supervision: bool = False,
):
    """Builds the Attention U-Net, in 2-D or 3-D: a U-Net with additive gates on its skips.

    A gate multiplies the map `x` of the encoder by one number in (0, 1) per voxel, found from
    `x` and from the gating signal `g`, the decoder's map of the next coarser stage:

        alpha = sigmoid(psi(relu(W_x x + W_g g + b_g)) + b_psi)

    with `W_x` a convolution whose kernel and stride bring `x` to the grid of `g`, `W_g` and `psi`
    of kernel 1, as many intermediate channels as `x` has, and `alpha` upsampled linearly to the
    grid of `x`. The finest skip has no gate: its features are too simple for one.

    Departures from the paper: strided instead of max pooling, transposed convolutions instead of
    trilinear upsampling of features, instance normalization, LeakyReLU outside of the gates, as
    in `unet`; deep supervision scores stages at their own resolution.

    Args:
        num_classes: Number of classes, background included.
        input_shape: As in `plain_unet`.
        features_per_stage: As in `plain_unet`, here the paper's. There is a gate from three
            stages on.
        strides: As in `plain_unet`.
        kernel_sizes: As in `plain_unet`.
        n_conv_per_stage: As in `plain_unet`.
        n_conv_per_stage_decoder: As in `plain_unet`.
        normalization: As in `plain_unet`. A convolution that is normalized has no bias.
        spatial_dropout: As in `plain_unet`.
        deep_supervision: As in `plain_unet`.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: As `plain_unet`.
        ShapeError: As `plain_unet`.

    Reference:
        Oktay et al., "Attention U-Net", MIDL 2018, arXiv:1804.03999, equations 1 and 2, figures
        1 and 2.
    """
    stages = from_plan(
        "attention_unet",
        num_classes,
        input_shape,
        features_per_stage=features_per_stage,
        strides=strides,
        kernel_sizes=kernel_sizes,
        convs=n_conv_per_stage,
        convs_decoder=n_conv_per_stage_decoder,
    )
    check_range("attention_unet", "spatial_dropout", spatial_dropout, low=0, high=1)
    stage = partial(conv_stage, style=Style(normalization, spatial_dropout=spatial_dropout))

    image = keras.Input(input_shape, name="image")
    maps = encode(image, stages, stage)
    outputs = decode(
        maps,
        stages,
        stage,
        num_classes,
        deep_supervision=deep_supervision,
        gate=partial(_gate, stages),
    )
    return keras.Model(image, outputs, name="attention_unet")


def _gate(stages, x, signal, level):
    if level == 0:
        return x
    name, stride = f"gate{level}", stages.strides[level + 1]
    conv, filters = CONV[stages.rank], stages.filters[level]
    seen = conv(filters, stride, stride, use_bias=False, name=f"{name}_x")(x)
    asked = conv(filters, 1, name=f"{name}_g")(signal)
    joint = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([seen, asked]))
    alpha = conv(1, 1, activation="sigmoid", name=f"{name}_psi")(joint)
    alpha = LinearUpsampling(stride, name=f"{name}_alpha")(alpha)
    return layers.Multiply(name=f"{name}_product")([x, alpha])
