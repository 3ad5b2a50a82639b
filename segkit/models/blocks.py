"""What the stages of a network are made of: convolution, dropout, normalization, LeakyReLU."""

from dataclasses import dataclass

from keras import layers

from segkit.layers.dropout import Dropout
from segkit.layers.leaky_sum import LeakySum
from segkit.layers.normalization import normalization as make_normalization
from segkit.layers.stochastic_depth import StochasticDepth

CONV = {2: layers.Conv2D, 3: layers.Conv3D}
CONV_TRANSPOSE = {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}


@dataclass(frozen=True)
class Style:
    """How all convolutions of a network are made.

    Attributes:
        normalization: `"instance"`, `"group"` (8 groups), `"batch"` (over groups of two examples)
            or `"none"`.
        bias: Whether convolutions have a bias; `None`: where no normalization removes it.
        spatial_dropout: Rate at which whole channels are dropped between convolution and
            normalization.
        padding: `"same"` or `"valid"`.
        slope: Slope of the LeakyReLU below 0.
    """

    normalization: str = "instance"
    bias: bool | None = None
    spatial_dropout: float = 0.0
    padding: str = "same"
    slope: float = 0.01

    @property
    def use_bias(self):
        """Whether convolutions have a bias."""
        return self.normalization == "none" if self.bias is None else self.bias


def conv_norm(x, filters, *, kernel, stride, style, name, number):
    """Returns convolution, dropout and normalization of a feature map, without activation."""
    x = CONV[len(x.shape) - 2](
        filters,
        kernel,
        strides=stride,
        padding=style.padding,
        use_bias=style.use_bias,
        kernel_initializer="he_normal",
        name=f"{name}_conv{number}",
    )(x)
    if style.spatial_dropout:
        x = Dropout(style.spatial_dropout, spatial=True, name=f"{name}_dropout{number}")(x)
    return make_normalization(style.normalization, filters, name=f"{name}_norm{number}")(x)


def relu(x, *, style, name, number):
    """Returns the LeakyReLU of a feature map."""
    return layers.LeakyReLU(style.slope, name=f"{name}_relu{number}")(x)


def relu_of_sum(start, x, *, style, name, number):
    """Returns the activated sum of what a block began with and its last convolution."""
    x = layers.Add(name=f"{name}_add")([start, x])
    if style.normalization == "none":
        return LeakySum(style.slope, name=f"{name}_relu{number}")(x)
    return relu(x, style=style, name=name, number=number)


def conv_stage(x, filters, *, kernel, stride, convs, style, name, first=1):
    """Returns a feature map after some convolutions; the first of them has the stride.

    Args:
        x: Feature map, `(batch, *spatial, channels)`.
        filters: Filters of each convolution.
        kernel: Size of the kernels along each axis.
        stride: Stride of the first convolution, one number or one per axis.
        convs: Number of convolutions.
        style: A `Style`.
        name: Layers are called `{name}_conv1`, `{name}_norm1`, `{name}_relu1`, ...
        first: Number of the first convolution, in the names.
    """
    for number in range(first, first + convs):
        x = conv_norm(
            x, filters, kernel=kernel, stride=stride, style=style, name=name, number=number
        )
        x = relu(x, style=style, name=name, number=number)
        stride = 1
    return x


def residual_stage(x, filters, *, kernel, stride, convs, style, name, stochastic_depth=0.0):
    """Returns a feature map after some convolutions, the result of the first added to the last.

    The sum is taken before the last activation. It has the weights of `conv_stage`.

    Args:
        x: As in `conv_stage`, and so are the others.
        filters: Filters.
        kernel: Kernel.
        stride: Stride.
        convs: At least 2.
        style: Style.
        name: Name.
        stochastic_depth: Rate at which the convolutions after the first are left out.
    """
    shared = {"kernel": kernel, "style": style, "name": name}
    start = conv_stage(x, filters, stride=stride, convs=1, **shared)
    x = conv_stage(start, filters, stride=1, convs=convs - 2, first=2, **shared)
    x = conv_norm(x, filters, stride=1, number=convs, **shared)
    if stochastic_depth:
        x = StochasticDepth(stochastic_depth, name=f"{name}_depth")(x)
    return relu_of_sum(start, x, style=style, name=name, number=convs)
