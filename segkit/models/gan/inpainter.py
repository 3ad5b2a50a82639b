"""Generator that fills the holes of an image."""

from functools import partial

import keras
from keras import initializers
from keras import layers

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.layers.gating import Gating
from segkit.layers.normalization import normalization as make_normalization
from segkit.layers.partial import PartialConvolution
from segkit.models.blocks import CONV
from segkit.models.blocks import Style
from segkit.models.blocks import conv_stage
from segkit.models.blocks import relu
from segkit.models.encoder_decoder import encode
from segkit.models.gan.parts import conv
from segkit.models.gan.parts import joined
from segkit.models.gan.parts import u_stages

CONVOLUTIONS = ("gated", "partial")
# Keeps the mean square of activations: E[elu(f)^2] E[sigmoid(g)^2] = 1 at a variance of 5.
GATED_SCALE = 5.0


def inpainter(
    num_classes,
    input_shape,
    *,
    filters: int = 32,
    max_filters: int = 512,
    downsamplings: int = 4,
    convs_per_stage: int = 2,
    convolution: str = "gated",
    normalization: str = "none",
):
    """Builds a U-Net that fills holes, in 2-D or 3-D.

    With `"gated"`, all convolutions are gated and see the mask as a channel. With `"partial"`,
    those of the encoder see known voxels only, and those of the decoder are plain.

    Departures from the papers: the U-Net of this package with kernel 3. Gated: one network, not a
    coarse one and one that refines, and no attention. Partial: the decoder has no masks, because
    the coarsest map is known everywhere; the maps that are handed on to it are 0 where nothing is
    known.

    Args:
        num_classes: Not used.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            `None` or multiples of `2 ** downsamplings`.
        filters: Filters of the first stage; they double with each downsampling.
        max_filters: Upper bound on the filters of a stage.
        downsamplings: How often the resolution is halved.
        convs_per_stage: Convolutions per stage, in the encoder and in the decoder.
        convolution: `"gated"` or `"partial"`.
        normalization: `"none"`, `"instance"`, `"group"` (8 groups; filters must be multiples of 8)
            or `"batch"` (over groups of two examples).

    Returns:
        `keras.Model` from a dict of `image`, `(batch, *spatial, channels)`, and `mask`,
        `(batch, *spatial, 1)`, 1 in holes and 0 elsewhere, to a float32 image. What the image
        holds in holes is not seen.

    Raises:
        ConfigError: A number is too small, or an unknown convolution or normalization.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side does not fit.

    Reference:
        Yu et al., "Free-Form Image Inpainting with Gated Convolution", ICCV 2019,
        arXiv:1806.03589; Liu et al., "Image Inpainting for Irregular Holes Using Partial
        Convolutions", ECCV 2018, arXiv:1804.07723, section 3.2.
    """
    if convolution not in CONVOLUTIONS:
        raise ConfigError(
            f"unknown convolution {convolution!r}. {nearest(convolution, CONVOLUTIONS)}"
        )
    stages = u_stages(
        "inpainter",
        input_shape,
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
        convs_per_stage=convs_per_stage,
    )
    image = keras.Input(input_shape, name="image")
    mask = keras.Input((*input_shape[:-1], 1), name="mask")
    known = 1.0 - mask
    style = Style(normalization)
    if convolution == "gated":
        stage = partial(_gated_stage, style=style)
        seen = layers.Concatenate(name="image_and_mask")([image * known, mask])
        maps = encode(seen, stages, stage)
    else:
        stage = partial(conv_stage, style=style)
        pairs = encode((image, known), stages, partial(_partial_stage, style=style))
        maps = [features for features, _ in pairs]
    x = joined(maps, stages, stage)
    made = conv(x, input_shape[-1], kernel=1, name="made", dtype="float32")
    return keras.Model({"image": image, "mask": mask}, made, name="inpainter")


def _gated_stage(x, filters, *, kernel, stride, convs, style, name):
    """A stage of gated convolutions, see `conv_stage`; normalized before the next."""
    for number in range(1, convs + 1):
        x = CONV[len(x.shape) - 2](
            2 * filters,
            kernel,
            strides=stride,
            padding="same",
            kernel_initializer=initializers.VarianceScaling(GATED_SCALE),
            name=f"{name}_conv{number}",
        )(x)
        x = Gating(name=f"{name}_gate{number}")(x)
        x = make_normalization(style.normalization, filters, name=f"{name}_norm{number}")(x)
        stride = 1
    return x


def _partial_stage(pair, filters, *, kernel, stride, convs, style, name):
    """A stage of partial convolutions, from features and what is known of them to the same."""
    x, known = pair
    for number in range(1, convs + 1):
        layer = PartialConvolution(
            filters, kernel, stride, use_bias=style.use_bias, name=f"{name}_conv{number}"
        )
        x, known = layer([x, known])
        x = make_normalization(style.normalization, filters, name=f"{name}_norm{number}")(x)
        x = relu(x, style=style, name=name, number=number)
        stride = 1
    return x, known
