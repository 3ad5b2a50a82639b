"""The whole network: what is computed of an image, with its objects or without."""

from types import SimpleNamespace

import keras
import tensorflow as tf

from segkit.errors import ShapeError
from segkit.layers.dtype_policy import dtype_policy
from segkit.models.mask_rcnn import garden
from segkit.models.mask_rcnn.anchors import level_sides
from segkit.models.mask_rcnn.anchors import make_anchors
from segkit.models.mask_rcnn.backbones import LAST_LEVEL
from segkit.models.mask_rcnn.detections import propose
from segkit.models.mask_rcnn.detections import select
from segkit.models.mask_rcnn.heads import box_head
from segkit.models.mask_rcnn.heads import mask_head
from segkit.models.mask_rcnn.objects import find_objects
from segkit.models.mask_rcnn.pyramid import proposal_network
from segkit.models.mask_rcnn.pyramid import pyramid_network
from segkit.models.mask_rcnn.regions import roi_align
from segkit.models.mask_rcnn.targets import Samples
from segkit.models.mask_rcnn.targets import box_targets
from segkit.models.mask_rcnn.targets import class_targets
from segkit.models.mask_rcnn.targets import draws
from segkit.models.mask_rcnn.targets import mask_targets
from segkit.models.mask_rcnn.targets import match_anchors
from segkit.models.mask_rcnn.targets import match_regions
from segkit.models.mask_rcnn.targets import sample
from segkit.models.mask_rcnn.targets import share_of

MULTIPLE = 32
BOX_SIZE = 7  # cells of a region's features along a side, for boxes; twice as many for masks
CASCADE = 3
# Factors on the offsets of each stage, which expects smaller ones than the stage before.
OFFSET_WEIGHTS = tuple([10.0 * n, 10.0 * n, 5.0 * n, 5.0 * n] for n in range(1, CASCADE + 1))
STAGE_OVERLAPS = (0.5, 0.6, 0.7)


