"""Edges by Sobel and Canny, in 2-D and 3-D, closed to regions.

What edges enclose is a region: the voxels without edge that are connected through their faces. A
region has the class of its mean intensity (`levels.py`), and an edge voxel that of the nearest
region, of two as near the one more like it. Where an edge has a gap, the two sides are one region:
`close_mm` makes edges thicker, which bridges gaps; borders stay in the middle of them.
"""

import numpy as np
from scipy import ndimage

from segkit.classical.image import check_positive
from segkit.classical.image import cubic
from segkit.classical.image import finest
from segkit.classical.image import gaussian
from segkit.classical.image import gradient
from segkit.classical.image import labels_onto
from segkit.classical.levels import class_of_intensity
from segkit.classical.levels import otsu_thresholds
from segkit.errors import ConfigError

MAX_VOXELS = 32_000_000  # 3 GB: coordinates and gradients of all of them


def sobel(
    volume,
    num_classes,
    *,
    threshold: float | None = None,
    close_mm: float = 0.0,
    classes: list[int] | None = None,
):
    """Regions between the voxels where the intensity changes fast, by Sobel's gradient.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        threshold: Gradient of an edge, in units of the image per mm; `None` for Otsu's threshold
            of the gradients.
        close_mm: Gaps up to twice this are closed, in mm; so are regions as narrow.
        classes: Class of each level of intensity, from dark to bright; `None` for one per class.

    Returns:
        uint8 class indices, shape of the volume.

    Reference:
        As `segkit.classical.image.gradient`.
    """
    slope = np.linalg.norm(gradient(volume.array, volume.spacing_mm), axis=0)
    if threshold is None:
        threshold = otsu_thresholds(slope, 2)[0]
    check_positive("threshold", threshold)
    edges = slope >= threshold
    return classes_between("sobel", volume, edges, num_classes, close_mm, classes)


def canny(
    volume,
    num_classes,
    *,
    sigma_mm: float | None = None,
    low: float | None = None,
    high: float | None = None,
    close_mm: float = 0.0,
    classes: list[int] | None = None,
):
    """Regions between thin edges, by Canny's detector.

    On voxels of unequal sides thin edges have gaps wherever a surface crosses the slices at a
    small angle. So edges are found on cubic voxels, and the classes brought back.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`, up to 32 million voxels when
            they are cubic; larger images need the option `grid_mm`.
        num_classes: Number of classes, background included.
        sigma_mm: Standard deviation of the Gaussian before the gradient, in mm; `None` for the
            smallest voxel side.
        low: Gradient down to which an edge is followed, in units of the image per mm; `None` for a
            quarter of `high`: less than Canny's half to a third, as a gap costs a whole region.
        high: Gradient from which it starts; `None` for Otsu's threshold of the gradients.
        close_mm: Gaps up to twice this are closed, in mm; so are regions as narrow.
        classes: Class of each level of intensity, from dark to bright; `None` for one per class.

    Returns:
        uint8 class indices, shape of the volume.

    Raises:
        ConfigError: If the image is too large, or `high` is below `low`.
    """
    even = cubic("canny", volume, MAX_VOXELS)
    edges = canny_edges(even, sigma_mm=sigma_mm, low=low, high=high)
    labels = classes_between("canny", even, edges, num_classes, close_mm, classes)
    return labels_onto(labels, volume.shape)


def canny_edges(volume, *, sigma_mm=None, low=None, high=None):
    """Returns the voxels on edges, bool; arguments as `canny`.

    A voxel is a candidate where the gradient is at least that on both sides along its direction,
    one voxel on, interpolated linearly. Candidates above `low` that touch, also at corners, are
    an edge if one of them is above `high`.

    Reference:
        Canny, "A computational approach to edge detection", IEEE Transactions on Pattern Analysis
        and Machine Intelligence 8, 1986; the gradient by Sobel's filter, directions in mm, 3-D by
        the same rule.
    """
    sigma_mm = finest(volume) if sigma_mm is None else sigma_mm
    check_positive("sigma_mm", sigma_mm, or_zero=True)
    smooth = gaussian(volume.array, sigma_mm, volume.spacing_mm)
    direction = gradient(smooth, volume.spacing_mm)
    slope = np.linalg.norm(direction, axis=0)
    high = otsu_thresholds(slope, 2)[0] if high is None else high
    low = high / 4 if low is None else low
    if not 0 < low <= high:
        raise ConfigError(
            f"canny needs method.low above 0 and method.high at least that, got low {low:g} and "
            f"high {high:g}."
        )
    thin = _ridges(slope, direction, volume.spacing_mm, low)
    parts, number = ndimage.label(thin, structure=np.ones((3, 3, 3)))
    kept = np.zeros(number + 1, bool)
    kept[parts[thin & (slope >= high)]] = True
    return kept[parts]


def classes_between(method, volume, edges, num_classes, close_mm, classes):
    """Returns the classes of the regions that edges enclose, uint8.

    Args:
        method: Name of the method, for the messages.
        volume: `Volume`, float32 array `(depth, height, width)`.
        edges: bool, same shape.
        num_classes: Number of classes, background included.
        close_mm: Gaps up to twice this are closed, in mm; so are regions as narrow.
        classes: Class of each level of intensity, or `None`.
    """
    check_positive("close_mm", close_mm, or_zero=True)
    to_class = class_of_intensity(method, volume.array, num_classes, classes)
    edges = thickened(edges, close_mm, volume.spacing_mm)
    regions, number = ndimage.label(~edges)
    if not number:
        raise ConfigError(
            f"{method} finds edges everywhere and no region between them. Raise the threshold or "
            "lower method.close_mm."
        )
    means = ndimage.mean(volume.array, regions, np.arange(1, number + 1))
    table = np.append(0, to_class(means)).astype(np.uint8)
    return _onto_edges(table[regions], edges, volume)


def thickened(mask, radius_mm, spacing_mm):
    """Returns a mask grown by `radius_mm`."""
    if radius_mm == 0 or not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= radius_mm


def _ridges(slope, direction, spacing_mm, low):
    """Voxels of at least `low` that no neighbour along the direction of the gradient exceeds."""
    where = np.argwhere(slope >= low).T
    step = direction[(slice(None), *where)] / np.reshape(spacing_mm, (3, 1))
    step /= np.abs(step).max(axis=0)
    here, peak = slope[tuple(where)], np.ones(where.shape[1], bool)
    for sign in (-1, 1):
        side = ndimage.map_coordinates(slope, where + sign * step, order=1, mode="nearest")
        peak &= side <= here
    ridges = np.zeros(slope.shape, bool)
    ridges[tuple(where[:, peak])] = True
    return ridges


def _onto_edges(labels, edges, volume):
    """Gives edge voxels the class of the nearest region.

    Of two that are as near, the one whose mean intensity is closer.
    """
    found = labels.copy()
    nearest_mm, closest = (np.full(labels.shape, np.inf) for _ in range(2))
    for index in np.unique(labels[~edges]):
        inside = ~edges & (labels == index)
        distance_mm = ndimage.distance_transform_edt(~inside, sampling=volume.spacing_mm)
        difference = np.abs(volume.array - volume.array[inside].mean(dtype=np.float64))
        wins = (distance_mm < nearest_mm) | ((distance_mm == nearest_mm) & (difference < closest))
        wins &= edges
        found[wins] = index
        nearest_mm[wins], closest[wins] = distance_mm[wins], difference[wins]
    return found
