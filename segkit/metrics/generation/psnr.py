"""Peak signal-to-noise ratio of one image."""

import numpy as np

from segkit.errors import DataError
from segkit.errors import ShapeError


def psnr(truth, image, *, data_range, weight=None):
    """Peak signal-to-noise ratio in decibels.

        10 log10(data_range^2 / mean (truth - image)^2)

    Args:
        truth: Array of any shape.
        image: Same shape.
        data_range: Largest less smallest possible intensity, see `intensity_range`.
        weight: Weight of each voxel's squared error, same shape or one that broadcasts to it, such
            as a mask with 1 in holes; `None`: all count alike.

    Returns:
        Float in dB; infinite for equal images, NaN where no voxel has a weight.

    Raises:
        ShapeError: If the shapes differ.
        DataError: If a value is NaN or infinite, or `data_range` is not above 0.
    """
    truth, image = pair("PSNR", truth, image, data_range)
    errors = (truth - image) ** 2
    weight = np.ones_like(errors) if weight is None else np.broadcast_to(weight, errors.shape)
    total = weight.sum()
    if not total:
        return float("nan")
    error = (errors * weight).sum() / total
    return float(10 * np.log10(data_range**2 / error)) if error else float("inf")


def intensity_range(truth):
    """Returns the largest less the smallest intensity of a true image, a float of 0 or more."""
    return float(np.max(truth) - np.min(truth))


def pair(measure, truth, image, data_range):
    """Returns two images in float64, after the checks that all measures of a pair share.

    Raises:
        ShapeError: If the shapes differ.
        DataError: If a value is NaN or infinite, or `data_range` is not above 0.
    """
    truth, image = (np.asarray(array, np.float64) for array in (truth, image))
    if truth.shape != image.shape:
        raise ShapeError(
            f"{measure} needs two images of one shape, got {truth.shape} and {image.shape}."
        )
    for name, array in (("truth", truth), ("image", image)):
        if not np.isfinite(array).all():
            raise DataError(
                f"{measure}: the {name} holds NaN or infinite values. Check its source."
            )
    if not 0 < data_range < np.inf:
        raise DataError(
            f"{measure} needs a data range above 0, got {data_range}. A constant image has none: "
            "leave it out."
        )
    return truth, image
