"""Checks of options whose values could not mean anything."""

import math

from segkit.errors import ConfigError


def check_range(option, limits, *, least=-math.inf, most=math.inf):
    """Returns a range `[low, high]` if it is one.

    Args:
        option: `"transform.option"`, for the message.
        limits: What the user gave.
        least: Smallest value that makes sense.
        most: Largest value that makes sense.

    Raises:
        ConfigError: Unless `least <= low <= high <= most`, all finite.
    """
    ordered = len(limits) == 2 and least <= limits[0] <= limits[1] <= most
    if not ordered or not all(map(math.isfinite, limits)):
        start = "" if least == -math.inf else f"{least} <= "
        end = "" if most == math.inf else f" <= {most}"
        raise ConfigError(
            f"augment.{option} must be [low, high] with {start}low <= high{end}, "
            f"got {list(limits)}."
        )
    return limits


def check_between(option, value, least, most):
    """Returns `value`; raises `ConfigError` unless `least <= value <= most` and it is finite."""
    if not (least <= value <= most and math.isfinite(value)):
        bounds = f"{least} or more" if most == math.inf else f"between {least} and {most}"
        raise ConfigError(f"augment.{option} must be {bounds}, got {value}.")
    return value
