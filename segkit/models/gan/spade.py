"""SPADE generator: a label map becomes an image."""

from functools import partial

import keras
from keras import layers
from keras import ops

from segkit.layers.pixel_noise import PixelNoise
from segkit.layers.spade_norm import SpadeNormalization
from segkit.models.checks import check_classes
from segkit.models.checks import check_range
from segkit.models.gan.parts import SLOPE
from segkit.models.gan.parts import conv
from segkit.models.gan.parts import finer
from segkit.models.gan.parts import first_map
from segkit.models.gan.parts import noise_input
from segkit.models.gan.parts import rising

AVERAGE_POOL = {2: layers.AveragePooling2D, 3: layers.AveragePooling3D}


def spade(
    num_classes,
    input_shape,
    *,
    filters: int = 64,
    max_filters: int = 1024,
    upsamplings: int = 5,
    hidden: int = 128,
    noise: int = 64,
    spectral_norm: bool = True,
    pixel_noise: bool = False,
):
    """Builds the SPADE generator, in 2-D or 3-D.

    The noise becomes the coarsest map; at each resolution stands a residual block whose
    normalizations take scale and offset from the label map and the noise, and between them voxels
    are repeated.

    Departures from the paper: statistics of each example, not of the batch, so that examples do
    not see each other; the noise is added, by a dense layer, to what each normalization sees of
    the label map, as statistics of each example would take from the coarsest map what is alike
    throughout an image (a convolution of label map and noise side by side, as in OASIS); the label
    map is made coarser by the mean of its one-hot voxels, in which small structures stay, not by
    taking one voxel of many; one block at the second resolution, not two; linear output.

    Args:
        num_classes: Number of classes of the label map, background included. A voxel with a label
            outside of `0 ... num_classes - 1` belongs to no class.
        input_shape: Shape of the image to make, `(height, width, channels)` or `(depth, height,
            width, channels)`; sides are multiples of `2 ** upsamplings`.
        filters: Filters of the finest resolution; they double with each that is coarser.
        max_filters: Upper bound on the filters.
        upsamplings: How often the resolution is doubled.
        hidden: Filters between label map and noise, and scale and offset, in each normalization.
        noise: Size of the noise.
        spectral_norm: Divide the kernels of the blocks by their largest singular value.
        pixel_noise: Add noise to each voxel after every convolution of a block, as StyleGAN does:
            for fine texture, which the noise of the coarsest map hardly reaches.

    Returns:
        `keras.Model` from a dict of `label`, int32 `(batch, *spatial)`, and `noise`,
        `(batch, noise)`, to a float32 image `(batch, *spatial, channels)`.

    Raises:
        ConfigError: A number is too small.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side is `None` or does not fit.

    Reference:
        Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019,
        arXiv:1903.07291, figures 3, 4 and 11; `SPADEGenerator` of NVlabs/SPADE. OASIS: Sushko et
        al., ICLR 2021, arXiv:2012.04781, section 3.3.
    """
    check_classes("spade", num_classes)
    check_range("spade", "hidden", hidden, low=1)
    widths, sides = rising(
        "spade",
        input_shape,
        filters=filters,
        max_filters=max_filters,
        upsamplings=upsamplings,
    )
    label = keras.Input(input_shape[:-1], dtype="int32", name="label")
    inputs = {"label": label, "noise": noise_input("spade", noise)}
    maps = _label_maps(label, num_classes, upsamplings)
    block = partial(_block, hidden=hidden, spectral_norm=spectral_norm, pixel_noise=pixel_noise)
    x = first_map(inputs["noise"], sides, widths[-1])
    for level in reversed(range(len(widths))):
        if level < upsamplings:
            x = finer(x, name=f"up{level}")
        x = block(x, (maps[level], inputs["noise"]), widths[level], name=f"block{level}")
    x = layers.LeakyReLU(SLOPE, name="last_relu")(x)
    made = conv(x, input_shape[-1], kernel=3, name="made", dtype="float32")
    return keras.Model(inputs, made, name="spade")


def _label_maps(label, num_classes, upsamplings):
    """The shares of the classes in each voxel of each resolution, the finest first."""
    maps = [ops.one_hot(label, num_classes, dtype="float32")]
    pool = AVERAGE_POOL[len(label.shape) - 1]
    for level in range(1, upsamplings + 1):
        # In float32: TensorFlow does not pool float16 volumes on CPUs.
        maps.append(pool(2, dtype="float32", name=f"label{level}")(maps[-1]))
    return maps


def _block(x, given, filters, *, hidden, spectral_norm, pixel_noise, name):
    """A residual block: two convolutions, and beside them one where the filters change."""
    before = x.shape[-1]
    middle = min(before, filters)
    shared = {"spectral_norm": spectral_norm}
    beside = x
    if before != filters:
        beside = _normalized(x, given, hidden, name=f"{name}_beside")
        beside = conv(beside, filters, kernel=1, bias=False, name=f"{name}_beside_conv", **shared)
    for number, width in enumerate((middle, filters), start=1):
        x = _normalized(x, given, hidden, name=f"{name}_{number}")
        x = layers.LeakyReLU(SLOPE, name=f"{name}_relu{number}")(x)
        x = conv(x, width, kernel=3, name=f"{name}_conv{number}", **shared)
        if pixel_noise:
            x = PixelNoise(name=f"{name}_noise{number}")(x)
    return layers.Add(name=f"{name}_add")([beside, x])


def _normalized(x, given, hidden, *, name):
    """Feature map, normalized, with scale and offset from what is given: label map and noise."""
    label, noise = given
    seen = conv(label, hidden, kernel=3, name=f"{name}_label_conv")
    style = layers.Dense(hidden, use_bias=False, name=f"{name}_noise_dense")(noise)
    style = layers.Reshape((1,) * (len(x.shape) - 2) + (hidden,), name=f"{name}_noise_map")(style)
    seen = layers.Add(name=f"{name}_label_and_noise")([seen, style])
    seen = layers.ReLU(name=f"{name}_label_relu")(seen)
    maps = conv(seen, 2 * x.shape[-1], kernel=3, name=f"{name}_scale_and_offset")
    return SpadeNormalization(name=f"{name}_norm")([x, maps])
