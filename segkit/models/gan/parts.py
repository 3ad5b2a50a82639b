"""What generators and critics share: inputs, the coarsest map, convolutions, stages."""

import math

import keras
from keras import initializers
from keras import layers
from keras import ops

from segkit.errors import ConfigError
from segkit.layers.normalization import normalization as make_normalization
from segkit.layers.spectral_norm import SpectralConvolution
from segkit.models.axes import rank_of
from segkit.models.blocks import CONV
from segkit.models.checks import check_range
from segkit.models.checks import check_sides
from segkit.models.encoder_decoder import join
from segkit.models.stages import doubling

SLOPE = 0.2  # of the LeakyReLUs
UPSAMPLING = {2: layers.UpSampling2D, 3: layers.UpSampling3D}


def rising(model, input_shape, *, filters, max_filters, upsamplings):
    """Returns the filters of each resolution, the finest first, and the sides of the coarsest.

    Args:
        model: Name of the network, for the messages.
        input_shape: Shape of the image to make.
        filters: Filters of the finest resolution; they double with each that is coarser.
        max_filters: Upper bound on them.
        upsamplings: How often the resolution is doubled.

    Raises:
        ConfigError: A number is too small.
        ShapeError: The image is neither 2-D nor 3-D, or a side is `None` or does not fit.
    """
    check_range(model, "upsamplings", upsamplings, low=0)
    widths = halving(
        model, input_shape, filters=filters, max_filters=max_filters, downsamplings=upsamplings
    )
    return widths, tuple(side // 2**upsamplings for side in input_shape[:-1])


def halving(model, input_shape, *, filters, max_filters, downsamplings):
    """Returns the filters of each resolution, the finest first, of a network of one size of image.

    Args:
        model: As in `rising`, and so are the others and what is raised.
        input_shape: Shape of the image.
        filters: Filters.
        max_filters: Upper bound.
        downsamplings: How often the resolution is halved.
    """
    rank = rank_of(model, input_shape)
    stages = doubling(
        model,
        rank,
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
        convs_per_stage=1,
    )
    check_sides(model, input_shape, rank=rank, multiple=stages.multiples, known=True)
    return stages.filters


def u_stages(model, input_shape, **options):
    """Returns the `Stages` of a network from image to image.

    Args:
        model: Name of the network, for the messages.
        input_shape: Shape of the image; a side may be `None`.
        **options: As for `doubling`.

    Raises:
        ConfigError: A number is too small.
        ShapeError: The image is neither 2-D nor 3-D, or a side does not fit.
    """
    rank = rank_of(model, input_shape)
    stages = doubling(model, rank, **options)
    check_sides(model, input_shape, rank=rank, multiple=stages.multiples)
    return stages


def joined(maps, stages, stage):
    """Returns the finest map of a decoder, see `segkit.models.encoder_decoder.decode`."""
    x = maps[-1]
    for level in reversed(range(len(maps) - 1)):
        x = join([maps[level]], x, stages, level, stage, suffix=str(level))
    return x


def noise_input(model, noise):
    """Returns the input of noise, `(batch, noise)`; refuses a size below 1."""
    check_range(model, "noise", noise, low=1)
    return keras.Input((noise,), name="noise")


def noise_and_class(model, noise, classes):
    """Returns the inputs of a network that makes images from noise, and both as one vector.

    Args:
        model: Name of the network, for the messages.
        noise: Size of the noise.
        classes: Number of classes of images, or 0: none. The class is embedded in as many
            numbers as the noise has.

    Returns:
        Dict of inputs and a vector `(batch, width)`.

    Raises:
        ConfigError: A number is too small.
    """
    inputs = {"noise": noise_input(model, noise)}
    if not classes:
        return inputs, inputs["noise"]
    inputs["class"] = class_input(model, classes)
    one_hot = ops.one_hot(inputs["class"], classes, dtype="float32")
    # A product and no look-up: the gradient of that is sparse, and is not summed over replicas.
    initial = initializers.RandomNormal(stddev=1.0)  # as the noise
    embedding = layers.Dense(
        noise, use_bias=False, kernel_initializer=initial, name="class_embedding"
    )
    together = layers.Concatenate(name="noise_and_class")
    return inputs, together([inputs["noise"], embedding(one_hot)])


def class_input(model, classes):
    """Returns the input of a class of images, int32 `(batch,)`; refuses a single class."""
    if classes < 2:
        raise ConfigError(f"{model} needs classes to be 0 or at least 2, got {classes}.")
    return keras.Input((), dtype="int32", name="class")


def critic_inputs(model, input_shape, condition_channels):
    """Returns the inputs of a critic, and image and condition as one map."""
    check_range(model, "condition_channels", condition_channels, low=0)
    inputs = {"image": keras.Input(input_shape, name="image")}
    if not condition_channels:
        return inputs, inputs["image"]
    inputs["condition"] = keras.Input((*input_shape[:-1], condition_channels), name="condition")
    return inputs, layers.Concatenate(name="image_and_condition")(list(inputs.values()))


def first_map(vector, sides, filters):
    """Returns the coarsest feature map, `(batch, *sides, filters)`, linear in a vector."""
    x = layers.Dense(math.prod(sides) * filters, name="start")(vector)
    return layers.Reshape((*sides, filters), name="start_map")(x)


def conv(x, filters, *, kernel, name, stride=1, bias=True, spectral_norm=False, **options):
    """Returns a padded convolution of a feature map, with spectral norm if asked for.

    Options are further ones of the layer, such as `dtype`.
    """
    rank, options = len(x.shape) - 2, {"use_bias": bias, "name": name, **options}
    if spectral_norm:
        return SpectralConvolution(filters, (kernel,) * rank, stride, **options)(x)
    return CONV[rank](filters, kernel, strides=stride, padding="same", **options)(x)


def critic_stage(x, filters, *, kernel, stride, normalization, spectral_norm, prefix, number):
    """Returns a feature map after convolution, normalization and LeakyReLU.

    Args:
        x: Feature map, `(batch, *spatial, channels)`.
        filters: Filters.
        kernel: Size of the kernel along each axis.
        stride: Stride along each axis.
        normalization: `"instance"` or `"none"`; stage 0 has none.
        spectral_norm: Whether the kernel has spectral norm.
        prefix: Layers are called `{prefix}conv{number}`, `{prefix}norm{number}`, ...
        number: Number of the stage, from 0.

    Raises:
        ConfigError: An unknown normalization.
    """
    x = conv(
        x,
        filters,
        kernel=kernel,
        stride=stride,
        bias=not number or normalization == "none",
        spectral_norm=spectral_norm,
        name=f"{prefix}conv{number}",
    )
    if number:
        name, known = f"{prefix}norm{number}", ("instance", "none")
        x = make_normalization(normalization, filters, name=name, known=known)(x)
    return layers.LeakyReLU(SLOPE, name=f"{prefix}relu{number}")(x)


def finer(x, *, name):
    """Returns a feature map on a grid that is twice as fine, by repeating voxels."""
    return UPSAMPLING[len(x.shape) - 2](2, name=name)(x)


def float32(features):
    """Returns feature maps in float32, whatever the precision of the network."""
    return ops.cast(features, "float32")
