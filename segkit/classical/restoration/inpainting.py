"""Filling of holes without learned weights."""

import numpy as np

from segkit.errors import DataError
from segkit.errors import ShapeError


def biharmonic(image, mask):
    """Fills holes with the smoothest continuation of their surroundings.

    Each hole is the solution of the biharmonic equation; known voxels stay as they are.

    Args:
        image: float32, shape `(*sides, channels)`.
        mask: Shape `(*sides)` or `(*sides, 1)`, not 0 in holes.

    Returns:
        float32, the shape of `image`, within the range of what is known.

    Raises:
        ShapeError: If the mask has not the sides of the image.
        DataError: If nothing is known, or known voxels are NaN or infinite.

    Reference:
        Damelin and Hoang, "On surface completion and image inpainting by biharmonic functions",
        International Journal of Mathematics and Mathematical Sciences, 2018, arXiv:1707.06567; as
        scikit-image's `inpaint_biharmonic`.
    """
    from skimage.restoration import inpaint_biharmonic  # takes a second

    image, holes = np.asarray(image, np.float32), np.asarray(mask) != 0
    holes = holes[..., 0] if holes.ndim == image.ndim else holes
    if holes.shape != image.shape[:-1]:
        raise ShapeError(
            f"biharmonic inpainting needs a mask of the image's sides {image.shape[:-1]}, got "
            f"{np.shape(mask)}."
        )
    if holes.all():
        raise DataError("biharmonic inpainting needs known voxels, and the mask has none.")
    if not np.isfinite(image[~holes]).all():
        raise DataError("known voxels hold NaN or infinite values. Repair the image first.")
    if not holes.any():
        return image.copy()
    given = np.where(holes[..., None], np.float32(0), image)
    filled = inpaint_biharmonic(given, holes, channel_axis=-1)
    known = given[~holes]
    filled = np.clip(filled, known.min(axis=0), known.max(axis=0))
    return np.where(holes[..., None], filled, image).astype(np.float32)
