"""Filters against noise and coarse voxels, on SciPy and scikit-image.

Those of noise take their strength in standard deviations of the noise, which each image tells by
itself, see `noise_deviation`.
"""

import itertools

import numpy as np
from scipy import ndimage

from segkit.errors import ConfigError


def median(image, *, size: int = 3):
    """Median of a box around each voxel, mirrored beyond the edge.

    Args:
        image: Shape `(*sides, channels)`.
        size: Side of the box in voxels, odd.

    Returns:
        float32, the shape of `image`.

    Raises:
        ConfigError: If `size` is even or below 1.
    """
    if size < 1 or size % 2 == 0:
        raise ConfigError(f"median needs an odd size of 1 or more, got {size}.")
    box = (*(size,) * (image.ndim - 1), 1)
    return ndimage.median_filter(np.asarray(image, np.float32), box)


def non_local_means(image, *, strength: float = 0.8, patch: int = 5, reach: int = 6):
    """Mean of voxels whose surroundings look alike.

    Args:
        image: As in `median`.
        strength: Decay of the weights, in standard deviations of the noise; above 0.
        patch: Side of the surroundings that are compared, in voxels.
        reach: How far away they are looked for, in voxels.

    Returns:
        As `median`.

    Raises:
        ConfigError: If `strength` is not above 0.

    Reference:
        Buades et al., "A non-local algorithm for image denoising", CVPR 2005; as scikit-image's
        `denoise_nl_means` with the variance of the noise taken off the distances.
    """
    from skimage.restoration import denoise_nl_means  # takes a second

    _check_strength("non_local_means", strength)
    sigma = noise_deviation(image)
    if not sigma:
        return np.array(image, np.float32)
    found = denoise_nl_means(
        np.asarray(image, np.float32),
        patch_size=patch,
        patch_distance=reach,
        h=strength * sigma,
        sigma=sigma,
        channel_axis=-1,
    )
    return found.reshape(image.shape).astype(np.float32)


def total_variation(image, *, strength: float = 1.0):
    """The image nearby whose intensities change least in sum.

    Args:
        image: As in `median`.
        strength: Weight of the change, in standard deviations of the noise; above 0.

    Returns:
        As `median`.

    Raises:
        ConfigError: If `strength` is not above 0.

    Reference:
        Chambolle, "An algorithm for total variation minimization and applications", Journal of
        Mathematical Imaging and Vision 20, 2004; as scikit-image's `denoise_tv_chambolle`.
    """
    from skimage.restoration import denoise_tv_chambolle  # takes a second

    _check_strength("total_variation", strength)
    sigma = noise_deviation(image)
    if not sigma:
        return np.array(image, np.float32)
    found = denoise_tv_chambolle(
        np.asarray(image, np.float64), weight=strength * sigma, channel_axis=-1
    )
    return found.reshape(image.shape).astype(np.float32)


def bicubic(image, *, scale: float = 0.5):
    """What cubic interpolation makes of coarse voxels, of an image that linear interpolation made.

    The `round(scale * side)` coarse voxels along each axis are those whose linear interpolation
    comes nearest to the image (least squares); cubic splines through them give the fine ones.

    Args:
        image: As in `median`.
        scale: Share of the voxels along an axis that there were, in (0, 1].

    Returns:
        As `median`.

    Raises:
        ConfigError: If `scale` is out of range.
    """
    from skimage.transform import resize  # takes a second

    if not 0 < scale <= 1:
        raise ConfigError(f"bicubic needs a scale above 0 and at most 1, got {scale}.")
    coarse = np.asarray(image, np.float64)
    for axis, side in enumerate(image.shape[:-1]):
        back = np.linalg.pinv(_linear(side, max(1, round(scale * side))))
        coarse = np.moveaxis(np.tensordot(back, coarse, (1, axis)), 0, axis)
    fine = [
        resize(channel, image.shape[:-1], order=3, mode="edge", anti_aliasing=False, clip=False)
        for channel in np.moveaxis(coarse, -1, 0)
    ]
    return np.stack(fine, axis=-1).astype(np.float32)


def _linear(side, coarse):
    """Matrix `(side, coarse)` of linear interpolation between the middles of voxels."""
    where = np.clip((np.arange(side) + 0.5) * coarse / side - 0.5, 0, coarse - 1)
    return np.maximum(1 - np.abs(where[:, None] - np.arange(coarse)), 0)


def noise_deviation(image):
    """Estimates the standard deviation of Gaussian noise, the mean over channels.

    The median size of what changes along all axes at once from voxel to voxel (the finest Haar
    wavelets), over 0.6745.

    Args:
        image: Shape `(*sides, channels)`; a side of 1 counts as none.

    Returns:
        Float; 0 for an image whose half or more is constant.

    Reference:
        Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994,
        section 4.2.
    """
    axes = [axis for axis, side in enumerate(image.shape[:-1]) if side > 1]
    detail = np.zeros_like(image[tuple(_halves(image, axes, (0,) * len(axes)))], np.float64)
    for corner in itertools.product((0, 1), repeat=len(axes)):
        sign = (-1) ** sum(corner)
        detail += sign * image[tuple(_halves(image, axes, corner))].astype(np.float64)
    size = np.abs(detail) / 2 ** (len(axes) / 2)
    return float(np.median(size, axis=tuple(range(size.ndim - 1))).mean() / 0.6745)


def _halves(image, axes, corner):
    """Slices of every second voxel along `axes`, from 0 or 1 on; a last odd one is left out."""
    parts = [slice(None)] * image.ndim
    for axis, start in zip(axes, corner, strict=True):
        parts[axis] = slice(start, image.shape[axis] // 2 * 2, 2)
    return parts


def _check_strength(name, strength):
    if not strength > 0:
        raise ConfigError(f"{name} needs a strength above 0, got {strength}.")
