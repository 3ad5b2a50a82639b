"""From scores and offsets to boxes: proposals of the first stage, detections of the last."""

import tensorflow as tf

from segkit.models.mask_rcnn import garden


def propose(logits, offsets, anchors, *, shape, candidates, number, overlap):
    """Returns the boxes that are most likely to hold an object.

    The best anchors of all levels together are decoded, cut off at the border of the image, and
    thinned out by non-maximum suppression. (The paper on pyramids takes the best of each level.)

    Args:
        logits: float32 `(B, anchors)`.
        offsets: float32 `(B, anchors, 4)`.
        anchors: float32 `(anchors, 4)`.
        shape: `(height, width)` of the image.
        candidates: How many anchors to decode.
        number: How many boxes to return.
        overlap: As in `garden.suppress`.

    Returns:
        float32 `(B, number, 4)`, best first, padded with zeros.
    """
    if (logits.shape[1] or 0) < candidates:
        logits, offsets, anchors = _padded(logits, offsets, anchors, candidates)
    best, indices = tf.math.top_k(logits, candidates)
    chosen = tf.gather(offsets, indices, batch_dims=1)
    boxes = garden.clip(garden.decode(chosen, tf.gather(anchors, indices)), *shape)
    boxes = tf.where(_has_area(boxes)[..., None], boxes, 0.0)
    boxes, _ = garden.suppress(boxes, tf.sigmoid(best), number=number, overlap=overlap)
    return boxes


def select(probabilities, boxes, *, number, candidates, threshold, overlap):
    """Returns the objects that were found: per class, without those that overlap a better one.

    Args:
        probabilities: float32 `(B, n, classes)`, background first.
        boxes: float32 `(B, n, 4)`, within the image, n known; zeros are padding.
        number: How many objects to return.
        candidates: How many pairs of box and class to look at, the best.
        threshold: Lowest probability.
        overlap: As in `garden.suppress`.

    Returns:
        `(boxes, scores, classes)`: float32 `(B, number, 4)`, float32 `(B, number)` and int32
        `(B, number)`, best first, padded with zeros.
    """
    objects = probabilities.shape[-1] - 1
    valid = _has_area(boxes)[..., None] & (probabilities[..., 1:] >= threshold)
    scores = tf.where(valid, probabilities[..., 1:], -1.0)
    pairs = boxes.shape[1] * objects
    scores, indices = tf.math.top_k(tf.reshape(scores, (-1, pairs)), min(candidates, pairs))
    found = scores >= 0.0
    boxes = tf.where(found[..., None], tf.gather(boxes, indices // objects, batch_dims=1), 0.0)
    # Boxes of another class are moved off the image, so that classes do not suppress each other.
    # They are whole numbers, which are exact.
    span = tf.math.ceil(tf.reduce_max(boxes, axis=(1, 2)))[:, None] + 1.0
    shift = tf.cast(indices % objects, tf.float32) * span
    moved = tf.where(found[..., None], boxes + shift[..., None], 0.0)
    moved, scores = garden.suppress(moved, scores, number=number, overlap=overlap)
    kept = tf.reduce_any(moved > 0.0, axis=-1)
    classes = tf.cast(tf.floor(moved[..., 0] / span), tf.int32)
    boxes = moved - (tf.cast(classes, tf.float32) * span)[..., None]
    return (
        tf.where(kept[..., None], boxes, 0.0),
        tf.where(kept, scores, 0.0),
        tf.where(kept, classes + 1, 0),
    )


def _padded(logits, offsets, anchors, number):
    """At least `number` anchors, the further ones without area and the last to be chosen."""
    missing = tf.maximum(number - tf.shape(logits)[1], 0)
    logits = tf.pad(logits, ((0, 0), (0, missing)), constant_values=logits.dtype.min)
    offsets = tf.pad(offsets, ((0, 0), (0, missing), (0, 0)))
    return logits, offsets, tf.pad(anchors, ((0, missing), (0, 0)))


def _has_area(boxes):
    return tf.reduce_min(boxes[..., 2:] - boxes[..., :2], axis=-1) > 0.0
