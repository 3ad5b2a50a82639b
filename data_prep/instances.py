"""Objects as maps of ids: made of masks or of class maps, checked, and put on the prepared grid.

An id says to which object a voxel belongs, 0 to none. What the object is, its class, is what the
label says there, so a data set with objects is one for semantic segmentation too. Objects of the
class `ignore` are those that count for nothing: crowds, or what nobody could tell.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from scipy import ndimage

from data_prep.layouts import Objects
from data_prep.preprocess import shares
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.volume import Volume

MODES = ("components", "slices")
MAX_OBJECTS = 65535  # ids are uint16
TOUCHING = np.ones((3, 3, 3), bool)  # voxels that share a corner are one object


def paint(masks, shape):
    """Makes one map of masks that may overlap: the smaller object has the voxels of both.

    Args:
        masks: Sorted flat voxel indices of each object, 1-D integer arrays.
        shape: `(d, h, w)` of the map.

    Returns:
        `Objects` whose ids are the places in `masks`, from 1. An object that is empty or lies
        wholly under smaller ones is left out, with a note.
    """
    ids = np.zeros(np.prod(shape, dtype=int), np.int32)
    sizes = [len(mask) for mask in masks]
    for place in sorted(range(len(masks)), key=lambda n: -sizes[n]):
        ids[masks[place]] = place + 1
    left = np.bincount(ids, minlength=len(masks) + 1)[1:]
    notes = {
        "A mask was empty: it is no object.": 0 in sizes,
        "An object lay wholly under smaller ones: it was left out.": any(
            size and not n for size, n in zip(sizes, left, strict=True)
        ),
    }
    lost = sum(sizes) - int(left.sum())
    return Objects(ids.reshape(shape), lost, tuple(note for note, true in notes.items() if true))


def components(label, background):
    """Makes objects of a class map: connected voxels of one class, corners included.

    Args:
        label: Integers, shape `(d, h, w)`.
        background: The value that is no object.

    Returns:
        `Objects`, ids from 1.
    """
    ids, count = np.zeros(label.shape, np.int32), 0
    for value in np.unique(label):
        if value != background:
            parts, found = ndimage.label(label == value, TOUCHING)
            ids[parts > 0] = parts[parts > 0] + count
            count += found
    return Objects(ids)


def with_components(dataset):
    """Returns a `RawDataset` whose cases have objects: its own, else connected parts of classes."""
    background = next(iter(dataset.classes.values()), None)
    if background is None:
        raise DataError("objects are made of labels, which this data set lacks.")
    read = partial(read_components, read=dataset.read, background=background)
    return replace(dataset, read=read)


def read_components(case, read, background):
    """Reads a case with `components` of its label, unless it has objects; else as `read`."""
    image, label, *objects = read(case)
    if objects or label is None:
        return image, label, *objects
    return image, label, components(label.array, background)


def split_slices(ids):
    """Makes an object of each connected part that an object has in a slice, for 2-D networks.

    Args:
        ids: Integers, shape `(d, h, w)`; slices are along the first axis.

    Returns:
        uint16 ids of that shape, from 1.

    Raises:
        DataError: There are more than 65535 of them.
    """
    result, count = np.zeros(ids.shape, np.int32), 0
    flat = TOUCHING & (np.arange(3) == 1)[:, None, None]
    for index, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is not None:
            parts, found = ndimage.label(ids[box] == index, flat)
            result[box][parts > 0] = parts[parts > 0] + count
            count += found
    _check_count(count)
    return result.astype(np.uint16)


def number_objects(objects, label, names):
    """Returns checked ids, numbered 1, 2, ... in the order of the given ones.

    Args:
        objects: `Objects`.
        label: Class indices, shape `(d, h, w)`.
        names: Names of the classes, in order.

    Returns:
        uint16 array `(d, h, w)`.

    Raises:
        ShapeError: The ids have another shape than the label.
        DataError: An id is negative, an object lies in the background or in several classes, or
            there are more than 65535.
    """
    ids = objects.ids
    if ids.shape != label.shape:
        raise ShapeError(f"the objects have shape {ids.shape}, their image {label.shape}.")
    if ids.min(initial=0) < 0:
        raise DataError(f"objects have ids of 0 or more, got {ids.min()}.")
    inside = ids > 0
    values, numbers = np.unique(ids[inside], return_inverse=True)
    _check_count(len(values))
    lowest = np.full(len(values), len(names))
    highest = np.zeros(len(values), int)
    np.minimum.at(lowest, numbers, label[inside])
    np.maximum.at(highest, numbers, label[inside])
    wrong = np.flatnonzero((lowest != highest) | (lowest == 0))
    if len(wrong):
        first = wrong[0]
        kinds = " and ".join(list(names)[n] for n in dict.fromkeys((lowest[first], highest[first])))
        raise DataError(
            f"object {values[first]} lies in {kinds}, where an object has one class other than the "
            "background. Mend the label or the instance map."
        )
    result = np.zeros(ids.shape, np.uint16)
    result[inside] = numbers + 1
    return result


def prepare_ids(ids, label, prepared, image):
    """Puts ids where the label was put, so that both say the same of each voxel.

    Args:
        ids: uint16, on the source grid.
        label: Class indices on the source grid.
        prepared: `data_prep.preprocess.Prepared` of the case.
        image: Image `Volume` of the case.

    Returns:
        uint16 array of the prepared label's shape. A voxel has the id of an object of its class.
    """
    crop = tuple(slice(low, high) for low, high in prepared.geometry["crop"])
    moved = (
        Volume(array, image.affine).oriented(prepared.geometry["orientation"]).array[crop]
        for array in (ids, label)
    )
    return np.ascontiguousarray(resample_ids(*moved, prepared.label))


def resample_ids(ids, label, new_label):
    """Resamples ids onto a grid whose label is known.

    Each voxel takes, among the objects of its class, the one with the largest share of a linear
    interpolation, or none if voxels of that class outside of all objects have more.

    Args:
        ids: uint16, shape `(d, h, w)`.
        label: Class indices of that shape.
        new_label: Class indices of the new shape.

    Returns:
        uint16 array of the shape of `new_label`.
    """
    if ids.shape == new_label.shape:
        return ids
    best = np.zeros(new_label.shape, np.float32)
    for index, window, share in shares(np.where(ids, 0, label), new_label.shape):
        own = new_label[window] == index
        best[window][own] = share[own]
    result = np.zeros(new_label.shape, np.uint16)
    kinds = np.zeros(int(ids.max()) + 1, label.dtype)
    kinds[ids] = label
    for index, window, share in shares(ids, new_label.shape):
        wins = (share > best[window]) & (new_label[window] == kinds[index])
        best[window][wins] = share[wins]
        result[window][wins] = index
    return result


def _check_count(count):
    if count > MAX_OBJECTS:
        raise DataError(
            f"{count} objects in one case; ids go up to {MAX_OBJECTS}. Cut it into several cases, "
            "or clean the label of single voxels."
        )
