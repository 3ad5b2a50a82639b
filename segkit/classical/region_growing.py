"""Regions grown from seeds through faces of voxels, as long as intensities fit."""

import numpy as np
from scipy import ndimage

from segkit.classical.image import check_positive
from segkit.classical.seeds import find_seeds
from segkit.classical.seeds import grow_foreground
from segkit.errors import ConfigError


def region_growing(
    volume,
    num_classes,
    *,
    tolerance: float | None = None,
    radius_mm: float | None = None,
    seeds: dict[int, list[list[float]]] | None = None,
    seed_units: str = "mm",
    classes: list[int] | None = None,
):
    """What is joined to a seed by voxels that differ from the seed by at most `tolerance`.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        tolerance: Largest difference in units of the image; `None` for half a standard deviation
            of the image.
        radius_mm: Voxels farther from all seeds of their class are left out; `None`: none are.
        seeds: Points of each class, see `segkit.classical.seeds`; `None`: found by rule.
        seed_units: `"mm"` or `"fraction"`.
        classes: Class of each level of intensity, for the rule.

    Returns:
        uint8 class indices, shape of the volume; a voxel that two classes reach is of the one
        with the nearest seed.

    Reference:
        Adams and Bischof, "Seeded region growing", IEEE Transactions on Pattern Analysis and
        Machine Intelligence 16, 1994; here a voxel is compared with the seed, not with the mean
        of the region so far, so the result does not depend on the order.
    """
    if tolerance is None:
        tolerance = float(volume.array.std()) / 2
    check_positive("tolerance", tolerance, or_zero=True)
    limit = _radius(radius_mm)
    points = find_seeds(
        "region_growing",
        volume,
        num_classes,
        seeds=seeds,
        seed_units=seed_units,
        classes=classes,
    )

    def grow(voxels, distance_mm):
        region = np.zeros(volume.shape, bool)
        for voxel in voxels:
            fits = np.abs(volume.array - volume.array[tuple(voxel)]) <= tolerance
            region |= joined(fits & (distance_mm <= limit), voxel[None])
        return region

    return grow_foreground(volume, points, grow)


def confidence_connected(
    volume,
    num_classes,
    *,
    multiplier: float = 2.5,
    iterations: int = 4,
    neighbourhood: int = 1,
    radius_mm: float | None = None,
    seeds: dict[int, list[list[float]]] | None = None,
    seed_units: str = "mm",
    classes: list[int] | None = None,
):
    """What is joined to the seeds by intensities near the mean of the region, measured anew.

    The range `mean ± multiplier * deviation` starts from the voxels around the seeds and follows
    the region that it gave; it always holds the intensities of the seeds.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        multiplier: Half the width of the range, in standard deviations.
        iterations: How often the range is taken from the region, at least 0.
        neighbourhood: Voxels on each side of a seed that the first range is taken from.
        radius_mm: Voxels farther from all seeds of their class are left out; `None`: none are.
        seeds: Points of each class, see `segkit.classical.seeds`; `None`: found by rule.
        seed_units: `"mm"` or `"fraction"`.
        classes: Class of each level of intensity, for the rule.

    Returns:
        uint8 class indices, shape of the volume; a voxel that two classes reach is of the one
        with the nearest seed.

    Reference:
        `itk::ConfidenceConnectedImageFilter` (ITK Software Guide, section 4.1.3), whose masks
        these are; but a region of one voxel stays, where that filter's becomes empty.
    """
    check_positive("multiplier", multiplier)
    for option, value in (("iterations", iterations), ("neighbourhood", neighbourhood)):
        if value < 0:
            raise ConfigError(f"method.{option} must be at least 0, got {value}.")
    limit = _radius(radius_mm)
    points = find_seeds(
        "confidence_connected",
        volume,
        num_classes,
        seeds=seeds,
        seed_units=seed_units,
        classes=classes,
    )

    def grow(voxels, distance_mm):
        near, array = distance_mm <= limit, volume.array.astype(np.float64)
        own = array[tuple(voxels.T)]
        sample = np.concatenate([_around(array, voxel, neighbourhood) for voxel in voxels])
        for _ in range(iterations + 1):
            spread = multiplier * (sample.std(ddof=1) if sample.size > 1 else 0.0)
            low = min(sample.mean() - spread, own.min())
            high = max(sample.mean() + spread, own.max())
            region = joined((array >= low) & (array <= high) & near, voxels)
            sample = array[region]
        return region

    return grow_foreground(volume, points, grow)


def joined(mask, voxels):
    """Returns the parts of a mask, connected through faces, that hold one of the voxels.

    Args:
        mask: bool array `(depth, height, width)`.
        voxels: Indices, int array `(points, 3)`.
    """
    parts, number = ndimage.label(mask)
    kept = np.zeros(number + 1, bool)
    kept[parts[tuple(voxels.T)]] = True
    kept[0] = False
    return kept[parts]


def _around(array, voxel, reach):
    """Values of the box around a voxel; beyond the border the nearest ones, as in ITK."""
    steps = np.arange(-reach, reach + 1)
    where = [np.clip(v + steps, 0, n - 1) for v, n in zip(voxel, array.shape, strict=True)]
    return array[np.ix_(*where)].ravel()


def _radius(radius_mm):
    if radius_mm is None:
        return np.inf
    check_positive("radius_mm", radius_mm)
    return radius_mm
