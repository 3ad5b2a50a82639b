"""Structural similarity of one image in 2-D or 3-D, and its form over several scales."""

import numpy as np
from scipy import ndimage

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.metrics.generation.psnr import pair

SIGMA, RADIUS = 1.5, 5  # of the Gaussian window, in voxels: 11 along each axis
WINDOW = 2 * RADIUS + 1
K1, K2 = 0.01, 0.03
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first


def ssim(truth, image, *, data_range):
    """Structural similarity, the mean over windows and channels.

    Per window, with means `m`, variances `v` and covariance `c` under a Gaussian of 1.5 voxels,
    11 wide along every axis, and `a = (0.01 data_range)^2`, `b = (0.03 data_range)^2`:

        (2 m_x m_y + a) / (m_x^2 + m_y^2 + a) * (2 c + b) / (v_x + v_y + b)

    Only windows that lie within the image count.

    Args:
        truth: Shape `(height, width, channels)` or `(depth, height, width, channels)`.
        image: Same shape.
        data_range: Largest less smallest possible intensity.

    Returns:
        Float up to 1, which equal images have.

    Raises:
        ShapeError: If the shapes differ, or a side is below 11.
        DataError: If a value is NaN or infinite, or `data_range` is not above 0.

    Reference:
        Wang et al., "Image quality assessment: from error visibility to structural similarity",
        IEEE Transactions on Image Processing 13, 2004, equation 13; in 3-D with a ball for the
        window.
    """
    truth, image = pair("SSIM", truth, image, data_range)
    _check_sides("SSIM", truth.shape, 1)
    lightness, structure = _maps(truth, image, data_range)
    return float((lightness * structure).mean())


def multi_scale_ssim(truth, image, *, data_range, scales=5):
    """SSIM over several scales: structure at all of them, lightness at the coarsest.

        lightness_M^w_M * product over scales j of structure_j^w_j

    in each channel, of which the mean is taken; the means over windows of the two factors of
    `ssim` at each scale, each of half the resolution of the one before. A mean below 0 counts as
    0. With fewer than five scales the first weights are scaled to a sum of 1, which is another
    measure: say how many there are.

    Args:
        truth: As in `ssim`.
        image: As there.
        data_range: As there.
        scales: Number of scales, 1 to 5; see `fitting_scales`.

    Returns:
        Float in [0, 1].

    Raises:
        ConfigError: If `scales` is out of range.
        ShapeError: If the shapes differ, or a side is below 11 at the coarsest scale.
        DataError: As `ssim`.

    Reference:
        Wang et al., "Multiscale structural similarity for image quality assessment", Asilomar
        2003, equation 7 and section 3.2 for the weights; the factor at the coarsest scale is the
        mean over windows of lightness times structure, as in the authors' code.
    """
    if not 1 <= scales <= len(WEIGHTS):
        raise ConfigError(f"MS-SSIM has 1 to {len(WEIGHTS)} scales, got {scales}.")
    truth, image = pair("MS-SSIM", truth, image, data_range)
    _check_sides(f"MS-SSIM of {scales} scales", truth.shape, scales)
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    product = np.ones(truth.shape[-1])
    axes = tuple(range(truth.ndim - 1))
    for scale, weight in enumerate(weights, start=1):
        lightness, structure = _maps(truth, image, data_range)
        factor = lightness * structure if scale == scales else structure
        product *= np.maximum(factor.mean(axis=axes), 0) ** weight
        truth, image = _halved(truth), _halved(image)
    return float(product.mean())


def fitting_scales(sides):
    """Returns how many scales of `multi_scale_ssim` fit images of these sides, 0 to 5."""
    number, side = 0, min(sides)
    while side >= WINDOW and number < len(WEIGHTS):
        number, side = number + 1, -(-side // 2)
    return number


def _check_sides(measure, shape, scales):
    if len(shape) not in (3, 4) or fitting_scales(shape[:-1]) < scales:
        least = 2 ** (scales - 1) * (WINDOW - 1) + 1
        raise ShapeError(
            f"{measure} needs an image of 2 or 3 sides of at least {least} and channels, got "
            f"{shape}. Take larger patches or fewer scales."
        )


def _maps(truth, image, data_range):
    """The two factors of SSIM at each window."""
    constants = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_x, mean_y = _windows(truth), _windows(image)
    squares = _windows(truth**2) - mean_x**2, _windows(image**2) - mean_y**2
    product = _windows(truth * image) - mean_x * mean_y
    lightness = (2 * mean_x * mean_y + constants[0]) / (mean_x**2 + mean_y**2 + constants[0])
    return lightness, (2 * product + constants[1]) / (sum(squares) + constants[1])


def _windows(array):
    """Weighted mean of each window within the image."""
    for axis in range(array.ndim - 1):
        array = ndimage.gaussian_filter1d(array, SIGMA, axis, radius=RADIUS)
    return array[(slice(RADIUS, -RADIUS),) * (array.ndim - 1)]


def _halved(array):
    """Mean of blocks of two along each side; the last of an odd number stands alone."""
    for axis in range(array.ndim - 1):
        if array.shape[axis] % 2:
            around = [(0, int(n == axis)) for n in range(array.ndim)]
            array = np.pad(array, around, mode="edge")
        array = (
            array.take(range(0, array.shape[axis], 2), axis)
            + array.take(range(1, array.shape[axis], 2), axis)
        ) / 2
    return array
