"""MedNeXt: a U-Net of ConvNeXt blocks, in 2-D and 3-D."""

import keras
import numpy as np
from keras import layers

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.errors import nearest
from segkit.layers.depthwise import DepthwiseConvolution
from segkit.layers.depthwise import DepthwiseConvolutionTranspose
from segkit.layers.normalization import normalization as make_normalization
from segkit.models.axes import multiples
from segkit.models.axes import per_axis
from segkit.models.axes import rank_of
from segkit.models.axes import stage_strides
from segkit.models.blocks import CONV
from segkit.models.blocks import CONV_TRANSPOSE
from segkit.models.checks import check_input
from segkit.models.checks import check_range

# Per size: expansion ratio, and number of blocks, of each level; the decoder mirrors the encoder.
SIZES = {
    "S": ((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
    "B": ((2, 3, 4, 4, 4), (2, 2, 2, 2, 2)),
    "M": ((2, 3, 4, 4, 4), (3, 4, 4, 4, 4)),
    "L": ((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
}


def mednext(
    num_classes,
    input_shape,
    *,
    size: str = "S",
    kernel_size: int | list[int] = 3,
    filters: int = 32,
    strides: list[int | list[int]] = (1, 2, 2, 2, 2),
    normalization: str = "instance",
    deep_supervision: bool = False,
):
    """Builds MedNeXt, 2-D or 3-D as `input_shape` is.

    A block is a depthwise convolution, normalization, an expansion by a 1 x 1 convolution, GELU,
    and a compression by a 1 x 1 convolution, added to its input. Between the levels are blocks
    whose depthwise convolution has a stride, or is transposed, and whose input is resampled by a
    1 x 1 convolution with the same stride. Group normalization with one group per channel, as in
    the paper, is instance normalization.

    Departures from the paper and its code: the depthwise convolutions have no bias, because the
    normalization removes it; the transposed ones give twice the side, aligned with the encoder,
    where the code gives `2 n - 1` voxels and a plane of zeros in front of them; biases start at 0.
    With two classes, one channel and kernel 3 the sizes have 5,546,530, 10,506,466, 17,526,242
    and 61,714,370 weights; with the biases these are 5,550,914, 10,510,850, 17,533,506 and
    61,726,754, those of the code.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            `None` or multiples of the product of the strides.
        size: `"S"`, `"B"`, `"M"` or `"L"`: the expansion ratios and numbers of blocks.
        kernel_size: Of the depthwise convolutions, odd; one number or one per axis. The paper has
            3 and 5; see `upkern` for 5.
        filters: Of the first level; they double with each level.
        strides: Per level, one number or one per axis; the first is 1. The paper has five levels;
            fewer leave out the coarsest.
        normalization: `"instance"`, `"group"` (8 groups), `"batch"` (over groups of two
            examples) or `"none"`.
        deep_supervision: Score every level: the network then returns a dict of `logits`,
            `logits_1` (half the resolution), ... down to the coarsest level.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: Unknown size or normalization, a number out of range, or fewer than two
            classes.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side does not fit; names the
            size to pad to.

    Reference:
        Roy et al., "MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image
        Segmentation", MICCAI 2023, arXiv:2303.09975, figure 1 and table 1.
    """
    name = "mednext"
    rank = rank_of(name, input_shape)
    kernel_size = per_axis(name, "kernel_size", kernel_size, rank, odd=True)
    strides = stage_strides(name, strides, rank, stages=range(2, 6))
    check_range(name, "filters", filters, low=1)
    if size not in SIZES:
        raise ConfigError(f"{name}: unknown size {size!r}. {nearest(size, SIZES)}")
    check_input(name, num_classes, input_shape, rank=rank, multiple=multiples(strides))
    block = _Block(rank, kernel_size, normalization)
    levels = list(zip(*SIZES[size], strict=True))[: len(strides)]  # (expansion, blocks)

    inputs = keras.Input(input_shape, name="image")
    x = block.conv(inputs, filters, name="stem")
    skips = []
    for number, (expansion, blocks) in enumerate(levels[:-1]):
        x = block.level(x, expansion, blocks, name=f"encoder{number}")
        skips.append(x)
        x = block.down(x, expansion, strides[number + 1], name=f"down{number + 1}")
    deepest = len(skips)
    x = block.level(x, *levels[deepest], name=f"bottleneck{deepest}")
    outputs = {deepest: x}
    for number in reversed(range(deepest)):
        expansion, blocks = levels[number]
        x = block.up(x, expansion, strides[number + 1], name=f"up{number}")
        x = layers.Add(name=f"skip{number}")([skips[number], x])
        x = outputs[number] = block.level(x, expansion, blocks, name=f"decoder{number}")

    heads = {"logits": x}
    if deep_supervision:
        heads |= {f"logits_{number}": outputs[number] for number in range(1, deepest + 1)}
    heads = {k: block.conv(v, num_classes, name=k, dtype="float32") for k, v in heads.items()}
    return keras.Model(inputs, heads if deep_supervision else heads["logits"], name=name)


def upkern(large, small):
    """Starts a network from one with smaller kernels, resized linearly.

    Weights of one shape are copied; the kernels of depthwise convolutions are resized along each
    axis with half-pixel centres, and the outermost values go on. From 3 to 5, `(a, b, c)` becomes
    `(a, 0.6 a + 0.4 b, b, 0.4 b + 0.6 c, c)`.

    Args:
        large: `mednext` whose weights are set, such as with `kernel_size=5`.
        small: Trained `mednext` with the same options but `kernel_size`.

    Raises:
        ShapeError: If another option differs.

    Reference:
        Roy et al., MICCAI 2023, arXiv:2303.09975, section 2.3 (UpKern).
    """
    names = [[layer.name for layer in model.layers if layer.weights] for model in (large, small)]
    if names[0] != names[1]:
        raise ShapeError(
            "upkern needs two networks with the same layers, got "
            f"{len(names[0])} and {len(names[1])} with weights, or other names. Build both with "
            "the same options but kernel_size."
        )
    for name in names[0]:
        target, source = large.get_layer(name), small.get_layer(name)
        pairs = zip(source.get_weights(), target.weights, strict=True)
        target.set_weights([_fitted(weights, new.shape, name) for weights, new in pairs])


def _fitted(weights, shape, name):
    """Returns `weights` with the kernel sizes of `shape`, resized linearly."""
    if weights.shape[-2:] != tuple(shape[-2:]) or weights.ndim != len(shape):
        raise ShapeError(
            f"upkern cannot make weights of shape {tuple(shape)} of {weights.shape}, in the layer "
            f"{name}. Build both networks with the same options but kernel_size."
        )
    for axis in range(weights.ndim - 2):
        matrix = _interpolation(weights.shape[axis], shape[axis])
        weights = np.moveaxis(np.tensordot(matrix, weights, (1, axis)), 0, axis)
    return weights


def _interpolation(size, new_size):
    """Returns the matrix `(new_size, size)` of linear interpolation."""
    position = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    distance = np.abs(np.clip(position, 0, size - 1)[:, None] - np.arange(size))
    return np.clip(1 - distance, 0, None)


class _Block:
    """Makes the blocks of one network, which share rank, kernel size and normalization."""

    def __init__(self, rank, kernel_size, normalization):
        self.rank = rank
        self.kernel_size = kernel_size
        self.normalization = normalization
        # PyTorch's default, with which the paper's networks start.
        self.initializer = {
            "kernel_initializer": keras.initializers.VarianceScaling(1 / 3, distribution="uniform")
        }

    def conv(self, x, filters, *, name, kind=CONV, **options):
        """Returns a 1 x 1 convolution, with a stride or transposed by the options."""
        return kind[self.rank](filters, 1, name=name, **options, **self.initializer)(x)

    def __call__(self, x, expansion, filters, *, name, kind=DepthwiseConvolution, stride=None):
        """Returns depthwise convolution, normalization, expansion, GELU and compression."""
        channels = x.shape[-1]
        bias = self.normalization == "none"
        depthwise = kind(
            self.kernel_size, stride, use_bias=bias, name=f"{name}_depthwise", **self.initializer
        )
        x = depthwise(x)
        x = make_normalization(self.normalization, channels, name=f"{name}_norm")(x)
        x = self.conv(x, expansion, name=f"{name}_expand")
        x = layers.Activation("gelu", name=f"{name}_gelu")(x)
        return self.conv(x, filters, name=f"{name}_compress")

    def level(self, x, expansion, blocks, *, name):
        """Returns the result of some blocks, each added to its input."""
        channels = x.shape[-1]
        for i in range(1, blocks + 1):
            y = self(x, expansion * channels, channels, name=f"{name}_block{i}")
            x = layers.Add(name=f"{name}_add{i}")([x, y])
        return x

    def down(self, x, expansion, stride, *, name):
        """Returns a feature map of twice the channels on a coarser grid."""
        channels = x.shape[-1]
        y = self(x, expansion * channels, 2 * channels, name=name, stride=stride)
        x = self.conv(x, 2 * channels, name=f"{name}_residual", strides=stride)
        return layers.Add(name=f"{name}_add")([x, y])

    def up(self, x, expansion, stride, *, name):
        """Returns a feature map of half the channels on a finer grid."""
        channels, kind = x.shape[-1], DepthwiseConvolutionTranspose
        y = self(x, expansion * channels, channels // 2, name=name, kind=kind, stride=stride)
        residual = {"name": f"{name}_residual", "kind": CONV_TRANSPOSE, "strides": stride}
        x = self.conv(x, channels // 2, **residual)
        return layers.Add(name=f"{name}_add")([x, y])
