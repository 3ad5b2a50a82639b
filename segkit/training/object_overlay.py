"""Pictures of objects for TensorBoard: boxes and masks on an image."""

import numpy as np

from segkit.training.overlay import PALETTE
from segkit.training.overlay import painted
from segkit.training.overlay import to_grey

PROPOSALS = 30  # as many as can be told apart


def object_panel(
    image,
    instance,
    proposals,
    object_boxes,
    boxes,
    masks,
    scores,
    *,
    threshold=0.5,
    upright=False,
    opacity=0.4,
):
    """Draws an image four times: plain, with its objects, with proposals, with detections.

    Args:
        image: float array `(height, width, channels)`; the first channel is shown.
        instance: Ids of objects, int array `(height, width)`.
        proposals: Boxes `(n, 4)`, best first; the first 30 are drawn.
        object_boxes: Boxes `(n, 4)`; those without area are not drawn, here and below.
        boxes: Boxes of detections `(n, 4)`.
        masks: Probabilities `(n, side, side)` within them.
        scores: `(n,)`.
        threshold: Lowest score of a detection to draw.
        upright: Keep the first row on top.
        opacity: Opacity of the colours of objects, in [0, 1].

    Returns:
        uint8 array `(height, 4 * width, 3)`.
    """
    grey = to_grey(image[..., 0])
    shown = scores >= threshold
    found = pasted(boxes[shown], masks[shown], grey.shape[:2])
    views = [
        grey,
        outlined(painted(grey, instance, opacity), object_boxes),
        outlined(grey, proposals[:PROPOSALS]),
        outlined(painted(grey, found, opacity), boxes[shown]),
    ]
    picture = np.concatenate(views, axis=1).round().astype(np.uint8)
    return picture if upright else picture[::-1]


def outlined(picture, boxes):
    """Returns a picture `(height, width, 3)` with a line of one pixel along each box's inside."""
    picture = picture.copy()
    for number, box in enumerate(boxes):
        y0, x0, y1, x1 = _pixels(box, picture.shape[:2])
        if y1 > y0 and x1 > x0:
            colour = PALETTE[number % len(PALETTE)]
            picture[[y0, y1 - 1], x0:x1] = colour
            picture[y0:y1, [x0, x1 - 1]] = colour
    return picture


def pasted(boxes, masks, shape):
    """Returns a map `(height, width)` of the numbers of masks from 1; the first ones on top.

    Args:
        boxes: Boxes `(n, 4)`.
        masks: Probabilities `(n, side, side)`; the nearest one is taken, from 0.5 on.
        shape: `(height, width)`.
    """
    found = np.zeros(shape, np.int32)
    for number in range(len(boxes), 0, -1):
        mask = masks[number - 1]
        y0, x0, y1, x1 = _pixels(boxes[number - 1], shape)
        rows = (np.arange(y1 - y0) + 0.5) * mask.shape[0] / max(y1 - y0, 1)
        columns = (np.arange(x1 - x0) + 0.5) * mask.shape[1] / max(x1 - x0, 1)
        inside = mask[rows.astype(int)][:, columns.astype(int)] >= 0.5
        found[y0:y1, x0:x1][inside] = number
    return found


def _pixels(box, shape):
    """Whole bounds of a box within an image."""
    return np.clip(np.round(box), 0, (*shape, *shape)).astype(int)
