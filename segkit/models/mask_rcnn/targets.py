"""What the heads should find: anchors and regions matched to objects, sampled, with targets.

Model Garden's sampler draws from TensorFlow's global generator, so the sampling is segkit's own:
it depends on the example, the seed of the run and the name of the stage only.
"""

from typing import NamedTuple

import tensorflow as tf

from segkit.layers.per_example import uniform
from segkit.layers.step_context import current_step
from segkit.layers.step_context import step_context
from segkit.models.mask_rcnn import garden


class Samples(NamedTuple):
    """Anchors or regions that are trained on, the positive ones first.

    Attributes:
        indices: int32 `(B, n)`, of the anchors or regions.
        kinds: int32 `(B, n)`: `garden.POSITIVE`, `NEGATIVE`, or `NEITHER` where there are not
            enough.
        objects: int32 `(B, n)`, index of the object that each is matched to.
    """

    indices: object
    kinds: object
    objects: object


def draws(name, batch, number):
    """Returns random numbers in [0, 1), `(batch, number)`; outside of a step always the same."""
    if current_step() is not None:
        return uniform(name, None, batch, (number,))
    with step_context(tf.zeros((batch, 2), tf.uint32)):
        return uniform(name, None, batch, (number,))


def match_anchors(anchors, objects, *, low=0.3, high=0.7):
    """Matches anchors to objects.

    Positive is an anchor that overlaps an object by at least `high`, and the best anchor of each
    object whatever its overlap (all of them if several are equal); negative, one that overlaps
    none by `low`. Anchors in crowds are neither.

    Args:
        anchors: `(anchors, 4)`.
        objects: `Objects`.
        low: Intersection over union.
        high: Intersection over union.

    Returns:
        `(objects, kinds)`, int32 `(B, anchors)`.

    Reference: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv:1506.01497, section 3.1.2.
    """
    overlap = garden.overlaps(anchors[None], objects.counted)
    best = tf.reduce_max(overlap, axis=1, keepdims=True)
    is_best = (overlap == best) & (best > 0)
    # Above any overlap: a best anchor is positive, and belongs to that object.
    matched, kinds = garden.match(tf.where(is_best, overlap + 2.0, overlap), low=low, high=high)
    return matched, tf.where(objects.in_crowd(anchors[None]), garden.NEITHER, kinds)


def match_regions(regions, objects, *, overlap=0.5):
    """Matches regions to objects: positive from `overlap` on, else negative, or in a crowd neither.

    Args:
        regions: `(B, n, 4)`; those without area are padding, neither positive nor negative.
        objects: `Objects`.
        overlap: Intersection over union.

    Returns:
        `(objects, kinds)`, int32 `(B, n)`.

    Reference: Girshick, "Fast R-CNN", ICCV 2015, arXiv:1504.08083, section 2.3, with all negatives
    instead of those that overlap by 0.1 at least.
    """
    similarity = garden.overlaps(regions, objects.counted)
    matched, kinds = garden.match(similarity, low=overlap, high=overlap)
    sides = regions[..., 2:] - regions[..., :2]
    left_out = objects.in_crowd(regions) | (tf.reduce_min(sides, axis=-1) <= 0)
    return matched, tf.where(left_out, garden.NEITHER, kinds)


def sample(matched, kinds, numbers, *, number, positive_share):
    """Draws what is trained on: up to a share of positives, the rest negatives.

    Args:
        matched: int32 `(B, n)`, from `match_anchors` or `match_regions`.
        kinds: Likewise.
        numbers: float32 `(B, n)`, random in [0, 1).
        number: How many to draw from each image.
        positive_share: Largest share of positives.

    Returns:
        `Samples`.
    """
    number = min(number, kinds.shape[1] or number)
    positive = kinds == garden.POSITIVE
    chances = tf.where(positive, numbers, -1.0)
    last = tf.math.top_k(chances, share_of(number, positive_share)).values[:, -1:]
    order = tf.where(kinds == garden.NEGATIVE, numbers, -1.0)
    order = tf.where(positive & (numbers >= last), numbers + 2.0, order)
    order, indices = tf.math.top_k(order, number)
    found = tf.where(order >= 2.0, garden.POSITIVE, garden.NEGATIVE)
    found = tf.where(order < 0.0, garden.NEITHER, found)
    return Samples(indices, found, tf.gather(matched, indices, batch_dims=1))


def share_of(number, share):
    """Returns a share of a number of samples, at least one."""
    return max(1, int(number * share))


def box_targets(boxes, samples, objects, weights=None):
    """Returns the offsets from sampled boxes to their objects, `(B, n, 4)`; 0 unless positive.

    Args:
        boxes: The sampled anchors or regions, `(B, n, 4)`.
        samples: Their `Samples`.
        objects: `Objects`.
        weights: As in `garden.decode`.
    """
    goals = tf.gather(objects.boxes, samples.objects, batch_dims=1)
    positive = (samples.kinds == garden.POSITIVE)[..., None]
    unit = tf.constant([0.0, 0.0, 1.0, 1.0])
    goals, boxes = tf.where(positive, goals, unit), tf.where(positive, boxes, unit)
    return tf.where(positive, garden.encode(goals, boxes, weights), 0.0)


def class_targets(samples, objects):
    """Returns the class of each sampled region, int32 `(B, n)`: 0 if negative, -1 if neither."""
    classes = tf.gather(objects.classes, samples.objects, batch_dims=1)
    return tf.where(samples.kinds == garden.POSITIVE, classes, samples.kinds)


def mask_targets(instance, boxes, ids, size):
    """Returns the masks of objects within boxes, float32 `(B, n, size, size)` of 0 and 1.

    A box is cut into `size` x `size` cells; the mask is 1 where the pixel at the centre of the cell
    belongs to the object. (The paper interpolates the full-size mask of each object, which would
    have to be made first.)

    Args:
        instance: int32 `(B, H, W)`, ids.
        boxes: `(B, n, 4)`.
        ids: int32 `(B, n)`, of the object that each box is to show; no pixel of 0 counts.
        size: Side of the mask.
    """
    limits = tf.shape(instance)[1:]
    centres = (tf.range(size, dtype=tf.float32) + 0.5) / size

    def pixels(axis):
        first, last = boxes[..., axis, None], boxes[..., axis + 2, None]
        places = tf.cast(tf.floor(first + centres * (last - first)), tf.int32)
        return tf.clip_by_value(places, 0, limits[axis] - 1)

    places = pixels(0)[..., :, None] * limits[1] + pixels(1)[..., None, :]
    flat = tf.reshape(instance, (tf.shape(instance)[0], -1))
    sampled = tf.gather(flat, places, batch_dims=1)
    wanted = ids[..., None, None]
    return tf.cast((sampled == wanted) & (wanted > 0), tf.float32)
