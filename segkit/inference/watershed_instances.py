"""Objects from a semantic network: touching ones are cut apart at their necks by a watershed."""

import numpy as np
from scipy import ndimage

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.inference.detections import InstanceMap


def watershed_instances(probabilities, *, depth=1.0, min_size=1, spacing=None):
    """Returns the objects of each class from class probabilities, the "U-Net + watershed" baseline.

    A pixel belongs to its most probable class. Of each class the distance to the border is a
    landscape; a summit that rises by `depth` above the pass to the next is an object, and the
    others are flooded with it (extended maxima). The edge of the image is no border.

    Args:
        probabilities: Shape `(*spatial, classes)`, two or three spatial axes, background first.
        depth: In units of `spacing`, above 0: larger values cut fewer objects apart.
        min_size: Objects of fewer pixels are left out.
        spacing: Size of a pixel per axis, `None` for 1.

    Returns:
        `InstanceMap`; the score of an object is the mean probability of its class over its pixels.

    Raises:
        ConfigError: If `depth` is not above 0.
        ShapeError: If the probabilities are of no image.

    Reference:
        Soille, "Morphological Image Analysis", 2003, sections 6.3.3 and 9.2: extended maxima, and
        watershed of the distance for objects that touch.
    """
    probabilities = np.asarray(probabilities)
    if depth <= 0:
        raise ConfigError(f"watershed_instances: depth must be above 0, got {depth}.")
    if probabilities.ndim not in (3, 4) or probabilities.shape[-1] < 2:
        raise ShapeError(
            "watershed_instances takes probabilities of two classes or more, (*spatial, classes) "
            f"with two or three spatial axes, got shape {probabilities.shape}."
        )
    nearest = probabilities.argmax(axis=-1)
    labels, scores, classes = np.zeros(nearest.shape, np.int32), [], []
    for index in range(1, probabilities.shape[-1]):
        objects = _cut_apart(nearest == index, depth, spacing)
        sizes = np.bincount(objects.ravel())
        kept = np.flatnonzero(sizes[1:] >= min_size) + 1
        sums = np.bincount(objects.ravel(), weights=probabilities[..., index].ravel())
        number = np.zeros(len(sizes), np.int32)
        number[kept] = len(scores) + 1 + np.arange(len(kept))
        labels += number[objects]
        scores += (sums[kept] / sizes[kept]).tolist()
        classes += [index] * len(kept)
    return InstanceMap(labels, np.array(scores, np.float32), np.array(classes, np.int32))


def _cut_apart(mask, depth, spacing):
    """Numbers the objects of a mask from 1."""
    from skimage.morphology import local_maxima
    from skimage.segmentation import watershed

    parts, _ = ndimage.label(mask)
    if mask.all() or not mask.any():
        return parts
    distance = ndimage.distance_transform_edt(mask, sampling=spacing)
    lowered = _reconstruct(np.maximum(distance - depth, 0), distance)
    full = np.ones((3,) * mask.ndim)
    summits = local_maxima(lowered, footprint=full) & (lowered > 0)
    markers, number = ndimage.label(summits, structure=full)
    # A part thinner than `depth` has no summit left: it is one object.
    marked = np.zeros(parts.max() + 1, bool)
    marked[parts[summits]] = True
    thin = mask & ~marked[parts]
    markers[thin] = parts[thin] + number
    objects = watershed(-distance, markers, mask=mask)
    present = np.bincount(objects.ravel()) > 0
    present[0] = False
    return (np.cumsum(present) * present)[objects]


def _reconstruct(seed, limit):
    """Grows a landscape under another one until nothing changes.

    From the distance to a border lowered a little this takes few rounds, which together are faster
    than the queue of `skimage.morphology.reconstruction`.
    """
    while True:
        grown = np.minimum(ndimage.maximum_filter(seed, 3), limit)
        if np.array_equal(grown, seed):
            return seed
        seed = grown
