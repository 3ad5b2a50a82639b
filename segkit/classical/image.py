"""The image as methods see it, and filters that measure in mm, whatever the voxels are like.

An axis of length 1, as 2-D images have one, is neither smoothed nor resampled, and nothing
changes along it.
"""

import math

import numpy as np
from scipy import ndimage

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.volume import Volume

MAX_VOXELS = 2**27  # of a grid asked for with `grid_mm`: 0.5 GB in float32


def one_channel(
    volume,
    *,
    channel: int = 0,
    box: list[list[float]] | None = None,
    smooth_mm: float = 0.0,
    grid_mm: float | None = None,
):
    """Returns the channel that a method works on: cropped, smoothed and resampled if asked for.

    Args:
        volume: `Volume`, array `(depth, height, width[, channels])`.
        channel: Index of the channel.
        box: Region of interest, for each axis the shares in [0, 1] of its length between which it
            lies: `[[0, 1], [0.2, 0.8], [0.5, 1]]`; `None` for the whole image.
        smooth_mm: Standard deviation of a Gaussian, in mm; 0 for none.
        grid_mm: Side of the cubic voxels to work on, in mm, `None` for those of the image. Larger
            ones make slow methods fast; the labels are brought back by `labels_onto`.

    Returns:
        `Volume`, float32 array `(depth, height, width)`.

    Raises:
        ConfigError: No such channel, a box that holds no voxel, or a length that is negative or
            too small.
        DataError: The channel is constant, or holds NaN or infinite values.
    """
    if not 0 <= channel < volume.num_channels:
        raise ConfigError(
            f"method.channel is {channel}, but the image has {volume.num_channels} channel(s). "
            "The first one is 0."
        )
    check_positive("smooth_mm", smooth_mm, or_zero=True)
    array = volume.array if volume.array.ndim == 3 else volume.array[..., channel]
    where = box_slices(volume.shape, box)
    array = array[where].astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError("the image holds NaN or infinite values. Repair it first.")
    if array.min() == array.max():
        within = "" if box is None else " in the box"
        raise DataError(
            f"channel {channel} of the image is {array.flat[0]:g} everywhere{within}: there is "
            "nothing to tell apart. Take another channel or another image."
        )
    shift = np.eye(4)
    shift[:3, 3] = [part.start for part in where]
    affine = volume.affine @ shift
    single = Volume(gaussian(array, smooth_mm, volume.spacing_mm), affine)
    return single if grid_mm is None else resampled(single, grid_mm)


def box_slices(shape, box):
    """Returns the slices of the voxels whose centres lie in a box, as `one_channel` takes it."""
    if box is None:
        return tuple(slice(0, n) for n in shape)
    if len(box) != 3 or any(len(side) != 2 for side in box):
        raise ConfigError(f"method.box needs three pairs [low, high], one per axis, got {box}.")
    where = []
    for n, (low, high) in zip(shape, box, strict=True):
        inside = np.flatnonzero((low * n <= np.arange(n) + 0.5) & (np.arange(n) + 0.5 <= high * n))
        if not (0 <= low < high <= 1) or not inside.size:
            raise ConfigError(
                f"method.box: [{low:g}, {high:g}] holds no voxel of an axis of {n}. Give two "
                "increasing shares of its length, from 0 to 1."
            )
        where.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(where)


def resampled(volume, side_mm):
    """Returns the volume on cubic voxels of its own field of view.

    Sides are a little off `side_mm` where the field of view is no multiple of it.

    Args:
        volume: `Volume`, float32 array `(depth, height, width)`.
        side_mm: Length of a voxel's sides, in mm.

    Raises:
        ConfigError: If the length is not positive, or the grid would have one voxel, or over
            2**27.
    """
    from skimage.transform import resize  # takes a second

    check_positive("grid_mm", side_mm)
    shape = [
        1 if n == 1 else max(1, round(n * s / side_mm))
        for n, s in zip(volume.shape, volume.spacing_mm, strict=True)
    ]
    if tuple(shape) == volume.shape:
        return volume
    if math.prod(shape) == 1:
        raise ConfigError(f"method.grid_mm is {side_mm:g}, more than the image. Take less.")
    if math.prod(shape) > MAX_VOXELS:
        raise ConfigError(
            f"method.grid_mm is {side_mm:g}, which makes {math.prod(shape)} voxels of the image; "
            f"at most {MAX_VOXELS} are possible. Take larger voxels."
        )
    step = np.eye(4)
    for axis, (old, new) in enumerate(zip(volume.shape, shape, strict=True)):
        step[axis, axis] = old / new
        step[axis, 3] = 0.5 * old / new - 0.5
    array = resize(
        volume.array, shape, order=1, mode="edge", anti_aliasing=True, preserve_range=True
    )
    return Volume(array.astype(np.float32), volume.affine @ step)


