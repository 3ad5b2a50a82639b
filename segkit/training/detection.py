"""What Mask R-CNN is judged by while it trains: F1 of its objects, and pictures of them."""

import math

import numpy as np
import tensorflow as tf

from segkit.models.mask_rcnn import garden
from segkit.outputs import read_outputs
from segkit.training.object_overlay import object_panel

SCORE = 0.5  # from which on a detection counts
OVERLAP = 0.5  # of boxes, from which on an object is found


class Detection:
    """The objective of `fit` for networks that find objects.

    Attributes: as in `segkit.training.segmentation.Segmentation`.
    """

    metric, label = "instance_f1", "F1 of objects"
    pictures = "image_truth_proposals_detections"

    def __init__(self, manifest):
        """Reads what is told apart.

        Args:
            manifest: Manifest of the data set, see `Segmentation`.
        """
        self._names = [entry["name"] for entry in read_outputs(manifest["classes"], {}).classes]
        self._upright = manifest["preprocess"]["spacing_mm"] is None

    def count(self, labels, outputs):
        """Returns float32 `(classes, 4)`: objects found, invented and missed; and images.

        An object is found by a detection of its class whose box overlaps it by half at least, where
        each is the other's best. Detections within objects to be ignored do not count. In a
        training step, where no detections are made, all is 0, the number of images too.

        Args:
            labels: Not used: the network gives the objects back.
            outputs: All outputs of the network, see `segkit.models.mask_rcnn.builder`.
        """
        number = len(self._names)
        if "boxes" not in outputs:
            return tf.zeros((number, 4))
        classes = tf.where(outputs["scores"] >= SCORE, outputs["classes"], 0)
        objects = tf.where(outputs["object_crowd"], 0, outputs["object_classes"])
        pairs = _pairs(outputs["boxes"], classes, outputs["object_boxes"], objects)
        found = tf.reduce_any(pairs, axis=1)
        extra = ~tf.reduce_any(pairs, axis=2) & ~_in_crowd(outputs)
        images = tf.ones_like(objects[:, :1])
        columns = [
            _per_class(objects, found, number),
            _per_class(classes, extra, number),
            _per_class(objects, ~found, number),
            tf.fill((number,), tf.cast(tf.reduce_sum(images), tf.float32)),
        ]
        return tf.stack(columns, axis=-1)

    def score(self, counts):
        """Returns the mean over the classes that occurred, 0 when none did; NaN of no images."""
        if not np.asarray(counts)[:, 3].any():
            return math.nan
        found = [value for value in self.by_name(counts).values() if not math.isnan(value)]
        return float(np.mean(found)) if found else 0.0

    def by_name(self, counts):
        """Returns a dict name -> F1; NaN for a class that did not occur; empty of no images."""
        if not np.asarray(counts)[:, 3].any():
            return {}
        hits, extra, missed, _ = np.asarray(counts, np.float64).T
        total = 2 * hits + extra + missed
        ratios = np.divide(2 * hits, total, out=np.full_like(total, np.nan), where=total > 0)
        return dict(zip(self._names[1:], ratios[1:].tolist(), strict=True))

    def panels(self, inputs, labels, outputs):
        """Returns a picture, uint8 `(height, 4 * width, 3)`, of each example."""
        names = ("proposals", "object_boxes", "boxes", "masks", "scores")
        tensors = [inputs["image"], inputs["instance"], *(outputs[name] for name in names)]
        examples = zip(*(tensor.numpy() for tensor in tensors), strict=True)
        return [object_panel(*one, threshold=SCORE, upright=self._upright) for one in examples]


def join(images, labels):
    """Returns a batch as the network takes it: its maps beside the images, and the maps again.

    Args:
        images: `(B, H, W, channels)`.
        labels: Dict of `label` and `instance`, int32 `(B, H, W)`.
    """
    return {"image": images, **labels}, labels


def _pairs(boxes, classes, object_boxes, object_classes):
    """Which detection finds which object, bool `(B, D, N)`."""
    overlap = garden.overlaps(boxes, object_boxes)
    same = (classes[:, :, None] == object_classes[:, None]) & (classes[:, :, None] > 0)
    overlap = tf.where(same, overlap, 0.0)
    best = tf.reduce_max(overlap, 1, keepdims=True), tf.reduce_max(overlap, 2, keepdims=True)
    return (overlap >= OVERLAP) & (overlap == best[0]) & (overlap == best[1])


def _in_crowd(outputs):
    """Which detections lie in an object to be ignored by more than half, bool `(B, D)`."""
    crowds = tf.where(outputs["object_crowd"][..., None], outputs["object_boxes"], -1.0)
    return tf.reduce_any(garden.covered(outputs["boxes"], crowds) > 0.5, axis=-1)


def _per_class(classes, chosen, number):
    hits = tf.one_hot(tf.where(chosen, classes, 0), number)
    return tf.reduce_sum(hits, axis=(0, 1)) * tf.cast(tf.range(number) > 0, tf.float32)
