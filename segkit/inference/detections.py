"""Objects found in an image, as masks that may overlap or as a map of ids, and what is true."""

from typing import NamedTuple

import numpy as np

from segkit.errors import ShapeError


class Detections(NamedTuple):
    """Objects found in one image; their masks may overlap.

    Attributes:
        boxes: float32, shape `(objects, 4)`: `y0, x0, y1, x1` in pixels, half-open.
        scores: float32, shape `(objects,)`, in [0, 1].
        classes: int32, shape `(objects,)`: class indices, 0 being the background.
        masks: For each object a bool array, cropped to the row of `bounds` of its box.
        shape: `(height, width)` of the image.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: list
    shape: tuple

    def take(self, indices):
        """Returns some of the objects, in the order of the indices."""
        indices = np.asarray(indices, int)
        return Detections(
            self.boxes[indices],
            self.scores[indices],
            self.classes[indices],
            [self.masks[index] for index in indices],
            self.shape,
        )


class InstanceMap(NamedTuple):
    """Objects that do not overlap, in an image or in a volume.

    Attributes:
        labels: int32, shape `(height, width)` or `(depth, height, width)`: ids from 1, in the order
            of the following, 0 where there is no object.
        scores: float32, shape `(objects,)`, in [0, 1]; 1 where the method gives none.
        classes: int32, shape `(objects,)`.
    """

    labels: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class Truth(NamedTuple):
    """The true objects of an image or a volume.

    Attributes:
        labels: As in `InstanceMap`.
        classes: int32, shape `(objects,)`.
        ignored: bool, shape `(objects,)`: objects that count for nothing, found or not.
    """

    labels: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray


def instance_map(ids, classes=None, scores=None):
    """Returns a map of any ids, numbered anew from 1 in the order of the ids.

    Args:
        ids: Integers of any size, shape `(height, width)` or `(depth, height, width)`; 0 where
            there is no object.
        classes: Mapping id -> class index; `None` for class 1 throughout.
        scores: Mapping id -> score; `None` for 1 throughout.

    Returns:
        `InstanceMap`.
    """
    ids = np.asarray(ids)
    found = np.unique(ids)
    found = found[found != 0]
    labels = np.where(ids == 0, 0, np.searchsorted(found, ids) + 1)
    named = found.tolist()
    kinds = np.array([1 if classes is None else classes[n] for n in named], np.int32)
    values = np.array([1.0 if scores is None else scores[n] for n in named], np.float32)
    return InstanceMap(labels.astype(np.int32), values, kinds)


def true_objects(ids, label, ignore_label=None):
    """Returns the true objects of a map of ids beside one of classes.

    Args:
        ids: Ids of the objects, any integers from 0, as in `instance_map`.
        label: Class indices, same shape. The class of an object is the one of most of its pixels.
        ignore_label: Objects of this class are ignored, `None`: none are.

    Returns:
        `Truth`.

    Raises:
        ShapeError: If the shapes differ.
    """
    if np.shape(ids) != np.shape(label):
        raise ShapeError(
            f"ids of objects have the shape {np.shape(ids)} and classes {np.shape(label)}. Both "
            "must be maps of the same image."
        )
    labels, scores, _ = instance_map(ids)
    inside = labels > 0
    width = int(label.max(initial=0)) + 1
    pairs = (labels[inside] - 1).astype(np.int64) * width + label[inside]
    votes = np.bincount(pairs, minlength=len(scores) * width).reshape(len(scores), width)
    classes = votes.argmax(axis=1).astype(np.int32)
    return Truth(labels, classes, classes == (-1 if ignore_label is None else ignore_label))


def without_vanished(objects):
    """Returns the objects that have a pixel, numbered anew: small ones vanish where maps shrink.

    Args:
        objects: `InstanceMap` or `Truth`.

    Raises:
        ShapeError: If an id stands in the map that nothing is known of.
    """
    number = len(objects.classes)
    sizes = np.bincount(objects.labels.ravel(), minlength=number + 1)
    if len(sizes) > number + 1:
        raise ShapeError(
            f"a map holds the id {len(sizes) - 1}, but classes of {number} objects were given. "
            "Number the objects from 1 and list the class of each."
        )
    present = sizes[1:] > 0
    numbers = np.append(0, np.cumsum(present) * present).astype(np.int32)
    columns = {name: getattr(objects, name)[present] for name in objects._fields[1:]}
    return objects._replace(labels=numbers[objects.labels], **columns)


def bounds(boxes, shape):
    """Returns the pixels that boxes touch, `(objects, 4)` ints, within the image."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    low, high = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    return np.clip(np.concatenate([low, high], axis=1), 0, [*shape, *shape]).astype(int)


def separate(found):
    """Returns the objects of a map as `Detections` with tight boxes.

    Args:
        found: `InstanceMap` of an image, each id in it.
    """
    from scipy import ndimage

    slices = ndimage.find_objects(found.labels, len(found.scores))
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in slices]
    masks = [found.labels[place] == n for n, place in enumerate(slices, start=1)]
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, found.scores, found.classes, masks, found.labels.shape)


def paint(detections, *, min_score=0.0, visible=0.5):
    """Returns a map in which no two objects overlap.

    Objects are painted by falling score, each where none is yet. One of which less than a share
    remains is left out.

    Args:
        detections: `Detections`.
        min_score: Objects with a lower score are left out.
        visible: The share of an object's mask that must be free, in [0, 1].

    Returns:
        `InstanceMap`, by falling score.

    Reference:
        Kirillov et al., "Panoptic Segmentation", CVPR 2019, arXiv:1801.00868, section 6.
    """
    labels, kept = np.zeros(detections.shape, np.int32), []
    places = bounds(detections.boxes, detections.shape)
    for index in np.argsort(-detections.scores, kind="stable"):
        (y0, x0, y1, x1), mask = places[index], detections.masks[index]
        free = mask & (labels[y0:y1, x0:x1] == 0)
        size = np.count_nonzero(free)
        if detections.scores[index] < min_score or not size or size < visible * mask.sum():
            continue
        kept.append(index)
        labels[y0:y1, x0:x1][free] = len(kept)
    kept = np.array(kept, int)
    return InstanceMap(labels, detections.scores[kept], detections.classes[kept])


def tighten(detections):
    """Returns the same masks in the smallest boxes, without those that are empty."""
    places, kept = bounds(detections.boxes, detections.shape), []
    boxes, masks = [], []
    for index, ((y, x, _, _), mask) in enumerate(zip(places, detections.masks, strict=True)):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            (top, bottom), (left, right) = ((n[0], n[-1] + 1) for n in (rows, columns))
            kept.append(index)
            boxes.append((y + top, x + left, y + bottom, x + right))
            masks.append(mask[top:bottom, left:right])
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return detections.take(kept)._replace(boxes=boxes, masks=masks)
