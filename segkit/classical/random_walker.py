"""Random walker: each voxel has the class whose seeds a random walk from it reaches first."""

import warnings

import numpy as np
from scipy import ndimage

from segkit.classical.image import check_positive
from segkit.classical.image import check_size
from segkit.classical.levels import class_of_intensity
from segkit.classical.seeds import markers
from segkit.errors import DataError

MAX_VOXELS = 1_000_000  # some minutes: one linear system per class, one unknown per voxel
CROSS = ndimage.generate_binary_structure(3, 1)


def random_walker(
    volume,
    num_classes,
    *,
    beta: float = 130.0,
    seeds: dict[int, list[list[float]]] | None = None,
    seed_units: str = "mm",
    seed_radius_mm: float = 0.0,
    classes: list[int] | None = None,
):
    """The class whose seeds a random walk that avoids steps in intensity reaches most likely.

    Without `seeds`, a seed is every voxel whose neighbours through its faces are of its own class
    by level of intensity (`levels.py`): the walk then decides about borders and noise.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`, up to a million voxels; larger
            images need the option `grid_mm`.
        num_classes: Number of classes, background included.
        beta: How much a change in intensity hinders the walk; changes are taken per mm, in units
            of the image's standard deviation.
        seeds: Points of two classes or more, see `segkit.classical.seeds`; the background is
            class 0.
        seed_units: `"mm"` or `"fraction"`.
        seed_radius_mm: Radius of the ball that is marked around a seed, in mm; 0 for its voxel.
        classes: Class of each level of intensity, from dark to bright; without seeds.

    Returns:
        uint8 class indices, shape of the volume.

    Raises:
        ConfigError: If the image is too large, or `seeds` and `classes` are both given.
        DataError: If no voxel is a seed by the rule, because of noise.

    Reference:
        Grady, "Random walks for image segmentation", IEEE Transactions on Pattern Analysis and
        Machine Intelligence 28, 2006, equations 2 and 8; solved by `skimage.segmentation`.
    """
    from skimage.segmentation import random_walker as walk  # takes a second

    check_positive("beta", beta)
    check_size("random_walker", volume, MAX_VOXELS)
    if seeds is None:
        marked = _sure(volume, num_classes, classes)
    else:
        marked = markers(
            "random_walker",
            volume,
            num_classes,
            seeds=seeds,
            seed_units=seed_units,
            seed_radius_mm=seed_radius_mm,
            classes=classes,
        )
    numbers = np.unique(marked[marked > 0])  # the solver wants them without gaps
    if len(numbers) == 1:
        return np.full(volume.shape, numbers[0] - 1, np.uint8)
    marked = np.searchsorted(np.append(0, numbers), marked)
    with warnings.catch_warnings():
        # That the tolerance leaves probabilities a little outside [0, 1] does no harm here.
        warnings.simplefilter("ignore", UserWarning)
        found = walk(volume.array, marked, beta=beta, mode="cg_j", spacing=volume.spacing_mm)
    return (numbers[found - 1] - 1).astype(np.uint8)


def _sure(volume, num_classes, classes):
    """Seeds by level of intensity: 1 + class index where all neighbours agree, else 0."""
    to_class = class_of_intensity("random_walker", volume.array, num_classes, classes)
    indices = to_class(volume.array)
    low = ndimage.minimum_filter(indices, footprint=CROSS, mode="nearest")
    high = ndimage.maximum_filter(indices, footprint=CROSS, mode="nearest")
    if not (low == high).any():
        raise DataError(
            "random_walker finds no voxel whose neighbours are of its own level of intensity. Set "
            "method.smooth_mm, or give method.seeds."
        )
    return np.where(low == high, indices.astype(np.int32) + 1, 0)
