"""The objects of an image as boxes, from its maps of classes and ids."""

from typing import NamedTuple

import tensorflow as tf

from segkit.models.mask_rcnn import garden

IDS = 2**16  # ids are uint16


class Objects(NamedTuple):
    """Objects of a batch, `n` places for each image, the largest object first.

    Attributes:
        boxes: float32 `(B, n, 4)`: `(y0, x0, y1, x1)` in pixels, half-open; -1 where there is none.
        classes: int32 `(B, n)`; 0 where there is none.
        ids: int32 `(B, n)`; 0 where there is none.
        crowd: bool `(B, n)`: the object is of the class to be ignored.
    """

    boxes: object
    classes: object
    ids: object
    crowd: object

    @property
    def counted(self):
        """Boxes of the objects to be found, -1 elsewhere."""
        return tf.where(self.crowd[..., None], -1.0, self.boxes)

    def in_crowd(self, boxes):
        """Returns whether more than half of a box lies in one object to be ignored, `(B, n)`.

        Args:
            boxes: `(B, n, 4)`; 1 in place of B stands for all images.
        """
        batch, number = tf.shape(self.boxes)[0], tf.shape(boxes)[1]

        def compare():
            crowds = tf.where(self.crowd[..., None], self.boxes, -1.0)
            return tf.reduce_any(garden.covered(boxes, crowds) > 0.5, axis=-1)

        def none():
            return tf.zeros((batch, number), tf.bool)

        # Most batches have none, and anchors are many.
        return tf.cond(tf.reduce_any(self.crowd), compare, none)


def find_objects(label, instance, num_classes, max_objects):
    """Returns the `Objects` of a batch.

    An object is the pixels of one id. Its class is the label where it lies (the highest, if they
    should differ); an object of the background is none. Of more than `max_objects` in an image the
    largest are kept.

    Args:
        label: int32 `(B, H, W)`, class indices; those of `num_classes` and above are ignored.
        instance: int32 `(B, H, W)`, ids in [0, 65535]; 0 is no object.
        num_classes: Number of classes, background included.
        max_objects: Places for objects in an image.
    """
    batch, height, width = tf.unstack(tf.shape(instance))
    ids = tf.reshape(instance + IDS * tf.range(batch)[:, None, None], (-1,))
    y, x = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
    # The smallest of -y - 1 is minus the end of the box, so that one reduction finds all four.
    corners = tf.broadcast_to(tf.stack([y, x, -y - 1, -x - 1], -1), (batch, height, width, 4))
    corners = tf.math.unsorted_segment_min(tf.reshape(corners, (-1, 4)), ids, batch * IDS)
    classes = tf.math.unsorted_segment_max(tf.reshape(label, (-1,)), ids, batch * IDS)
    areas = tf.math.unsorted_segment_sum(tf.ones_like(ids), ids, batch * IDS)
    classes, areas = (tf.reshape(values, (batch, IDS)) for values in (classes, areas))
    real = (classes > 0) & (tf.range(IDS) > 0) & (areas > 0)
    areas, ids = tf.math.top_k(tf.where(real, areas, 0), max_objects)
    found = areas > 0
    corners = tf.gather(tf.reshape(corners, (batch, IDS, 4)), ids, batch_dims=1)
    boxes = tf.cast(tf.concat([corners[..., :2], -corners[..., 2:]], -1), tf.float32)
    classes = tf.where(found, tf.gather(classes, ids, batch_dims=1), 0)
    return Objects(
        tf.where(found[..., None], boxes, -1.0),
        classes,
        tf.where(found, ids, 0),
        classes >= num_classes,
    )
