"""From the intensities of one image to normalised ones, and back to the units of the source."""

from typing import NamedTuple

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.priors import SCHEME


class Scale(NamedTuple):
    """How one channel of one image is normalised: `(clipped - offset) / factor`.

    Attributes:
        offset: What becomes 0, in units of the source.
        factor: What becomes 1 above that.
        clip: `(low, high)`, what lies beyond is cut off and cannot be given back; or `None`.
        masked: Whether voxels of value 0 stay 0, on both ways.
        own: Whether offset and factor are those of the image, not of a data set.
    """

    offset: float
    factor: float
    clip: tuple | None = None
    masked: bool = False
    own: bool = False

    def normalise(self, channel):
        """Returns a channel normalised, float32."""
        inside = channel if self.clip is None else np.clip(channel, *self.clip)
        scaled = ((inside - self.offset) / self.factor).astype(np.float32)
        return np.where(channel != 0, scaled, np.float32(0)) if self.masked else scaled

    def undo(self, channel):
        """Returns a normalised channel in units of the source, float32."""
        return (channel.astype(np.float64) * self.factor + self.offset).astype(np.float32)

    def cut_off(self, channel):
        """Returns the number of voxels whose value is beyond `clip`."""
        if self.clip is None:
            return 0
        return int(((channel < self.clip[0]) | (channel > self.clip[1])).sum())


def scale_of(channel, known, scheme):
    """Returns how a channel is normalised by the scheme of a data set.

    Args:
        channel: float32, shape `(depth, height, width)`, intensities as read.
        known: bool, the same shape: voxels whose intensities count. They decide mean and
            deviation of `zscore`, so that what lies in a hole is never looked at.
        scheme: As of `segkit.inference.prepare.normalise`, to which the result is equal where
            all voxels are known.

    Raises:
        ConfigError: If the channel is what the first stage of a cascade found.
        DataError: If all known voxels are 0, as those of a channel that is missing.
    """
    if scheme["scheme"] == SCHEME:
        raise ConfigError(
            "a data set with channels of a first stage holds no images to give back. Use a run on "
            "images alone."
        )
    values = channel[known]
    if not values.any():
        raise DataError("a channel of the image is 0 everywhere. Give an image that has it.")
    if scheme["scheme"] == "ct":
        return Scale(scheme["mean"], max(scheme["std"], 1e-8), tuple(scheme["clip"]))
    if scheme["scheme"] == "rescale":
        return Scale(scheme["low"], scheme["high"] - scheme["low"])
    values = values[values != 0] if scheme["masked"] else values
    mean, std = values.mean(dtype=float), values.std(dtype=float)
    return Scale(float(mean), max(float(std), 1e-8), masked=scheme["masked"], own=True)


def scale_of_look(scale, scheme):
    """Returns the scale of another data set's look for a channel that was made in it.

    Args:
        scale: `Scale` of the channel that it was made from.
        scheme: Scheme of the data set whose look it has; of `zscore` no units are known, and
            those of the source are kept.
    """
    if scheme["scheme"] == "ct":
        return Scale(scheme["mean"], max(scheme["std"], 1e-8), tuple(scheme["clip"]))
    if scheme["scheme"] == "rescale":
        return Scale(scheme["low"], scheme["high"] - scheme["low"])
    return scale
