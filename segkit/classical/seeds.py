"""Seeds: voxels known to be of a class, given by the user or found by rule.

The option `seeds` gives each class a list of points, `{1: [[12, -30, 8]], 2: [[20, 5, 8]]}`, and
`seed_units` says what their numbers are: `"mm"`, RAS+ millimetres `(x, y, z)` as viewers show
them (a picture without physical size: column, row, 0); or `"fraction"`, shares in [0, 1] of the
image's extent (of the box's, where there is one) towards Superior, Anterior and Right, which suit
many cases at once.

Without seeds, each class has one: the voxel deepest inside the largest connected part of its
levels of intensity (`levels.py`).
"""

import numpy as np
from scipy import ndimage

from segkit.classical.image import check_positive
from segkit.classical.levels import check_classes
from segkit.classical.levels import class_of_intensity
from segkit.errors import ConfigError
from segkit.errors import nearest

UNITS = ("mm", "fraction")


def find_seeds(method, volume, num_classes, *, seeds, seed_units, classes):
    """Returns the seeds of each class: those given, or one per foreground class by rule.

    Args:
        method: Name of the method, for the messages.
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        seeds: Dict class index -> list of points, or `None`.
        seed_units: `"mm"` or `"fraction"`.
        classes: Class of each level of intensity, see `levels.py`, or `None`; for the rule only.

    Returns:
        Dict class index -> voxel indices, int array `(points, 3)`.

    Raises:
        ConfigError: A point lies outside the image, a class does not exist, no class but the
            background has a point, or both `seeds` and `classes` are given.
    """
    if seeds is not None:
        if classes is not None:
            raise ConfigError(
                f"{method} takes method.seeds, which name their classes, or method.classes; got "
                "both. Leave one out."
            )
        points = place_seeds(volume, num_classes, seeds, seed_units)
        if not any(points):
            raise ConfigError(
                f"method.seeds must list a point of a class other than the background, got {seeds}."
            )
        return points
    indices = class_of_intensity(method, volume.array, num_classes, classes)(volume.array)
    found = {index: indices == index for index in range(1, num_classes)}
    return {
        index: deepest(mask, volume.spacing_mm)[None] for index, mask in found.items() if mask.any()
    }


def place_seeds(volume, num_classes, seeds, seed_units):
    """Returns the voxels that points lie in; arguments, result and errors as `find_seeds`."""
    if seed_units not in UNITS:
        raise ConfigError(f"method.seed_units is {seed_units!r}. {nearest(seed_units, UNITS)}")
    check_classes("seeds", seeds, num_classes)
    return {
        index: np.array([_voxel(volume, index, point, seed_units) for point in points])
        for index, points in seeds.items()
        if points
    }


def deepest(mask, spacing_mm):
    """Returns the voxel of a mask's largest connected part that is farthest from its border.

    Of several such voxels the one nearest to the centre of the part. The border of the image is
    no border of the mask.

    Args:
        mask: bool, shape `(depth, height, width)`, not empty.
        spacing_mm: Voxel size per axis.

    Returns:
        int array `(3,)`.
    """
    parts, _ = ndimage.label(mask)
    part = parts == np.bincount(parts[mask]).argmax()
    depth = ndimage.distance_transform_edt(part, sampling=spacing_mm)
    deep = np.argwhere(part & (depth >= depth[part].max() - 1e-6))
    offset = (deep - np.argwhere(part).mean(axis=0)) * spacing_mm
    return deep[(offset**2).sum(axis=1).argmin()]


def grow_classes(volume, points, grow):
    """Returns labels of regions grown from seeds, one class at a time.

    A voxel that several classes reach is of the class with the nearest seed.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        points: From `find_seeds`.
        grow: Function of the points of a class and of the distance of every voxel to them in mm,
            float array `(depth, height, width)`; returns the bool mask of the region.

    Returns:
        int32 array, shape of the volume: 1 + class index, 0 where no class grew to.
    """
    marked = np.zeros(volume.shape, np.int32)
    nearest_mm = np.full(volume.shape, np.inf)
    for index, seeds in sorted(points.items()):
        away = np.ones(volume.shape, bool)
        away[tuple(seeds.T)] = False
        distance_mm = ndimage.distance_transform_edt(away, sampling=volume.spacing_mm)
        wins = grow(seeds, distance_mm) & (distance_mm < nearest_mm)
        marked[wins] = index + 1
        nearest_mm[wins] = distance_mm[wins]
    return marked


def grow_foreground(volume, points, grow):
    """Returns uint8 class indices of what the foreground classes grow to, see `grow_classes`."""
    foreground = {index: seeds for index, seeds in points.items() if index}
    return np.maximum(grow_classes(volume, foreground, grow) - 1, 0).astype(np.uint8)


def markers(method, volume, num_classes, *, seeds, seed_units, seed_radius_mm, classes):
    """Returns the image of given seeds that watershed and random walker start from.

    Args:
        method: Name of the method, for the messages.
        volume: `Volume`, float32 array `(depth, height, width)`.
        num_classes: Number of classes, background included.
        seeds: Dict class index -> list of points.
        seed_units: `"mm"` or `"fraction"`.
        seed_radius_mm: Radius of the ball that is marked around a point, in mm; 0 for its voxel.
        classes: Must be `None`.

    Returns:
        int32 array `(depth, height, width)`: 1 + class index at the seeds, 0 elsewhere.

    Raises:
        ConfigError: As `find_seeds`, or if fewer than two classes have seeds.
    """
    check_positive("seed_radius_mm", seed_radius_mm, or_zero=True)
    points = find_seeds(
        method, volume, num_classes, seeds=seeds, seed_units=seed_units, classes=classes
    )
    if len(points) < 2:
        raise ConfigError(
            f"{method} shares out the whole image among its seeds, and needs seeds of two classes "
            f"or more, got {len(points)}. Those of the background are listed under 0."
        )
    return grow_classes(volume, points, lambda _, distance_mm: distance_mm <= seed_radius_mm)


def _voxel(volume, index, point, units):
    if len(point) != 3 or not np.isfinite(point).all():
        raise ConfigError(
            f"method.seeds: a point has three finite numbers, class {index} has {point}."
        )
    place = _from_fraction if units == "fraction" else _from_mm
    voxel = place(volume, np.array(point, np.float64))
    if not all(0 <= v < n for v, n in zip(voxel, volume.shape, strict=True)):
        raise ConfigError(
            f"method.seeds: the point {list(point)} of class {index} is outside the image, which "
            f"spans {_span(volume, units)}."
        )
    return voxel


def _from_fraction(volume, point):
    shape = np.array(volume.shape)
    return np.where(point == 1, shape - 1, np.floor(point * shape)).astype(int)


def _from_mm(volume, point):
    inverse = np.linalg.inv(volume.affine)
    return np.rint(inverse[:3, :3] @ point + inverse[:3, 3]).astype(int)


def _span(volume, units):
    if units == "fraction":
        return "0 to 1 along each axis"
    far = np.array(volume.shape) - 1
    corners = np.array(np.meshgrid(*[(0, n) for n in far], indexing="ij")).reshape(3, -1)
    world = volume.affine[:3, :3] @ corners + volume.affine[:3, 3:]
    spans = zip("xyz", world.min(axis=1), world.max(axis=1), strict=True)
    return ", ".join(f"{axis} {low:.4g} to {high:.4g} mm" for axis, low, high in spans)
