"""Critic that judges an image as a whole."""

import keras
from keras import layers
from keras import ops

from segkit.errors import ConfigError
from segkit.layers.minibatch_deviation import MinibatchDeviation
from segkit.layers.spectral_norm import SpectralDense
from segkit.models.checks import check_range
from segkit.models.gan.parts import SLOPE
from segkit.models.gan.parts import class_input
from segkit.models.gan.parts import conv
from segkit.models.gan.parts import critic_inputs
from segkit.models.gan.parts import critic_stage
from segkit.models.gan.parts import float32
from segkit.models.gan.parts import halving


def global_critic(
    input_shape,
    condition_channels,
    *,
    filters: int = 64,
    max_filters: int = 512,
    downsamplings: int = 4,
    minibatch_deviation: int = 0,
    classes: int = 0,
    normalization: str = "none",
    spectral_norm: bool = True,
):
    """Builds a critic that gives one logit per image, in 2-D or 3-D.

    A convolution, then strided ones that double the filters, then one without stride, then a
    vector `h` of all that is left, and of it

        logit = w h + b + v(class) h

    with the last term only where there are `classes`.

    Args:
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            multiples of `2 ** downsamplings`.
        condition_channels: Channels of what is seen beside the image, or 0.
        filters: Filters of the first convolution; they double with each downsampling.
        max_filters: Upper bound on the filters, and the size of `h`, if it is less.
        downsamplings: How often the resolution is halved.
        minibatch_deviation: Number of consecutive examples over which the deviation of the
            coarsest features is added as a channel, or 0: not.
        classes: Number of classes of images, or 0: none. The critic then takes `class`, int32
            `(batch,)`.
        normalization: `"none"` or `"instance"`, after all strided convolutions.
        spectral_norm: Divide all kernels by their largest singular value.

    Returns:
        `keras.Model` as `segkit.models.build_critic` says, with one scale: `logits_0` has shape
        `(batch, 1)`.

    Raises:
        ConfigError: A number is out of range, or an unknown normalization.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side is `None` or does not fit.

    Reference:
        Radford et al., ICLR 2016, arXiv:1511.06434 (strided convolutions); Karras et al., CVPR
        2020, arXiv:1912.04958 (from the coarsest map to the logit, without residual paths);
        Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018, arXiv:1802.05637,
        equation 3 (classes).
    """
    widths = halving(
        "global",
        input_shape,
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
    )
    check_range("global", "minibatch_deviation", minibatch_deviation, low=0)
    if minibatch_deviation == 1:
        raise ConfigError(
            "global needs minibatch_deviation to be 0 or at least 2, got 1: one example has no "
            "deviation."
        )
    inputs, x = critic_inputs("global", input_shape, condition_channels)
    if classes:
        inputs["class"] = class_input("global", classes)
    maps = _maps(x, widths, normalization, spectral_norm)
    x = maps[-1]
    if minibatch_deviation:
        x = MinibatchDeviation(minibatch_deviation, name="deviation")(x)
    x = conv(x, widths[-1], kernel=3, spectral_norm=spectral_norm, name="last_conv")
    x = layers.Flatten(name="flat")(layers.LeakyReLU(SLOPE, name="last_relu")(x))
    vector = _dense(x, widths[-1], spectral_norm, name="vector")
    vector = layers.LeakyReLU(SLOPE, name="vector_relu")(vector)
    logits = _dense(vector, 1, spectral_norm, name="logits", dtype="float32")
    if classes:
        logits = logits + _projection(inputs["class"], classes, vector, spectral_norm)
    features = {f"features_0_{number}": float32(found) for number, found in enumerate(maps)}
    return keras.Model(inputs, {"logits_0": logits, **features}, name="global")


def _maps(x, widths, normalization, spectral_norm):
    """The feature maps of all resolutions, the finest first."""
    maps = []
    for level, filters in enumerate(widths):
        x = critic_stage(
            x,
            filters,
            kernel=4 if level else 3,
            stride=2 if level else 1,
            normalization=normalization,
            spectral_norm=spectral_norm,
            prefix="",
            number=level,
        )
        maps.append(x)
    return maps


def _projection(number, classes, vector, spectral_norm):
    """The product of an embedding of the class and the vector of the image."""
    one_hot = ops.one_hot(number, classes, dtype="float32")
    embedded = _dense(
        one_hot,
        vector.shape[-1],
        spectral_norm,
        bias=False,
        name="class_embedding",
        dtype="float32",
    )
    return ops.sum(embedded * float32(vector), axis=-1, keepdims=True)


def _dense(x, units, spectral_norm, *, name, bias=True, dtype=None):
    make = SpectralDense if spectral_norm else layers.Dense
    return make(units, use_bias=bias, name=name, dtype=dtype)(x)
