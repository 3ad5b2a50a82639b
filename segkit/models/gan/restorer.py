"""Generator that restores an image: noise off, detail back."""

from functools import partial

import keras
from keras import layers

from segkit.models.blocks import Style
from segkit.models.blocks import residual_stage
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import encode
from segkit.models.gan.parts import conv
from segkit.models.gan.parts import joined
from segkit.models.gan.parts import u_stages


def restorer(
    num_classes,
    input_shape,
    *,
    filters: int = 32,
    max_filters: int = 512,
    downsamplings: int = 3,
    convs_per_stage: int = 2,
    normalization: str = "none",
):
    """Builds a residual U-Net that predicts a correction to its input, in 2-D or 3-D.

    The stages are those of `unet` with `residual`. Without normalization: it would take the
    contrast away that is to be restored. Before training the correction is 0, so that an image
    comes out as it went in.

    Args:
        num_classes: Not used.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            `None` or multiples of `2 ** downsamplings`.
        filters: Filters of the first stage; they double with each downsampling.
        max_filters: Upper bound on the filters of a stage.
        downsamplings: How often the resolution is halved.
        convs_per_stage: Convolutions per stage, at least 2, in the encoder and in the decoder.
        normalization: `"none"`, `"instance"`, `"group"` (8 groups; filters must be multiples of 8)
            or `"batch"` (over groups of two examples).

    Returns:
        `keras.Model` from a dict of `image`, `(batch, *spatial, channels)`, to a float32 image of
        that shape.

    Raises:
        ConfigError: A number is too small, or an unknown normalization.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side does not fit.

    Reference:
        Zhang et al., "Beyond a Gaussian Denoiser", TIP 2017, arXiv:1608.03981, section III (the
        correction); Lim et al., "Enhanced Deep Residual Networks", CVPRW 2017, arXiv:1707.02921,
        section 3.1 (no normalization); Zhang et al., "Fixup Initialization", ICLR 2019,
        arXiv:1901.09321, section 3 (the last layer of a branch at 0).
    """
    check_range("restorer", "convs_per_stage", convs_per_stage, low=2)
    stages = u_stages(
        "restorer",
        input_shape,
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
        convs_per_stage=convs_per_stage,
    )
    stage = partial(residual_stage, style=Style(normalization))
    image = keras.Input(input_shape, name="image")
    x = joined(encode(image, stages, stage), stages, stage)
    correction = conv(
        x, input_shape[-1], kernel=1, kernel_initializer="zeros", name="correction", dtype="float32"
    )
    made = layers.Add(dtype="float32", name="made")([image, correction])
    return keras.Model({"image": image}, made, name="restorer")
