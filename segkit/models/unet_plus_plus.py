"""U-Net++: skips that are bridged by nested decoders."""

from functools import partial

import keras

from segkit.models.blocks import Style
from segkit.models.blocks import conv_stage
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import encode
from segkit.models.encoder_decoder import join
from segkit.models.encoder_decoder import score
from segkit.models.stages import from_plan


def unet_plus_plus(
    num_classes,
    input_shape,
    *,
    features_per_stage: list[int] = (32, 64, 128, 256, 512),
    strides: list[int | list[int]] | None = None,
    kernel_sizes: int | list[int | list[int]] = 3,
    n_conv_per_stage: int | list[int] = 2,
    n_conv_per_stage_decoder: int | list[int] = 2,
    normalization: str = "instance",
    spatial_dropout: float = 0.0,
    deep_supervision: bool = False,
):
    """Builds U-Net++, in 2-D or 3-D.

    The map `x[i, j]` of stage `i` and column `j` is

        x[i, 0] = encoder stage i
        x[i, j] = convolutions of [x[i, 0], ..., x[i, j - 1], upsampled x[i + 1, j - 1]]

    so that column `j` alone, with the `j + 1` finest stages, is a U-Net of `j` downsamplings. In
    2-D with three channels and `normalization: none` it has the paper's 9.04 million weights.

    Departures from the paper: strided convolutions instead of max pooling, instance
    normalization, LeakyReLU, as in `unet`. With deep supervision the prediction is that of the
    last column, not the mean over columns.

    Args:
        num_classes: Number of classes, background included.
        input_shape: As in `plain_unet`.
        features_per_stage: As in `plain_unet`, here the paper's.
        strides: As in `plain_unet`.
        kernel_sizes: As in `plain_unet`.
        n_conv_per_stage: As in `plain_unet`.
        n_conv_per_stage_decoder: As in `plain_unet`; of all nodes `x[i, 1]`, `x[i, 2]`, ... of a
            stage.
        normalization: As in `plain_unet`. A convolution that is normalized has no bias.
        spatial_dropout: As in `plain_unet`.
        deep_supervision: Score every column, all at full resolution: the network then returns a
            dict of `logits` (of the last column), ..., `logits_2`, `logits_1` (of the first).

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: As `plain_unet`.
        ShapeError: As `plain_unet`.

    Reference:
        Zhou et al., "UNet++", DLMIA 2018, arXiv:1807.10165, equation 1 and figure 1; Zhou et al.,
        "UNet++", IEEE TMI 2020, arXiv:1912.05074.
    """
    stages = from_plan(
        "unet_plus_plus",
        num_classes,
        input_shape,
        features_per_stage=features_per_stage,
        strides=strides,
        kernel_sizes=kernel_sizes,
        convs=n_conv_per_stage,
        convs_decoder=n_conv_per_stage_decoder,
    )
    check_range("unet_plus_plus", "spatial_dropout", spatial_dropout, low=0, high=1)
    stage = partial(conv_stage, style=Style(normalization, spatial_dropout=spatial_dropout))

    image = keras.Input(input_shape, name="image")
    rows = [[x] for x in encode(image, stages, stage)]
    for column in range(1, len(rows)):
        for level, row in enumerate(rows[:-column]):
            coarser = rows[level + 1][column - 1]
            row.append(join(row, coarser, stages, level, stage, suffix=f"{level}_{column}"))

    logits = score(rows[0][-1], num_classes, name="logits")
    if not deep_supervision:
        return keras.Model(image, logits, name="unet_plus_plus")
    outputs = {"logits": logits}
    for column in reversed(range(1, len(rows) - 1)):
        name = f"logits_{column}"
        outputs[name] = score(rows[0][column], num_classes, name=name)
    return keras.Model(image, outputs, name="unet_plus_plus")
