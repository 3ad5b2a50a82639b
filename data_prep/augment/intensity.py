"""Random changes of intensity, each channel for itself: brightness, contrast, gamma, histogram.

Images are float32 `(batch, channels, depth, height, width)`; statistics are those of one channel
of one patch. The deterministic functions take one number per example and channel.
"""

import tensorflow as tf

from data_prep.augment.limits import check_range
from segkit.errors import ConfigError

VOXELS = (2, 3, 4)


def brightness(draws, space, *, factor: list[float] = (0.75, 1.25)):
    """Multiplies each channel by a factor, so it keeps what is 0 (padding, the mean of a z-score).

    nnU-Net's `MultiplicativeBrightnessTransform`.

    Args:
        draws: `Draws`.
        space: `Space`.
        factor: Range of the factor, at least 0; half of the draws lie below 1 and half above,
            where the range holds 1. 1 is the identity.
    """
    drawn = draws.around_one(
        "factor", check_range("brightness.factor", factor, least=0), space.channels
    )
    return lambda image: adjust_brightness(image, drawn)


def adjust_brightness(image, factor):
    """Returns `image * factor`; `factor` has shape `(batch, channels)`."""
    return image * over_voxels(factor)


def contrast(draws, space, *, factor: list[float] = (0.75, 1.25)):
    """Stretches each channel about its mean, kept within the channel's own range.

    nnU-Net's `ContrastTransform` with `preserve_range`.

    Args:
        draws: `Draws`.
        space: `Space`.
        factor: Range of the stretch, at least 0, drawn as in `brightness`; 1 is the identity.
    """
    drawn = draws.around_one(
        "factor", check_range("contrast.factor", factor, least=0), space.channels
    )
    return lambda image: adjust_contrast(image, drawn)


def adjust_contrast(image, factor):
    """Returns `mean + factor * (image - mean)`, clipped to the channel's extreme values.

    Args:
        image: float32, shape `(batch, channels, d, h, w)`.
        factor: float32, shape `(batch, channels)`; 1 is the identity.
    """
    low, high = _extremes(image)
    factor, mean = over_voxels(factor), tf.reduce_mean(image, VOXELS, keepdims=True)
    return tf.clip_by_value(image * factor + mean * (1.0 - factor), low, high)


def gamma(
    draws,
    space,
    *,
    gamma: list[float] = (0.7, 1.5),
    invert: bool = False,
    keep_statistics: bool = True,
):
    """Raises each channel, scaled to [0, 1], to a power.

    nnU-Net's `GammaTransform`, which is in its policy twice: inverted with probability 0.1 and
    not inverted with probability 0.3, both with `keep_statistics`.

    Args:
        draws: `Draws`.
        space: `Space`.
        gamma: Range of the exponent, at least 0.01, drawn as in `brightness`; 1 is the identity.
            Above 1 the bright end of the range is stretched, below 1 the dark end.
        invert: Work on the negative of the image, which exchanges the two ends.
        keep_statistics: Give each channel its mean and standard deviation back.
    """
    limits = check_range("gamma.gamma", gamma, least=0.01)
    drawn = draws.around_one("gamma", limits, space.channels)
    return lambda image: adjust_gamma(image, drawn, invert=invert, keep_statistics=keep_statistics)


def adjust_gamma(image, exponent, *, invert=False, keep_statistics=True):
    """Returns `low + (high - low) * ((image - low) / (high - low)) ** exponent`.

    Inverted, `low` is the largest value of the channel and `high` its smallest: that is the
    curve of the negative, as nnU-Net negates before and after. Statistics are given back by an
    affine map afterwards. Its standard deviations are of the population, nnU-Net's of the sample
    (n - 1): only their ratio matters, and it is the same. A constant channel stays.

    Args:
        image: float32, shape `(batch, channels, d, h, w)`.
        exponent: float32 above 0, shape `(batch, channels)`; 1 is the identity.
        invert: As in `gamma`.
        keep_statistics: As in `gamma`.
    """
    low, high = reversed(_extremes(image)) if invert else _extremes(image)
    span = high - low
    exponent = over_voxels(exponent)
    unit = tf.math.divide_no_nan(image - low, span)
    # exp(g * log(x)) is five times as fast as tf.pow; log(0) is -inf, and its exponential 0.
    changed = low + span * tf.exp(exponent * tf.math.log(unit))
    if keep_statistics:
        changed = _with_statistics_of(image, changed)
    return tf.where(exponent == 1.0, image, changed)


def histogram_shift(draws, space, *, strength: float = 1.0, control_points: int = 5):
    """Sends each channel through a random curve, rising and linear between control points.

    The curve keeps the channel's smallest and largest value. MONAI's `RandHistogramShift` moves
    each of its 10 control points between its neighbours, one after the other; here each moves by
    itself, at most half way to a neighbour. With 5 points that is as strong: the middle of the
    curve moves by 7 % of the range (one standard deviation), as in MONAI.

    Args:
        draws: `Draws`.
        space: `Space`.
        strength: Share of the way that a point may move, in [0, 1]; 0 is the identity.
        control_points: Their number, evenly spaced over the channel's range, both ends
            included; 3 to 18. Fewer bend the curve more.

    Reference:
        Cardoso et al., "MONAI", 2022, arXiv:2211.02701 (`RandHistogramShift`).
    """
    if not 0 <= strength <= 1 or not 3 <= control_points <= 18:
        raise ConfigError(
            "augment.histogram_shift needs a strength in [0, 1] and 3 to 18 control_points, "
            f"got {strength} and {control_points}."
        )
    reach = 0.5 * strength / (control_points - 1)
    moves = draws.uniform("moves", -reach, reach, space.channels, control_points - 2)
    return lambda image: shift_histogram(image, moves)


def shift_histogram(image, moves):
    """Maps intensities by a piecewise linear curve, the identity plus a sum of hinges.

    Args:
        image: float32, shape `(batch, channels, d, h, w)`.
        moves: float32, shape `(batch, channels, points)`: how far each inner control point of
            the curve moves up, as a share of the channel's range. The points, with one at
            either end, are evenly spaced over the range. 0 is the identity.
    """
    low, high = _extremes(image)
    intervals = moves.shape[-1] + 1
    heights = tf.pad(moves, [[0, 0], [0, 0], [1, 1]])
    slopes = intervals * (heights[..., 1:] - heights[..., :-1])
    bends = slopes - tf.pad(slopes, [[0, 0], [0, 0], [1, 0]])[..., :-1]
    changed = image
    for n in range(intervals):
        knot = low + (high - low) * (n / intervals)
        changed += over_voxels(bends[..., n]) * tf.nn.relu(image - knot)
    return changed


def over_voxels(values):
    """Returns values `(batch, channels)` in a shape that broadcasts over an image's voxels."""
    return values[:, :, None, None, None]


def _extremes(image):
    return [reduce(image, VOXELS, keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max)]


def _with_statistics_of(image, changed):
    mean, variance = tf.nn.moments(image, VOXELS, keepdims=True)
    changed_mean, changed_variance = tf.nn.moments(changed, VOXELS, keepdims=True)
    ratio = tf.sqrt(tf.math.divide_no_nan(variance, changed_variance))
    return (changed - changed_mean) * ratio + mean
