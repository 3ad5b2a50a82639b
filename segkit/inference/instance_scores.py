"""Scores of the objects found in one case: what the scores of many cases are made of."""

from typing import NamedTuple

import numpy as np

from segkit.errors import ShapeError
from segkit.inference.coco_json import coco_annotations
from segkit.inference.detections import Detections
from segkit.inference.detections import InstanceMap
from segkit.inference.detections import bounds
from segkit.inference.detections import paint
from segkit.inference.detections import separate
from segkit.inference.detections import without_vanished
from segkit.metrics.instances.aggregated_jaccard import aggregated_jaccard
from segkit.metrics.instances.aggregated_jaccard import aji_parts
from segkit.metrics.instances.froc import froc_hits
from segkit.metrics.instances.matching import count_matches
from segkit.metrics.instances.matching import dsb_score
from segkit.metrics.instances.matching import hit_shares
from segkit.metrics.instances.overlaps import map_overlaps
from segkit.metrics.instances.overlaps import mask_overlaps
from segkit.metrics.instances.panoptic import panoptic_parts
from segkit.metrics.instances.panoptic import panoptic_quality


class ClassScores(NamedTuple):
    """What was counted of one class in one case.

    Attributes:
        matches: int64, shape `(10, 3)`, see `matching.count_matches`.
        panoptic: float64, shape `(4,)`, see `panoptic.panoptic_parts`.
        aji: `(intersection, union)`, see `aggregated_jaccard.aji_parts`.
        froc: `(scores, hits)`, see `froc.froc_hits`.
        truths: True objects, without ignored ones.
        predictions: Objects predicted, without those that mostly lie on ignored ones.
    """

    matches: np.ndarray
    panoptic: np.ndarray
    aji: tuple
    froc: tuple
    truths: int
    predictions: int


class CaseScores(NamedTuple):
    """What was counted in one case.

    Attributes:
        case: Id of the case.
        group: What kind of case it is, such as `"stained"`; `None` without groups.
        classes: `ClassScores` per foreground class.
        truth: COCO annotations of the true objects, of an image number 0.
        found: COCO annotations of the detections, the same.
        boxes: Whether boxes can be scored: in images, not in volumes.
    """

    case: str
    group: str | None
    classes: list
    truth: list
    found: list
    boxes: bool


def score_case(case, truth, found, num_classes, *, group=None, min_score=None, froc_iou=0.5):
    """Counts what is found in a case.

    Average precision and FROC take all detections with their scores, as masks that may overlap.
    The other scores take decisions: detections with at least `min_score`, painted into one map.

    Args:
        case: Id of the case.
        truth: `Truth`.
        found: `Detections`, or an `InstanceMap` of an image or a volume.
        num_classes: Number of classes, background included.
        group: Kind of the case, for scores of each kind.
        min_score: Lowest score of an object that is said to be there; `None` for 0.5 of
            `Detections`, and for all objects of an `InstanceMap`, which is a decision already.
        froc_iou: Threshold on IoU above which FROC takes an object as found.

    Returns:
        `CaseScores`.

    Raises:
        ShapeError: If truth and prediction are not of one image.
        ConfigError: If pycocotools is not installed.
    """
    shape = found.shape if isinstance(found, Detections) else found.labels.shape
    if tuple(shape) != truth.labels.shape:
        raise ShapeError(
            f"{case}: the objects found are of an image of shape {tuple(shape)}, the true ones of "
            f"{truth.labels.shape}. Bring them onto one grid."
        )
    flat = len(shape) == 2
    truth, found = _as_image(truth), _as_image(found)
    candidates = separate(found) if isinstance(found, InstanceMap) else found
    decided = decide(found, min_score)
    places = bounds(candidates.boxes, candidates.shape)
    of_maps = map_overlaps(truth.labels, decided.labels, truth.ignored, len(decided.scores))
    of_masks = mask_overlaps(truth.labels, places[:, :2], candidates.masks, truth.ignored)
    classes = []
    for index in range(1, num_classes):
        true = (truth.classes == index) & ~truth.ignored
        one = of_maps.select(true, decided.classes == index)
        several = of_masks.select(true, candidates.classes == index)
        scores = candidates.scores[candidates.classes == index]
        classes.append(_count(one, froc_hits(several, scores, froc_iou)))
    annotations = _true_annotations(truth, num_classes), coco_annotations(candidates, 0)
    return CaseScores(case, group, classes, *annotations, flat)


def class_values(counted):
    """Returns the scores of one class in one case, by name; NaN where undefined."""
    pq, sq, dq = panoptic_quality(counted.panoptic)
    return {
        "dsb2018": float(dsb_score(counted.matches)),
        "dsb2018_50": float(hit_shares(counted.matches)[0]),
        "pq": float(pq),
        "sq": float(sq),
        "dq": float(dq),
        "aji": float(aggregated_jaccard(counted.aji)),
        "true_objects": counted.truths,
        "predicted_objects": counted.predictions,
        "hits": int(counted.matches[0, 0]),
        "extra": int(counted.matches[0, 1]),
        "missed": int(counted.matches[0, 2]),
    }


def decide(found, min_score=None):
    """Returns the objects that are said to be there, as an `InstanceMap`.

    Args:
        found: As for `score_case`.
        min_score: As for `score_case`.
    """
    if isinstance(found, Detections):
        return paint(found, min_score=0.5 if min_score is None else min_score)
    kept = found.scores >= (0 if min_score is None else min_score)
    number = np.append(0, np.cumsum(kept) * kept).astype(np.int32)
    return InstanceMap(number[found.labels], found.scores[kept], found.classes[kept])


def _count(overlaps, hits):
    counted = overlaps.predicted[~overlaps.on_void]
    return ClassScores(
        count_matches(overlaps),
        panoptic_parts(overlaps),
        aji_parts(overlaps),
        hits,
        overlaps.truths,
        len(counted),
    )


def _as_image(objects):
    """Lays the slices of a volume under each other; no score but those of boxes minds."""
    if isinstance(objects, Detections):
        return objects
    objects = without_vanished(objects)
    return objects._replace(labels=objects.labels.reshape(-1, objects.labels.shape[-1]))


def _true_annotations(truth, num_classes):
    """Annotations of the truth; an ignored object is a crowd of every class."""
    none = np.ones(len(truth.classes), np.float32)
    entries = []
    for entry, ignored in zip(
        coco_annotations(InstanceMap(truth.labels, none, truth.classes), 0),
        truth.ignored,
        strict=True,
    ):
        del entry["score"]
        kinds = range(1, num_classes) if ignored else [entry["category_id"]]
        entries += [entry | {"category_id": n, "iscrowd": int(ignored)} for n in kinds]
    return entries