@keras.saving.register_keras_serializable(package="segkit")
class MaskRCNN(keras.Model):
    """Mask R-CNN as `segkit.models.mask_rcnn.builder.mask_rcnn` describes and builds it.

    Args:
        num_classes: Number of classes, background included.
        channels: Channels of the image.
        options: Dict of all options of the builder.
    """

    def __init__(self, num_classes, channels, options, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.channels = channels
        self.options = dict(options)
        o = self._o = SimpleNamespace(**options)
        self._levels = list(range(o.levels[0], o.levels[1] + 1))
        stages = CASCADE if o.cascade else 1
        with dtype_policy(self.dtype_policy):
            self.pyramid = pyramid_network(
                o.backbone,
                channels,
                levels=self._levels,
                filters=o.pyramid_filters,
                normalization=o.normalization,
                backbone_filters=o.filters,
            )
            self.proposal = proposal_network(o.pyramid_filters, len(o.anchor_aspects))
            self.box_heads = [
                box_head(num_classes, o.pyramid_filters, size=BOX_SIZE, units=o.units, name=name)
                for name in [f"box_head{stage}" for stage in range(1, stages + 1)]
            ]
            self.mask_head = mask_head(
                1 if o.class_agnostic_masks else num_classes - 1,
                o.pyramid_filters,
                size=2 * BOX_SIZE,
                convs=o.mask_convs,
                normalization=o.normalization,
            )
        self.built = True

    def get_config(self):
        """Returns the constructor's arguments."""
        own = {"num_classes": self.num_classes, "channels": self.channels, "options": self.options}
        return {**super().get_config(), **own}

    def call(self, inputs, training=False):
        """Returns a dict of tensors, see `mask_rcnn`.

        Raises:
            ShapeError: With objects, if the sides of the image are not multiples of 32.
        """
        inputs = inputs if isinstance(inputs, dict) else {"image": inputs}
        image, targets = inputs["image"], "instance" in inputs
        if targets:
            _check_sides(image.shape[1:3])
        height, width = _sides(image)
        if not targets:
            image = tf.pad(image, ((0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)))
        features = self.pyramid(image, training=training)
        logits, offsets, anchors = self._anchors_of(features)
        proposals = propose(
            tf.stop_gradient(logits),
            tf.stop_gradient(offsets),
            anchors,
            shape=(height, width),
            candidates=self._o.candidates,
            number=self._o.proposals,
            overlap=self._o.proposal_overlap,
        )
        regional = features[: max(1, LAST_LEVEL - self._levels[0] + 1)]
        outputs = {"proposals": proposals}
        if targets:
            objects = find_objects(
                inputs["label"], inputs["instance"], self.num_classes, self._o.max_objects
            )
            outputs |= {f"object_{name}": value for name, value in objects._asdict().items()}
            outputs |= self._first_stage(logits, offsets, anchors, objects)
            outputs |= self._last_stages(regional, proposals, objects, inputs["instance"])
        if not (targets and training):
            outputs |= self._detected(regional, proposals, (height, width))
        return outputs

    def _anchors_of(self, features):
        """Scores and offsets of all anchors, and the anchors."""
        shapes = [_sides(level) for level in features]
        found = [self.proposal(level) for level in features]
        batch = tf.shape(features[0])[0]
        logits = tf.concat([tf.reshape(x, (batch, -1)) for x, _ in found], axis=1)
        offsets = tf.concat([tf.reshape(x, (batch, -1, 4)) for _, x in found], axis=1)
        sides = level_sides(self._o.anchor_sides, self._levels)
        return logits, offsets, make_anchors(shapes, sides, self._o.anchor_aspects, self._levels)

    def _first_stage(self, logits, offsets, anchors, objects):
        """What the loss needs of the anchors that are trained on."""
        matched, kinds = match_anchors(anchors, objects)
        numbers = draws("anchors", *_shape(kinds))
        number = self._o.anchor_samples
        samples = sample(matched, kinds, numbers, number=number, positive_share=0.5)
        chosen = tf.gather(anchors, samples.indices)
        return {
            "anchor_logits": tf.gather(logits, samples.indices, batch_dims=1),
            "anchor_kinds": samples.kinds,
            "anchor_offsets": tf.gather(offsets, samples.indices, batch_dims=1),
            "anchor_targets": box_targets(chosen, samples, objects),
        }

    def _last_stages(self, features, proposals, objects, instance):
        """What the loss needs of the regions that are trained on."""
        regions = tf.concat([proposals, objects.boxes], axis=1)
        matched, kinds = match_regions(regions, objects)
        numbers = draws("regions", *_shape(kinds))
        number, share = self._o.region_samples, self._o.positive_share
        samples = sample(matched, kinds, numbers, number=number, positive_share=share)
        boxes = tf.gather(regions, samples.indices, batch_dims=1)
        masked = self._masks_of(features, boxes, samples, objects, instance)
        found = []
        for stage, head in enumerate(self.box_heads):
            if stage:
                matched, kinds = match_regions(boxes, objects, overlap=STAGE_OVERLAPS[stage])
                kinds = tf.where(samples.kinds == garden.NEITHER, garden.NEITHER, kinds)
                samples = Samples(samples.indices, kinds, matched)
            logits, offsets = self._looked_at(head, features, boxes)
            weights = OFFSET_WEIGHTS[stage]
            targets = box_targets(boxes, samples, objects, weights)
            found.append((logits, class_targets(samples, objects), offsets, targets))
            moved = garden.decode(tf.stop_gradient(offsets), boxes, weights)
            boxes = garden.clip(moved, *_sides(instance))
        names = ("class_logits", "class_targets", "box_offsets", "box_targets")
        stacked = (tf.stack(tensors, axis=1) for tensors in zip(*found, strict=True))
        return {**dict(zip(names, stacked, strict=True)), **masked}

    def _masks_of(self, features, boxes, samples, objects, instance):
        """Masks of the positive regions, which come first, and what they should be."""
        number = share_of(boxes.shape[1], self._o.positive_share)
        positive = samples.kinds[:, :number] == garden.POSITIVE
        matched, boxes = samples.objects[:, :number], boxes[:, :number]
        ids = tf.gather(objects.ids, matched, batch_dims=1)
        classes = tf.gather(objects.classes, matched, batch_dims=1)
        logits = self._drawn(features, boxes, tf.where(positive, classes, 0))
        goals = mask_targets(instance, boxes, tf.where(positive, ids, 0), 4 * BOX_SIZE)
        return {
            "mask_logits": logits,
            "mask_targets": goals,
            "mask_kinds": samples.kinds[:, :number],
        }

    def _detected(self, features, proposals, shape):
        """Objects that are found."""
        boxes, probabilities = proposals, 0.0
        for head, weights in zip(self.box_heads, OFFSET_WEIGHTS, strict=False):
            logits, offsets = self._looked_at(head, features, boxes)
            probabilities += tf.nn.softmax(logits) / len(self.box_heads)
            boxes = garden.clip(garden.decode(offsets, boxes, weights), *shape)
        boxes, scores, classes = select(
            probabilities,
            boxes,
            number=self._o.detections,
            candidates=self._o.candidates,
            threshold=self._o.score_threshold,
            overlap=self._o.detection_overlap,
        )
        masks = tf.sigmoid(self._drawn(features, boxes, classes))
        masks = tf.where(scores[..., None, None] > 0.0, masks, 0.0)
        return {"boxes": boxes, "scores": scores, "classes": classes, "masks": masks}

    def _looked_at(self, head, features, boxes):
        cut = roi_align(features, boxes, levels=self._levels[: len(features)], size=BOX_SIZE)
        batch, number = _shape(boxes)
        logits, offsets = head(tf.reshape(cut, (-1, BOX_SIZE, BOX_SIZE, cut.shape[-1])))
        logits = tf.reshape(logits, (batch, number, self.num_classes))
        return logits, tf.reshape(offsets, (batch, number, 4))

    def _drawn(self, features, boxes, classes):
        """Mask logits of boxes, `(B, n, side, side)`, of one class each."""
        size = 2 * BOX_SIZE
        cut = roi_align(features, boxes, levels=self._levels[: len(features)], size=size)
        logits = self.mask_head(tf.reshape(cut, (-1, size, size, cut.shape[-1])))
        masks = logits.shape[-1]
        logits = tf.reshape(logits, (*_shape(boxes), 2 * size, 2 * size, masks))
        which = tf.one_hot(tf.maximum(classes - 1, 0) if masks > 1 else classes * 0, masks)
        return tf.reduce_sum(logits * which[:, :, None, None], axis=-1)


def _shape(tensor):
    """Batch size and next side, numbers where they are known."""
    known = tensor.shape[:2]
    return tuple(tf.shape(tensor)[n] if side is None else side for n, side in enumerate(known))


def _sides(tensor):
    """Height and width, numbers where they are known."""
    known = enumerate(tensor.shape[1:3], start=1)
    return tuple(tf.shape(tensor)[axis] if side is None else side for axis, side in known)


def _check_sides(sides):
    for side in sides:
        if side is not None and side % MULTIPLE:
            below = side // MULTIPLE * MULTIPLE
            raise ShapeError(
                f"mask_rcnn trains on images whose sides are multiples of {MULTIPLE}, got "
                f"{tuple(sides)}. Nearest to {side}: {below or MULTIPLE} or {below + MULTIPLE}."
            )
