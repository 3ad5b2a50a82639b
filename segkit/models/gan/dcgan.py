"""DCGAN generator: noise becomes an image, by transposed convolutions."""

import keras
from keras import layers

from segkit.layers.normalization import normalization as make_normalization
from segkit.models.blocks import CONV
from segkit.models.blocks import CONV_TRANSPOSE
from segkit.models.gan.parts import first_map
from segkit.models.gan.parts import noise_and_class
from segkit.models.gan.parts import rising


def dcgan(
    num_classes,
    input_shape,
    *,
    filters: int = 64,
    max_filters: int = 1024,
    upsamplings: int = 4,
    noise: int = 100,
    classes: int = 0,
    normalization: str = "group",
):
    """Builds the DCGAN generator, in 2-D or 3-D.

    Departures from the paper: kernel 4, a multiple of the stride, which covers all voxels alike;
    groups of 8 channels normalized instead of the batch, so that examples do not see each other;
    linear output at the filters of the paper's second last layer, by one convolution more; a
    class beside the noise.

    Args:
        num_classes: Not used: an image from noise has no label map.
        input_shape: Shape of the image to make, `(height, width, channels)` or `(depth, height,
            width, channels)`; sides are multiples of `2 ** upsamplings`.
        filters: Filters of the finest resolution; they double with each that is coarser.
        max_filters: Upper bound on the filters.
        upsamplings: How often the resolution is doubled.
        noise: Size of the noise.
        classes: Number of classes of images to choose from, or 0: none.
        normalization: `"group"` (8 groups; filters must be multiples of 8), `"instance"`,
            `"batch"` (over groups of two examples) or `"none"`.

    Returns:
        `keras.Model` from a dict of `noise`, `(batch, noise)`, and with `classes` of `class`, int32
        `(batch,)`, to a float32 image `(batch, *spatial, channels)`.

    Raises:
        ConfigError: A number is too small, or an unknown normalization.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side is `None` or does not fit.

    Reference:
        Radford et al., "Unsupervised Representation Learning with Deep Convolutional GANs", ICLR
        2016, arXiv:1511.06434, figure 1.
    """
    widths, sides = rising(
        "dcgan",
        input_shape,
        filters=filters,
        max_filters=max_filters,
        upsamplings=upsamplings,
    )
    inputs, vector = noise_and_class("dcgan", noise, classes)
    x = first_map(vector, sides, widths[-1])
    for level in reversed(range(len(widths))):
        if level < upsamplings:
            x = CONV_TRANSPOSE[len(sides)](
                widths[level],
                4,
                2,
                padding="same",
                use_bias=normalization == "none",
                kernel_initializer="he_normal",
                name=f"up{level}",
            )(x)
        x = make_normalization(normalization, widths[level], name=f"norm{level}")(x)
        x = layers.ReLU(name=f"relu{level}")(x)
    made = CONV[len(sides)](input_shape[-1], 3, padding="same", dtype="float32", name="made")(x)
    return keras.Model(inputs, made, name="dcgan")
