"""Thresholds: Otsu's, several of Otsu's, hysteresis, and one that adapts to the surroundings."""

import numpy as np
from scipy import ndimage

from segkit.classical.image import check_positive
from segkit.classical.image import gaussian
from segkit.classical.levels import class_of_intensity
from segkit.classical.levels import classes_of_levels
from segkit.classical.levels import otsu_thresholds
from segkit.errors import ConfigError


def otsu(volume, num_classes, *, classes: list[int] | None = None):
    """Two levels of intensity, split where the variance between them is largest.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        classes: Class of the dark and of the bright level; `None` for `[0, 1]`.

    Returns:
        uint8 class indices, shape of the volume.

    Reference:
        As `segkit.classical.levels.otsu_thresholds`.
    """
    table = classes_of_levels("otsu", 2, num_classes, classes)
    return table[(volume.array >= otsu_thresholds(volume.array, 2)[0]).astype(np.intp)]


def multi_otsu(volume, num_classes, *, classes: list[int] | None = None):
    """Several levels of intensity, split where the variance between them is largest.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        classes: Class of each level from dark to bright, as many as there shall be levels; `None`
            for one level per class.

    Returns:
        uint8 class indices, shape of the volume.

    Reference:
        As `segkit.classical.levels.otsu_thresholds`.
    """
    return class_of_intensity("multi_otsu", volume.array, num_classes, classes)(volume.array)


def hysteresis(
    volume,
    num_classes,
    *,
    low: float | None = None,
    high: float | None = None,
    classes: list[int] | None = None,
):
    """Bright structures with their dimmer parts: above `low`, and joined to a voxel above `high`.

    Voxels are joined through their faces.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        low: Threshold in units of the image; `None` for Otsu's.
        high: Threshold, not below `low`; `None` for the mean of what is above Otsu's.
        classes: Class of the rest and of the structures; `None` for `[0, 1]`.

    Returns:
        uint8 class indices, shape of the volume.

    Raises:
        ConfigError: If `high` is below `low`.
    """
    table = classes_of_levels("hysteresis", 2, num_classes, classes)
    if low is None or high is None:
        split = otsu_thresholds(volume.array, 2)[0]
        bright = volume.array[volume.array >= split].mean(dtype=np.float64)
        low, high = split if low is None else low, bright if high is None else high
    if high < low:
        raise ConfigError(
            f"hysteresis needs method.high to be at least method.low, got low {low:g} and high "
            f"{high:g}."
        )
    parts, number = ndimage.label(volume.array >= low)
    kept = np.zeros(number + 1, np.intp)
    kept[np.unique(parts[volume.array >= high])] = 1
    return table[kept[parts]]


def adaptive_threshold(
    volume,
    num_classes,
    *,
    sigma_mm: float = 10.0,
    offset: float = 0.0,
    classes: list[int] | None = None,
):
    """Two levels: darker and brighter than the surroundings, so slow shading does no harm.

    A voxel is bright where it exceeds the mean around it, weighted by a Gaussian, plus `offset`.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        sigma_mm: Standard deviation of the Gaussian, in mm; larger than the structures.
        offset: Added to the mean, in units of the image.
        classes: Class of the dark and of the bright level; `None` for `[0, 1]`.

    Returns:
        uint8 class indices, shape of the volume.
    """
    table = classes_of_levels("adaptive_threshold", 2, num_classes, classes)
    check_positive("sigma_mm", sigma_mm)
    around = gaussian(volume.array, sigma_mm, volume.spacing_mm)
    return table[(volume.array > around + np.float32(offset)).astype(np.intp)]
