"""Style-based generator: noise becomes a style, and the style an image."""

import math

import keras
from keras import layers
from keras import ops

from segkit.layers.learned_map import LearnedMap
from segkit.layers.linear_upsampling import LinearUpsampling
from segkit.layers.modulated import ModulatedConvolution
from segkit.layers.pixel_noise import PixelNoise
from segkit.models.checks import check_range
from segkit.models.gan.parts import SLOPE
from segkit.models.gan.parts import noise_and_class
from segkit.models.gan.parts import rising

EPSILON = 1e-8


def style(
    num_classes,
    input_shape,
    *,
    filters: int = 64,
    max_filters: int = 512,
    upsamplings: int = 5,
    noise: int = 512,
    classes: int = 0,
    mapping_layers: int = 8,
    style_size: int = 512,
    pixel_noise: bool = True,
):
    """Builds the generator of StyleGAN2, in 2-D or 3-D.

    A mapping network makes a style of the noise. From a learned map, each resolution has two
    modulated convolutions (the coarsest one), each with noise per voxel, and a part of the image;
    the image is the sum of all parts, upsampled.

    Departures from the paper: linear upsampling before a convolution, in place of a transposed one
    and a blur; no equalized learning rates, nor a smaller one of the mapping network; no mixing of
    styles; an embedded class stands beside the noise.

    Args:
        num_classes: Not used: an image from noise has no label map.
        input_shape: Shape of the image to make, `(height, width, channels)` or `(depth, height,
            width, channels)`; sides are multiples of `2 ** upsamplings`.
        filters: Filters of the finest resolution; they double with each that is coarser.
        max_filters: Upper bound on the filters.
        upsamplings: How often the resolution is doubled.
        noise: Size of the noise.
        classes: Number of classes of images to choose from, or 0: none.
        mapping_layers: Dense layers from noise to style.
        style_size: Size of the style.
        pixel_noise: Add noise to each voxel after every modulated convolution.

    Returns:
        `keras.Model` from a dict of `noise`, `(batch, noise)`, and with `classes` of `class`, int32
        `(batch,)`, to a float32 image `(batch, *spatial, channels)`.

    Raises:
        ConfigError: A number is too small.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side is `None` or does not fit.

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020,
        arXiv:1912.04958, figures 2c and 7b (output skips).
    """
    check_range("style", "mapping_layers", mapping_layers, low=1)
    check_range("style", "style_size", style_size, low=1)
    widths, sides = rising(
        "style",
        input_shape,
        filters=filters,
        max_filters=max_filters,
        upsamplings=upsamplings,
    )
    inputs, vector = noise_and_class("style", noise, classes)
    w = _mapped(vector, mapping_layers, style_size)
    x, image = LearnedMap((*sides, widths[-1]), name="start")(w), None
    for level in reversed(range(len(widths))):
        if level < upsamplings:
            x = LinearUpsampling((2,) * len(sides), name=f"up{level}")(x)
            x = _styled(x, w, widths[level], pixel_noise, name=f"block{level}_1")
            image = LinearUpsampling((2,) * len(sides), dtype="float32", name=f"grown{level}")(
                image
            )
        x = _styled(x, w, widths[level], pixel_noise, name=f"block{level}_2")
        part = _part(x, w, input_shape[-1], name=f"part{level}")
        image = (
            part
            if image is None
            else layers.Add(dtype="float32", name=f"sum{level}")([image, part])
        )
    return keras.Model(inputs, image, name="style")


def _mapped(vector, depth, size):
    """The style of a vector, which is first brought to a mean square of 1."""
    w = vector * ops.rsqrt(ops.mean(ops.square(vector), axis=-1, keepdims=True) + EPSILON)
    for number in range(1, depth + 1):
        dense = layers.Dense(size, kernel_initializer="he_normal", name=f"mapping{number}")
        w = layers.LeakyReLU(SLOPE, name=f"mapping_relu{number}")(dense(w))
    return w


def _styled(x, w, filters, pixel_noise, *, name):
    kernel = (3,) * (len(x.shape) - 2)
    x = ModulatedConvolution(filters, kernel, name=f"{name}_conv")([x, _affine(x, w, name)])
    if pixel_noise:
        x = PixelNoise(name=f"{name}_noise")(x)
    # The factor keeps the mean square of the activations at about 1.
    return math.sqrt(2.0) * layers.LeakyReLU(SLOPE, name=f"{name}_relu")(x)


def _part(x, w, channels, *, name):
    """What one resolution adds to the image."""
    kernel = (1,) * (len(x.shape) - 2)
    part = ModulatedConvolution(channels, kernel, demodulate=False, dtype="float32", name=name)
    return part([x, _affine(x, w, name)])


def _affine(x, w, name):
    """One factor for each channel of a map, 1 where the style is 0."""
    return layers.Dense(x.shape[-1], bias_initializer="ones", name=f"{name}_style")(w)
