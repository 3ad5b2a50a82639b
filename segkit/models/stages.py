"""The description that all networks of the U-Net family are made from: one entry per stage.

A network is `encode`, `decode` (`segkit.models.encoder_decoder`) and a kind of stage
(`segkit.models.blocks`) over one `Stages`.
"""

from dataclasses import dataclass

from segkit.errors import ConfigError
from segkit.models.axes import multiples
from segkit.models.axes import per_axis
from segkit.models.axes import rank_of
from segkit.models.axes import stage_strides
from segkit.models.checks import check_input
from segkit.models.checks import check_range


@dataclass(frozen=True)
class Stages:
    """The stages of an encoder and its decoder, each a tuple with the finest stage first.

    Attributes:
        filters: Filters of each stage.
        strides: Stride along each axis from the stage before; 1 along all axes for the first.
        kernels: Size of the kernels along each axis.
        convs: Convolutions, or residual blocks, of each stage of the encoder.
        decoder_convs: Convolutions of each stage of the decoder, which has one stage fewer.
    """

    filters: tuple
    strides: tuple
    kernels: tuple
    convs: tuple
    decoder_convs: tuple

    @property
    def rank(self):
        """Number of spatial axes."""
        return len(self.strides[0])

    @property
    def multiples(self):
        """What the side of an image along each axis must be a multiple of."""
        return multiples(self.strides)


def doubling(model, rank, *, filters, max_filters, downsamplings, convs_per_stage):
    """Returns `Stages` with kernel 3 and stride 2 along every axis, and filters that double.

    Args:
        model: Name of the network, for the messages.
        rank: Number of spatial axes.
        filters: Filters of the first stage.
        max_filters: Upper bound on the filters of a stage.
        downsamplings: Number of stages after the first.
        convs_per_stage: Convolutions of every stage.

    Raises:
        ConfigError: If a number is too small.
    """
    check_range(model, "filters", filters, low=1)
    check_range(model, "downsamplings", downsamplings, low=0)
    check_range(model, "convs_per_stage", convs_per_stage, low=1)
    check_range(model, "max_filters", max_filters, low=1)
    return Stages(
        filters=tuple(min(filters * 2**level, max_filters) for level in range(downsamplings + 1)),
        strides=((1,) * rank, *((2,) * rank,) * downsamplings),
        kernels=((3,) * rank,) * (downsamplings + 1),
        convs=(convs_per_stage,) * (downsamplings + 1),
        decoder_convs=(convs_per_stage,) * downsamplings,
    )


def from_plan(
    model,
    num_classes,
    input_shape,
    *,
    features_per_stage,
    strides,
    kernel_sizes,
    convs,
    convs_decoder,
    convs_name="n_conv_per_stage",
):
    """Returns the `Stages` of a plan in nnU-Net's terms, checked against the input.

    A number in place of a list stands for all stages, or for all axes of one stage.

    Args:
        model: Name of the network, for the messages.
        num_classes: Number of classes, background included.
        input_shape: `(*spatial, channels)`; the number of spatial axes is that of the network.
        features_per_stage: Filters of each stage, finest first.
        strides: Per stage, one number or one per axis; `None`: 2 after the first stage.
        kernel_sizes: One number, or per stage one number or one per axis.
        convs: Of the encoder's stages, one number or one per stage.
        convs_decoder: Of the decoder's stages, *coarsest first* as in nnU-Net's plans.
        convs_name: What the plan calls `convs`.

    Raises:
        ConfigError: If a list has not one entry per stage or axis, a number is too small, the
            first stage has a stride, or there are fewer than two classes.
        ShapeError: If the input is neither 2-D nor 3-D, or a side does not fit.
    """
    rank, number = rank_of(model, input_shape), len(features_per_stage)
    if number < 2:
        raise ConfigError(
            f"{model} needs at least 2 stages, got features_per_stage {list(features_per_stage)}."
        )
    if strides is None:
        strides = [1, *[2] * (number - 1)]

    def per_stage(option, value, count=number):
        values = (value,) * count if isinstance(value, int) else tuple(value)
        if len(values) != count:
            raise ConfigError(
                f"{model} needs one number per stage in {option}, {count} in all, got {values}."
            )
        return values

    kernels = per_stage("kernel_sizes", kernel_sizes)
    stages = Stages(
        filters=tuple(features_per_stage),
        strides=stage_strides(model, strides, rank, stages=range(number, number + 1)),
        kernels=tuple(per_axis(model, "kernel_sizes", kernel, rank) for kernel in kernels),
        convs=per_stage(convs_name, convs),
        decoder_convs=per_stage("n_conv_per_stage_decoder", convs_decoder, number - 1)[::-1],
    )
    _check_numbers(model, stages, convs_name)
    check_input(model, num_classes, input_shape, rank=rank, multiple=stages.multiples)
    return stages


def _check_numbers(model, stages, convs_name):
    numbers = {
        "features_per_stage": stages.filters,
        convs_name: stages.convs,
        "n_conv_per_stage_decoder": stages.decoder_convs,
    }
    for option, values in numbers.items():
        check_range(model, option, min(values), low=1)
