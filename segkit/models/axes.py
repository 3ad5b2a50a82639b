"""Options that have one number per axis, or per stage and axis."""

import math

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models.checks import AXES


def rank_of(model, input_shape):
    """Returns the number of spatial axes, for a network that is 2-D or 3-D as its input is.

    Args:
        model: Name of the network, for the message.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`.

    Raises:
        ShapeError: If it is neither.
    """
    rank = len(input_shape) - 1
    if rank not in AXES:
        raise ShapeError(
            f"{model} needs input_shape (height, width, channels) or (depth, height, width, "
            f"channels), got {input_shape}. Use a patch of 2 or 3 sides."
        )
    return rank


def per_axis(model, option, value, rank, *, odd=False):
    """Returns an option as one number per axis.

    Args:
        model: Name of the network, for the messages.
        option: Name of the option, for the messages.
        value: One integer for all axes, or a list with one per axis.
        rank: Number of spatial axes.
        odd: Whether the numbers must be odd.

    Raises:
        ConfigError: If there is not one number per axis, or one is below 1 or not odd.
    """
    numbers = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(numbers) != rank:
        raise ConfigError(
            f"{model} needs one number per axis in {option}, {rank} in all, got {value}."
        )
    if any(n < 1 or (odd and n % 2 == 0) for n in numbers):
        kind = "odd numbers" if odd else "numbers of at least 1"
        raise ConfigError(f"{model} needs {kind} in {option}, got {value}.")
    return numbers


def stage_strides(model, strides, rank, *, stages):
    """Returns the strides of all stages, one tuple with a number per axis for each.

    Args:
        model: Name of the network, for the messages.
        strides: Per stage one integer, or a list with one per axis; the first is 1.
        rank: Number of spatial axes.
        stages: How many stages the network may have, a range.

    Raises:
        ConfigError: If their number does not fit, the first is not 1, or as `per_axis`.
    """
    if len(strides) not in stages:
        allowed = f"{stages[0]}" if len(stages) == 1 else f"{stages[0]} to {stages[-1]}"
        raise ConfigError(
            f"{model} needs one entry of strides per stage, {allowed} in all, got {list(strides)}."
        )
    found = tuple(per_axis(model, "strides", entry, rank) for entry in strides)
    if math.prod(found[0]) != 1:
        raise ConfigError(
            f"{model} needs a stride of 1 in the first stage, got {strides[0]}. Start strides "
            "with 1."
        )
    return found


def multiples(strides):
    """Returns what the side of an image along each axis must be a multiple of."""
    return tuple(math.prod(along) for along in zip(*strides, strict=True))
