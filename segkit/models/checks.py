"""Checks that all networks make on what they are asked to be built for."""

import math

from segkit.errors import ConfigError
from segkit.errors import ShapeError

AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}


def check_input(model, num_classes, input_shape, *, rank, multiple):
    """Checks the number of classes, and that the input can be shrunk as often as needed.

    Args:
        model: Name of the network, for the messages.
        num_classes: Number of classes, background included.
        input_shape: `(*spatial, channels)`; sides may be `None`.
        rank: Number of spatial axes that the network works on.
        multiple: Every fixed side must be a multiple of this; one number, or one per axis.

    Raises:
        ConfigError: If there are fewer than two classes.
        ShapeError: If the shape has another rank, no channels, or a side that does not fit.
    """
    if num_classes < 2:
        raise ConfigError(
            f"{model} needs at least 2 classes, got {num_classes}. Count the background as one."
        )
    if len(input_shape) != rank + 1 or not input_shape[-1]:
        raise ShapeError(
            f"{model} is {rank}-D and needs input_shape ({', '.join(AXES[rank])}, channels), "
            f"got {input_shape}. Use a {rank}-D patch, or a network for {5 - rank}-D."
        )
    factors = (multiple,) * rank if isinstance(multiple, int) else multiple
    for axis, side, factor in zip(AXES[rank], input_shape, factors, strict=False):
        if side is not None and (side < 1 or side % factor):
            padded = max(1, -(-side // factor)) * factor
            raise ShapeError(
                f"{model} needs a {axis} that is a multiple of {factor}, got {side}. "
                f"Pad it to {padded}, or pass None."
            )


def check_range(model, option, value, *, low, high=math.inf):
    """Checks that `low <= value < high`.

    Args:
        model: Name of the network, for the message.
        option: Name of the option, for the message.
        value: Its value.
        low: Smallest value allowed.
        high: Smallest value that is too large.

    Raises:
        ConfigError: If it is outside.
    """
    if not low <= value < high:
        below = "" if high == math.inf else f" and below {high}"
        raise ConfigError(f"{model} needs {option} to be at least {low}{below}, got {value}.")
