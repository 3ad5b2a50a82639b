"""ResNet generator of CycleGAN: an image becomes one of another look."""

import keras
from keras import layers
from keras import ops

from segkit.errors import ShapeError
from segkit.layers.normalization import normalization as make_normalization
from segkit.models.blocks import CONV
from segkit.models.checks import check_range
from segkit.models.gan.parts import finer
from segkit.models.gan.parts import u_stages

WIDE = 7


def translator(
    num_classes,
    input_shape,
    *,
    filters: int = 64,
    max_filters: int = 512,
    downsamplings: int = 2,
    blocks: int = 9,
    normalization: str = "instance",
):
    """Builds the ResNet generator of CycleGAN, in 2-D or 3-D.

    A wide convolution, strided ones, residual blocks at the coarsest resolution, and the way back;
    all convolutions but the strided ones pad by a mirror.

    Departures from the paper: voxels are repeated before a convolution, in place of a transposed
    one, which leaves a checkerboard; a convolution that is normalized has no bias, because the
    normalization removes it, and the normalization has scale and offset; linear output.

    Args:
        num_classes: Not used.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            `None` or multiples of `2 ** downsamplings`, with at least 2 voxels at the coarsest
            resolution and 4 at the finest.
        filters: Filters of the first convolution; they double with each downsampling.
        max_filters: Upper bound on the filters.
        downsamplings: How often the resolution is halved.
        blocks: Number of residual blocks; the paper has 6 for sides of 128 and 9 for 256.
        normalization: `"instance"`, `"group"` (8 groups; filters must be multiples of 8), `"batch"`
            (over groups of two examples) or `"none"`.

    Returns:
        `keras.Model` from a dict of `image`, `(batch, *spatial, channels)`, to a float32 image of
        that shape.

    Raises:
        ConfigError: A number is too small, or an unknown normalization.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side does not fit.

    Reference:
        Zhu et al., "Unpaired Image-to-Image Translation", ICCV 2017, arXiv:1703.10593, appendix
        7.2; residual blocks and sizes: Johnson et al., ECCV 2016, arXiv:1603.08155.
    """
    check_range("translator", "blocks", blocks, low=1)
    stages = u_stages(
        "translator",
        input_shape,
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
        convs_per_stage=1,
    )
    _check_mirrors(input_shape, downsamplings)
    image = keras.Input(input_shape, name="image")
    x = _layer(image, filters, normalization, kernel=WIDE, name="first")
    for level in range(1, downsamplings + 1):
        x = _layer(x, stages.filters[level], normalization, stride=2, name=f"down{level}")
    for number in range(1, blocks + 1):
        x = _block(x, normalization, name=f"block{number}")
    for level in reversed(range(downsamplings)):
        x = finer(x, name=f"finer{level}")
        x = _layer(x, stages.filters[level], normalization, name=f"up{level}")
    made = _mirrored_conv(x, input_shape[-1], WIDE, name="made", dtype="float32")
    return keras.Model({"image": image}, made, name="translator")


def _layer(x, filters, normalization, *, name, kernel=3, stride=1, activation=True):
    """Convolution, normalization and ReLU."""
    bias = normalization == "none"
    if stride == 1:
        x = _mirrored_conv(x, filters, kernel, name=f"{name}_conv", use_bias=bias)
    else:
        strided = CONV[len(x.shape) - 2](
            filters, kernel, strides=stride, padding="same", use_bias=bias, name=f"{name}_conv"
        )
        x = strided(x)
    x = make_normalization(normalization, filters, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x


def _block(x, normalization, *, name):
    filters = x.shape[-1]
    inner = _layer(x, filters, normalization, name=f"{name}_1")
    inner = _layer(inner, filters, normalization, activation=False, name=f"{name}_2")
    return layers.Add(name=f"{name}_add")([x, inner])


def _mirrored_conv(x, filters, kernel, *, name, **options):
    margin, rank = kernel // 2, len(x.shape) - 2
    padded = ops.pad(x, ((0, 0), *((margin, margin),) * rank, (0, 0)), mode="reflect")
    return CONV[rank](filters, kernel, padding="valid", name=name, **options)(padded)


def _check_mirrors(input_shape, downsamplings):
    """A mirror shows no more than there is beside the outermost voxel."""
    smallest = max(WIDE // 2 + 1, 2 * 2**downsamplings)
    sides = [side for side in input_shape[:-1] if side is not None]
    if sides and min(sides) < smallest:
        raise ShapeError(
            f"translator needs sides of at least {smallest} for downsamplings {downsamplings}, got "
            f"{input_shape}. Use a larger patch, or fewer of them."
        )
