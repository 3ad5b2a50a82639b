"""Active contours from balls around seeds, with edges and without.

The morphological operators count voxels, so a contour moves on cubic voxels: an image of another
spacing is resampled to its smallest voxel side, and the labels are brought back.
"""

import numpy as np
from scipy import ndimage

from segkit.classical.image import check_positive
from segkit.classical.image import cubic
from segkit.classical.image import finest
from segkit.classical.image import labels_onto
from segkit.classical.morphology import chan_vese_contour
from segkit.classical.morphology import geodesic_contour
from segkit.classical.seeds import find_seeds
from segkit.classical.seeds import grow_foreground
from segkit.errors import ConfigError

MAX_VOXELS = 4_000_000  # some minutes per class and hundred iterations


def active_contour(
    volume,
    num_classes,
    *,
    seed_radius_mm: float | None = None,
    iterations: int = 100,
    smoothing: int = 1,
    balloon: int = 1,
    edge_share: float = 0.4,
    sigma_mm: float | None = None,
    seeds: dict[int, list[list[float]]] | None = None,
    seed_units: str = "mm",
    classes: list[int] | None = None,
):
    """Geodesic contours: grow from the seeds and come to rest on edges.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`, up to 4 million voxels; larger
            images need the option `grid_mm`.
        num_classes: Number of classes, background included.
        seed_radius_mm: Radius of the balls around the seeds that the contour starts from, in mm;
            `None` for five times the smallest voxel side.
        iterations: Steps of the contour, a voxel each.
        smoothing: How often the contour is smoothed per step, 0 to 4.
        balloon: 1 to grow where there is no edge, -1 to shrink, 0 to do neither.
        edge_share: Share of the image, the steepest, that counts as edges: the balloon does not
            push there; at least 0, below 1.
        sigma_mm: Standard deviation of the Gaussian before the gradient, in mm; `None` for the
            smallest voxel side.
        seeds: Points of each class, see `segkit.classical.seeds`; `None`: found by rule.
        seed_units: `"mm"` or `"fraction"`.
        classes: Class of each level of intensity, for the rule.

    Returns:
        uint8 class indices, shape of the volume; a voxel that two classes reach is of the one
        with the nearest seed.

    Raises:
        ConfigError: If the image is too large or an option is out of range.

    Reference:
        Caselles, Kimmel and Sapiro, "Geodesic active contours", International Journal of Computer
        Vision 22, 1997; in the form of `segkit.classical.morphology`.
    """
    if balloon not in (-1, 0, 1):
        raise ConfigError(f"method.balloon must be -1, 0 or 1, got {balloon}.")
    if not 0 <= edge_share < 1:
        raise ConfigError(f"method.edge_share must be at least 0 and below 1, got {edge_share}.")
    if sigma_mm is not None:
        check_positive("sigma_mm", sigma_mm)

    def move(array, start, side_mm):
        sigma = 1.0 if sigma_mm is None else sigma_mm / side_mm
        change = ndimage.gaussian_gradient_magnitude(array / array.std(), sigma, mode="nearest")
        return geodesic_contour(
            1 / np.sqrt(1 + 100 * change),
            start,
            iterations,
            smoothing=smoothing,
            balloon=balloon,
            edge_share=edge_share,
        )

    return _contours(
        "active_contour",
        volume,
        num_classes,
        move,
        seed_radius_mm=seed_radius_mm,
        iterations=iterations,
        smoothing=smoothing,
        seeding={"seeds": seeds, "seed_units": seed_units, "classes": classes},
    )


def chan_vese(
    volume,
    num_classes,
    *,
    seed_radius_mm: float | None = None,
    iterations: int = 35,
    smoothing: int = 1,
    inside: float = 1.0,
    outside: float = 1.0,
    seeds: dict[int, list[list[float]]] | None = None,
    seed_units: str = "mm",
    classes: list[int] | None = None,
):
    """Contours without edges: the intensities inside and outside become as even as possible.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`, up to 4 million voxels; larger
            images need the option `grid_mm`.
        num_classes: Number of classes, background included.
        seed_radius_mm: Radius of the balls around the seeds that the contour starts from, in mm;
            `None` for five times the smallest voxel side.
        iterations: Steps of the contour.
        smoothing: How often the contour is smoothed per step, 0 to 4.
        inside: Weight of evenness inside; larger makes the region smaller and more even.
        outside: Weight of evenness outside.
        seeds: Points of each class, see `segkit.classical.seeds`; `None`: found by rule.
        seed_units: `"mm"` or `"fraction"`.
        classes: Class of each level of intensity, for the rule.

    Returns:
        uint8 class indices, shape of the volume; a voxel that two classes reach is of the one
        with the nearest seed.

    Raises:
        ConfigError: If the image is too large or an option is out of range.

    Reference:
        Chan and Vese, "Active contours without edges", IEEE Transactions on Image Processing 10,
        2001, equation 3; in the form of `segkit.classical.morphology`, without the length and area
        terms, in whose place the contour is smoothed.
    """
    check_positive("inside", inside)
    check_positive("outside", outside)

    def move(array, start, side_mm):
        return chan_vese_contour(
            array, start, iterations, smoothing=smoothing, inside=inside, outside=outside
        )

    return _contours(
        "chan_vese",
        volume,
        num_classes,
        move,
        seed_radius_mm=seed_radius_mm,
        iterations=iterations,
        smoothing=smoothing,
        seeding={"seeds": seeds, "seed_units": seed_units, "classes": classes},
    )


def _contours(method, volume, num_classes, move, *, seed_radius_mm, iterations, smoothing, seeding):
    """Moves a contour per class on cubic voxels, without axes of length 1.

    `move` takes the image, the first region (both without those axes) and the voxels' side in mm.
    """
    side_mm = finest(volume)
    seed_radius_mm = 5 * side_mm if seed_radius_mm is None else seed_radius_mm
    check_positive("seed_radius_mm", seed_radius_mm)
    if iterations < 1:
        raise ConfigError(f"method.iterations must be at least 1, got {iterations}.")
    if not 0 <= smoothing <= 4:
        raise ConfigError(f"method.smoothing must be from 0 to 4, got {smoothing}.")
    even = cubic(method, volume, MAX_VOXELS)
    points = find_seeds(method, even, num_classes, **seeding)
    array = np.squeeze(even.array)
    if array.ndim < 2:
        raise ConfigError(f"{method} needs an image of two axes or more, got {volume.shape}.")

    def grow(seeds, distance_mm):
        start = np.squeeze(distance_mm <= seed_radius_mm)
        return move(array, start, side_mm).reshape(even.shape)

    return labels_onto(grow_foreground(even, points, grow), volume.shape)
