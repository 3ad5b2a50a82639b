"""Random changes of colour, for photographs: exactly three channels, red, green and blue.

Channels of these names are prepared by one scale for all three, as values in [0, 1]
(`data_prep.plan`). All changes are linear: `saturation` and `hue` in the intensities, so they do
the same in any other common scale, and `stain` in their logarithms, so it needs [0, 1]. Nothing
is clipped: a strong change of a vivid colour leaves [0, 1].
"""

import numpy as np
import tensorflow as tf

from data_prep.augment.limits import check_range
from segkit.errors import ConfigError

# Luminance of red, green and blue in ITU-R BT.601, and what is left of a colour without it.
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_COLOUR = np.eye(3) - _LUMINANCE
# Turns the plane of its colour differences U (blue) and V (red) by 90 degrees.
_YUV = np.vstack([_LUMINANCE, 0.492111 * _COLOUR[2], 0.877283 * _COLOUR[0]])
_QUARTER_TURN = np.linalg.inv(_YUV) @ [[0, 0, 0], [0, 0, -1], [0, 1, 0]] @ _YUV

# Optical density in red, green and blue (columns) of hematoxylin, eosin and DAB (rows).
_STAINS = np.float32([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# What each stain adds to the density of one channel for the density of another.
_SHARES = np.einsum("so,is->soi", _STAINS, np.linalg.inv(_STAINS))
_DARKEST = 1 / 255  # the first step of an 8-bit photograph; the logarithm stops there


def saturation(draws, space, *, factor: list[float] = (0.7, 1.3)):
    """Makes colours paler or stronger at the same luminance.

    Args:
        draws: `Draws`.
        space: `Space`, with 3 channels.
        factor: Range of the factor, at least 0; half of the draws lie below 1 and half above,
            where the range holds 1. 0 gives gray, 1 is the identity.
    """
    _check_rgb("saturation", space)
    drawn = draws.around_one("factor", check_range("saturation.factor", factor, least=0))
    return lambda image: adjust_saturation(image, drawn)


def adjust_saturation(image, factor):
    """Returns `factor * image + (1 - factor) * luminance`, luminance after ITU-R BT.601.

    Args:
        image: float32 RGB, shape `(batch, 3, d, h, w)`, in any scale common to the channels.
        factor: float32, shape `(batch,)`; 1 is the identity.
    """
    return _mix(np.eye(3) + (factor[:, None, None] - 1.0) * _COLOUR, image)


def hue(draws, space, *, degrees: float = 15.0):
    """Turns the colour circle at the same luminance; gray stays.

    Args:
        draws: `Draws`.
        space: `Space`, with 3 channels.
        degrees: Largest angle, either way, in [0, 180]; 0 is the identity.
    """
    _check_rgb("hue", space)
    if not 0 <= degrees <= 180:
        raise ConfigError(f"augment.hue.degrees must be from 0 to 180, got {degrees}.")
    drawn = draws.uniform("degrees", -degrees, degrees)
    return lambda image: adjust_hue(image, drawn)


def adjust_hue(image, degrees):
    """Returns the image with its colours rotated in the plane of equal luminance.

    That plane is U and V of ITU-R BT.601 (or I and Q, which is the same one). `tf.image` and
    torchvision turn the hue of HSV instead, which changes luminance and has corners.

    Args:
        image: float32 RGB, shape `(batch, 3, d, h, w)`, in any scale common to the channels.
        degrees: float32, shape `(batch,)`; positive from red to green to blue, 0 is the identity.
    """
    angle = degrees[:, None, None] * np.float32(np.pi / 180)
    turn = (tf.cos(angle) - 1.0) * _COLOUR + tf.sin(angle) * _QUARTER_TURN
    return _mix(np.eye(3) + turn, image)


def stain(draws, space, *, alpha: list[float] = (0.95, 1.05), beta: list[float] = (-0.05, 0.05)):
    """Changes the amount of each of the stains of a histological section.

    Args:
        draws: `Draws`.
        space: `Space`, with 3 channels.
        alpha: Range of the factor on each stain, at least 0; 1 with a `beta` of 0 is the
            identity.
        beta: Range of what is added to each stain everywhere, in optical density (natural
            logarithm). Tellez et al. draw `alpha` from 1 - s to 1 + s and `beta` from -s to s;
            the defaults are those of s = 0.05.
    """
    _check_rgb("stain", space)
    alpha = draws.uniform("alpha", *check_range("stain.alpha", alpha, least=0), 3)
    beta = draws.uniform("beta", *check_range("stain.beta", beta), 3)
    return lambda image: adjust_stain(image, alpha, beta)


def adjust_stain(image, alpha, beta):
    """Returns the image with amounts of stain `alpha * amount + beta`.

    The amounts are those of hematoxylin, eosin and DAB that explain the optical density
    `-log(image)`. Values below 1/255 count as 1/255 there and are scaled like it: black stays
    black. Negative amounts are kept (`skimage.color.rgb2hed` makes them 0).

    Args:
        image: float32 RGB in [0, 1], 1 being the light of the lamp; shape `(batch, 3, d, h, w)`.
        alpha: float32, shape `(batch, 3)`; 1 is the identity.
        beta: float32, shape `(batch, 3)`, in optical density; 0 is the identity.

    Reference:
        Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution",
        Analytical and Quantitative Cytology and Histology 23(4), 2001 (the matrix).
        Tellez et al., "Whole-Slide Mitosis Detection in H&E Breast Histology Using PHH3 as a
        Reference to Train Distilled Stain-Invariant Convolutional Networks", IEEE Transactions
        on Medical Imaging 37(9), 2018, arXiv:1808.05896 (alpha and beta).
    """
    change = tf.reduce_sum((alpha - 1.0)[:, :, None, None] * _SHARES, axis=1)
    density = -tf.math.log(tf.maximum(image, _DARKEST))
    added = tf.reduce_sum(beta[:, :, None] * _STAINS, axis=1)[:, :, None, None, None]
    return image * tf.exp(-_mix(change, density) - added)


def _mix(matrix, image):
    """Multiplies the colour of each voxel by a 3 x 3 matrix per example, in full float32."""
    return sum(matrix[:, :, n, None, None, None] * image[:, n : n + 1] for n in range(3))


def _check_rgb(name, space):
    if space.channels != 3:
        raise ConfigError(
            f"augment.{name} needs 3 channels (red, green, blue), the data has {space.channels}. "
            "Remove it from the policy."
        )
