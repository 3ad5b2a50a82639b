"""The U-Net of 2015, with valid convolutions."""

from functools import partial

import keras
from keras import layers

from segkit.layers.dropout import Dropout
from segkit.layers.mirror_padding import CropLike
from segkit.layers.mirror_padding import MirrorPadding
from segkit.models.blocks import CONV_TRANSPOSE
from segkit.models.blocks import Style
from segkit.models.blocks import conv_stage
from segkit.models.checks import check_input
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import score


def unet2015(
    num_classes,
    input_shape,
    *,
    filters: int = 64,
    downsamplings: int = 4,
    normalization: str = "none",
    dropout: float = 0.5,
):
    """Builds the 2-D U-Net as published: valid convolutions, max pooling, skips that are cropped.

    Two convolutions of kernel 3, ReLU, and 2 x 2 max pooling per stage; filters double with each
    downsampling; upsampling by a transposed convolution of kernel and stride 2 halves them. With
    one channel and two classes it has 31,030,658 weights.

    Valid convolutions take `6 * 2 ** downsamplings - 4` pixels (92) off each border: the paper's
    network maps 572 x 572 to 388 x 388. Here it pads its input by mirroring, as the paper does at
    the border of an image, so that the logits lie on the grid of the image. Any size of 1 or more
    fits: sides of `4 + k * 2 ** downsamplings` (388) are padded by exactly that margin, others up
    to the next of them. The margin is computed whatever the image: small patches cost many times
    what `unet` costs, and a patch out of a larger image sees mirrors where the paper sees the
    image. Give whole slices where they fit into memory.

    Departures from the paper: output of the size of the input; no weight map; the number of
    stages and filters, a normalization and dropout are options. Where the paper puts dropout, "at
    the end of the contracting path", is taken to be the end of its two coarsest stages.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)`; sides may be `None`.
        filters: Filters of the first stage; they double with each downsampling.
        downsamplings: How often the resolution is halved.
        normalization: `"none"` as in the paper, `"instance"`, `"group"` (8 groups; filters must be
            multiples of 8) or `"batch"` (over groups of two examples).
        dropout: Rate at the end of the two coarsest stages.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, height, width, num_classes)`.

    Raises:
        ConfigError: Unknown normalization, a number out of range, or fewer than two classes.
        ShapeError: If `input_shape` is not 2-D.

    Reference:
        Ronneberger et al., "U-Net", MICCAI 2015, arXiv:1505.04597, figures 1 and 2, section 2.
    """
    check_range("unet2015", "filters", filters, low=1)
    check_range("unet2015", "downsamplings", downsamplings, low=1)
    check_range("unet2015", "dropout", dropout, low=0, high=1)
    check_input("unet2015", num_classes, input_shape, rank=2, multiple=1)
    style = Style(normalization, padding="valid", slope=0.0)
    stage = partial(conv_stage, kernel=3, stride=1, convs=2, style=style)

    image = keras.Input(input_shape, name="image")
    margin = 6 * 2**downsamplings - 4
    x = MirrorPadding(margin, 2**downsamplings, offset=4, name="margin")(image)
    maps = []
    for level in range(downsamplings + 1):
        if level:
            x = layers.MaxPool2D(name=f"encoder{level}_pool")(x)
        x = stage(x, filters * 2**level, name=f"encoder{level}")
        if level >= downsamplings - 1:
            x = Dropout(dropout, name=f"dropout{level}")(x)
        maps.append(x)
    for level in reversed(range(downsamplings)):
        width = filters * 2**level
        x = CONV_TRANSPOSE[2](width, 2, 2, kernel_initializer="he_normal", name=f"up{level}")(x)
        skip = CropLike(name=f"crop{level}")([maps[level], x])
        x = layers.Concatenate(name=f"skip{level}")([skip, x])
        x = stage(x, width, name=f"decoder{level}")
    x = score(x, num_classes, name="score")
    logits = CropLike(dtype="float32", name="logits")([x, image])
    return keras.Model(image, logits, name="unet2015")
