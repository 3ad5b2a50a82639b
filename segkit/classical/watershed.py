"""Watershed: the gradient as a landscape, flooded from seeds or from its own basins."""

import numpy as np
from scipy import ndimage

from segkit.classical.image import check_positive
from segkit.classical.image import finest
from segkit.classical.image import gaussian
from segkit.classical.image import gradient
from segkit.classical.levels import class_of_intensity
from segkit.classical.seeds import markers
from segkit.errors import ConfigError


def watershed(
    volume,
    num_classes,
    *,
    sigma_mm: float | None = None,
    depth: float = 0.05,
    seeds: dict[int, list[list[float]]] | None = None,
    seed_units: str = "mm",
    seed_radius_mm: float = 0.0,
    classes: list[int] | None = None,
):
    """Basins of the gradient, flooded until they meet on its ridges.

    With `seeds` a basin grows from each seed and has its class. Without, one grows from each
    minimum that is deep enough, and has the class of its mean intensity (`levels.py`).

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        sigma_mm: Standard deviation of the Gaussian before the gradient, in mm; `None` for the
            smallest voxel side.
        depth: Depth of the shallowest basin, as a share in [0, 1) of the 99th percentile of the
            gradient; shallower ones are flooded by their neighbours. Without seeds.
        seeds: Points of two classes or more, see `segkit.classical.seeds`; the background is
            class 0.
        seed_units: `"mm"` or `"fraction"`.
        seed_radius_mm: Radius of the ball that is marked around a seed, in mm; 0 for its voxel.
        classes: Class of each level of intensity, from dark to bright; without seeds.

    Returns:
        uint8 class indices, shape of the volume.

    Raises:
        ConfigError: If `seeds` and `classes` are both given, or an option is out of range.

    Reference:
        Beucher and Lantuéjoul, "Use of watersheds in contour detection", 1979; Soille and Ansoult,
        "Automated basin delineation", Signal Processing 20, 1990, for flooding; Soille,
        "Morphological Image Analysis", 2003, section 6.3.4, for minima of a depth.
    """
    from skimage.segmentation import watershed as flood  # takes a second

    sigma_mm = finest(volume) if sigma_mm is None else sigma_mm
    check_positive("sigma_mm", sigma_mm, or_zero=True)
    if not 0 <= depth < 1:
        raise ConfigError(f"method.depth must be at least 0 and below 1, got {depth}.")
    smooth = gaussian(volume.array, sigma_mm, volume.spacing_mm)
    relief = np.linalg.norm(gradient(smooth, volume.spacing_mm), axis=0)
    if seeds is None:
        to_class = class_of_intensity("watershed", volume.array, num_classes, classes)
        basins = flood(relief, _minima(relief, depth))
        means = ndimage.mean(volume.array, basins, np.arange(1, basins.max() + 1))
        return to_class(means)[basins - 1]
    marked = markers(
        "watershed",
        volume,
        num_classes,
        seeds=seeds,
        seed_units=seed_units,
        seed_radius_mm=seed_radius_mm,
        classes=classes,
    )
    return (flood(relief, marked) - 1).astype(np.uint8)


def _minima(relief, depth):
    """Numbers the minima that are deeper than a share of the relief: the extended minima.

    `skimage.morphology.h_minima` marks equally low minima of one basin apart.
    """
    from skimage.morphology import local_minima
    from skimage.morphology import reconstruction

    height = depth * float(np.percentile(relief, 99))
    filled = reconstruction(relief + height, relief, method="erosion") if height else relief
    if filled.min() == filled.max():  # no minimum is as deep: all is one basin
        return np.ones(relief.shape, np.int32)
    return ndimage.label(local_minima(filled), structure=np.ones((3, 3, 3)))[0]
