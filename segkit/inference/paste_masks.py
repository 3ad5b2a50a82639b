"""The small masks of a network, one per box, brought to the size of their boxes."""

import numpy as np

from segkit.errors import ShapeError
from segkit.inference.detections import Detections
from segkit.inference.detections import bounds


def paste_masks(boxes, scores, classes, masks, shape, *, threshold=0.5):
    """Returns the detections of a network for one image.

    A mask is a grid of samples at the centres of equal cells of its box. It is interpolated
    linearly at the centres of the image's pixels, and is constant outside of the outer samples.

    Args:
        boxes: Shape `(objects, 4)`, `y0, x0, y1, x1` in pixels, half-open. Boxes without a pixel in
            the image are left out, and so are objects of class 0, which is padding.
        scores: Shape `(objects,)`.
        classes: Shape `(objects,)`.
        masks: Probabilities, shape `(objects, side, side)`.
        shape: `(height, width)` of the image.
        threshold: Probability above which a pixel is of the object.

    Returns:
        `Detections`.

    Raises:
        ShapeError: If the arrays are not of as many objects.
    """
    boxes, masks = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(masks, np.float32)
    scores, classes = np.asarray(scores, np.float32), np.asarray(classes, np.int32)
    if {len(scores), len(classes), len(masks)} != {len(boxes)} or masks.ndim != 3:
        raise ShapeError(
            f"{len(boxes)} boxes need as many scores, classes and square masks, got "
            f"{len(scores)}, {len(classes)} and masks of shape {masks.shape}."
        )
    places = bounds(boxes, shape)
    seen = (places[:, :2] < places[:, 2:]).all(axis=1) & (classes > 0)
    seen &= (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    pasted = [
        _paste(*parts) > threshold
        for parts in zip(boxes[seen], places[seen], masks[seen], strict=True)
    ]
    return Detections(boxes[seen], scores[seen], classes[seen], pasted, tuple(shape))


def _paste(box, place, mask):
    rows, columns = (
        _weights(box[n], box[n + 2], place[n], place[n + 2], mask.shape[n]) for n in (0, 1)
    )
    return rows @ mask @ columns.T


def _weights(low, high, first, last, side):
    """Weights `(pixels, side)` of linear interpolation along one axis."""
    centres = np.arange(first, last, dtype=np.float32) + 0.5
    places = np.clip((centres - low) / (high - low) * side - 0.5, 0, side - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(side, dtype=np.float32)), 0)