def labels_onto(labels, shape):
    """Returns labels on a grid of `shape` over the same field of view.

    Each class's mask is interpolated linearly and the largest share wins; a tie goes to the lower
    class.

    Args:
        labels: uint8 class indices, `(depth, height, width)`.
        shape: New `(depth, height, width)`.
    """
    from skimage.transform import resize  # takes a second

    if labels.shape == tuple(shape):
        return labels
    found, best = np.zeros(shape, np.uint8), np.full(shape, -1, np.float32)
    for index in np.unique(labels):
        mask = (labels == index).astype(np.float32)
        share = resize(mask, shape, order=1, mode="edge", anti_aliasing=False)
        wins = share > best + 1e-6
        found[wins] = index
        best[wins] = share[wins]
    return found


def gaussian(array, sigma_mm, spacing_mm):
    """Returns the array smoothed by a Gaussian of `sigma_mm`; beyond the border it goes on."""
    if sigma_mm == 0:
        return array
    sigma = [0 if n == 1 else sigma_mm / s for n, s in zip(array.shape, spacing_mm, strict=True)]
    return ndimage.gaussian_filter(array, sigma, mode="nearest")


def gradient(array, spacing_mm):
    """Returns the change of intensity per mm along each axis, by Sobel's filter.

    A central difference over two voxels along the axis, averaged with weights 1, 2, 1 along the
    others: exact where the intensity is linear, the border apart.

    Args:
        array: float32, shape `(depth, height, width)`.
        spacing_mm: Voxel size per axis.

    Returns:
        float32, shape `(3, depth, height, width)`.

    Reference:
        Sobel and Feldman, "A 3x3 isotropic gradient operator for image processing", 1968; in 3-D
        with the same weights along the third axis.
    """
    slopes = [
        ndimage.sobel(array, axis, mode="nearest") / (32 * s) for axis, s in enumerate(spacing_mm)
    ]
    return np.stack(slopes)


def finest(volume):
    """Returns the smallest spacing along an axis that is longer than 1, in mm."""
    return min(s for n, s in zip(volume.shape, volume.spacing_mm, strict=True) if n > 1)


def check_positive(option, value, *, or_zero=False):
    """Raises `ConfigError` unless an option's value is finite and above 0."""
    if not (0 < value < math.inf or (or_zero and value == 0)):
        least = "at least 0" if or_zero else "above 0"
        raise ConfigError(f"method.{option} must be {least}, got {value!r}.")


def cubic(method, volume, limit):
    """Returns the volume on cubic voxels with the side of its smallest.

    Raises:
        ConfigError: As `check_size`, if these are too many.
    """
    side_mm = finest(volume)
    check_size(method, volume, limit, side_mm)
    return resampled(volume, side_mm)


def check_size(method, volume, limit, side_mm=None):
    """Raises `ConfigError` if a method would take too long, and names a grid that is possible.

    Args:
        method: Name of the method, for the message.
        volume: `Volume` that it works on.
        limit: Largest number of voxels.
        side_mm: Side of the cubic voxels that it makes of them, `None` if it does not.
    """
    extent = [n * s for n, s in zip(volume.shape, volume.spacing_mm, strict=True) if n > 1]
    voxels = math.prod(volume.shape)
    if side_mm is not None:
        voxels = math.prod(round(length / side_mm) for length in extent)
    if voxels > limit:
        possible_mm = (math.prod(extent) / limit) ** (1 / len(extent))
        raise ConfigError(
            f"{method} is too slow for {voxels} voxels, it takes up to {limit}. Let it work on "
            f"larger ones: grid_mm={math.ceil(possible_mm * 105) / 100}."
        )
