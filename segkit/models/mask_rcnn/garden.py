"""Model Garden's functions for detection, as this network calls them.

The only module that knows the package. It is imported at the first call of `require`, because
that takes many seconds. Boxes are float32 `(y0, x0, y1, x1)` in pixels, half-open, everywhere.
"""

import random
from functools import lru_cache
from types import SimpleNamespace

import tensorflow as tf

from segkit.errors import ConfigError

POSITIVE, NEGATIVE, NEITHER = 1, 0, -1


@lru_cache
def require():
    """Returns Model Garden's modules; imports them at the first call.

    Raises:
        ConfigError: If the package is not installed.
    """
    state = random.getstate()  # which seeds initial weights, and which some of the imports use
    try:
        from official.vision.ops import anchor_generator
        from official.vision.ops import box_matcher
        from official.vision.ops import box_ops
        from official.vision.ops import nms
        from official.vision.ops import spatial_transform_ops
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--model mask_rcnn needs TensorFlow's Model Garden (no module {error.name}): "
            'pip install "segkit[maskrcnn]"'
        ) from error
    finally:
        random.setstate(state)
    return SimpleNamespace(
        anchors=anchor_generator,
        matcher=box_matcher,
        boxes=box_ops,
        nms=nms,
        spatial=spatial_transform_ops,
    )


def cell_anchors(side, aspects, stride):
    """Returns the anchors of the first cell of a feature map, `(len(aspects), 4)`.

    Args:
        side: Square root of their area, in pixels.
        aspects: Height over width of each.
        stride: Pixels per cell.
    """
    shapes = [1.0 / aspect for aspect in aspects]  # Model Garden's are width over height
    make = require().anchors.AnchorGeneratorv1([side], [1.0], shapes, [stride])
    return tf.reshape(make((stride, stride))[0], (-1, 4))


def encode(boxes, anchors, weights=None):
    """Returns offsets `(..., 4)` that lead from anchors to boxes, see `decode`."""
    return require().boxes.encode_boxes(boxes, anchors, weights=weights)


def decode(offsets, anchors, weights=None):
    """Returns boxes `(..., 4)`: centre `c + d * side`, side `side * exp(d)`.

    Args:
        offsets: `(..., 4)` of y, x, height and width.
        anchors: `(..., 4)`.
        weights: Four numbers by which the offsets were multiplied, or `None`.
    """
    return require().boxes.decode_boxes(offsets, anchors, weights=weights)


def clip(boxes, height, width):
    """Returns boxes `(..., 4)` cut off at the border of the image."""
    limits = tuple(tf.cast(side, boxes.dtype) for side in (height, width))
    return require().boxes.clip_boxes(boxes, limits)


def overlaps(boxes, others):
    """Returns the intersection over union, `(B, n, m)`; -1 where a box is negative: padding.

    Args:
        boxes: `(B, n, 4)`; 1 in place of B stands for all images.
        others: `(B, m, 4)`.
    """
    return require().boxes.bbox_overlap(boxes, others)


def covered(boxes, others):
    """Returns the share of each box that lies in each other, `(B, n, m)`; -1 for padding."""
    return require().boxes.bbox_intersection_over_area(boxes, others)


def match(similarity, *, low, high):
    """Matches each row to its most similar column.

    Args:
        similarity: `(B, n, m)`.
        low: Rows below are negative.
        high: Rows of at least this are positive; those between the two are neither.

    Returns:
        `(columns, kinds)`, int32 `(B, n)`; kinds are `POSITIVE`, `NEGATIVE` or `NEITHER`.
    """
    matcher = require().matcher.BoxMatcher([low, high], [NEGATIVE, NEITHER, POSITIVE])
    return matcher(similarity)


def suppress(boxes, scores, *, number, overlap):
    """Keeps the best of boxes that overlap: non-maximum suppression.

    Args:
        boxes: `(B, n, 4)`, in the order of their scores; zeros are padding.
        scores: `(B, n)`, falling.
        number: How many to keep at most.
        overlap: Intersection over union at which the lower box goes, 0.5 or more.

    Returns:
        `(boxes, scores)`, `(B, number, 4)` and `(B, number)`, padded with zeros.
    """
    scores, boxes = require().nms.sorted_non_max_suppression_padded(
        scores, boxes, max_output_size=number, iou_threshold=overlap
    )
    return tf.ensure_shape(boxes, (None, number, 4)), tf.ensure_shape(scores, (None, number))


def interpolate(corners, rows, columns):
    """Interpolates between the four features around each point, linearly.

    Args:
        corners: `(B, n, 2 * size, 2 * size, C)`: features at the two rows and columns around.
        rows: float32 `(B, n, size, 2)`, weights of the two rows.
        columns: Those of the two columns.

    Returns:
        `(B, n, size, size, C)`, of the dtype of `corners`.
    """
    mix = require().spatial._feature_bilinear_interpolation
    return mix(corners, rows[..., None], columns[..., None])
