"""The objective of Mask R-CNN, on detections made by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from segkit.training.detection import Detection
from segkit.training.detection import join
from segkit.training.object_overlay import object_panel
from segkit.training.object_overlay import pasted
from segkit.training.overlay import PALETTE

CLASSES = [{"name": name} for name in ("background", "round", "long", "ignore")]
MANIFEST = {"classes": CLASSES, "preprocess": {"spacing_mm": None}}


@pytest.fixture
def objective():
    return Detection(MANIFEST)


def outputs(detections, objects):
    """Outputs of one image: detections `(box, class, score)`, objects `(box, class)`."""
    boxes, classes, scores = zip(*detections, ((0, 0, 0, 0), 0, 0.0), strict=True)
    object_boxes, object_classes = zip(*objects, ((-1, -1, -1, -1), 0), strict=True)
    classes, object_classes = (tf.constant([c], tf.int32) for c in (classes, object_classes))
    return {
        "boxes": tf.constant([boxes], tf.float32),
        "classes": classes,
        "scores": tf.constant([scores]),
        "object_boxes": tf.constant([object_boxes], tf.float32),
        "object_classes": object_classes,
        "object_crowd": object_classes == 3,
    }


def test_objects_are_counted_by_class(objective):
    found = outputs(
        [
            ((0, 0, 10, 10), 1, 0.9),  # finds the first
            ((0, 0, 10, 9), 1, 0.8),  # a second one of the same object
            ((20, 20, 30, 30), 1, 0.7),  # of another class
            ((40, 40, 50, 44), 2, 0.6),  # overlaps by 40 / 100
            ((60, 60, 70, 70), 2, 0.4),  # too unsure
            ((81, 81, 85, 85), 2, 0.9),  # in an object to be ignored
        ],
        [
            ((0, 0, 10, 10), 1),
            ((20, 20, 30, 30), 2),
            ((40, 40, 50, 50), 2),
            ((60, 60, 70, 70), 2),
            ((80, 80, 90, 90), 3),
        ],
    )
    counts = objective.count(None, found)
    np.testing.assert_array_equal(counts, [[0, 0, 0, 1], [1, 2, 0, 1], [0, 1, 3, 1]])
    assert objective.by_name(counts) == {"round": 0.5, "long": 0.0}
    assert objective.score(counts) == 0.25
    for jit in (False, True):
        again = tf.function(objective.count, jit_compile=jit)(None, found)
        np.testing.assert_array_equal(again, counts)


def test_scores_without_objects(objective):
    nothing = objective.count(None, outputs([], []))
    assert objective.score(nothing) == 0.0
    assert all(map(math.isnan, objective.by_name(nothing).values()))
    invented = objective.count(None, outputs([((0, 0, 4, 4), 1, 0.9)], []))
    assert objective.score(invented) == 0.0
    in_training = objective.count(None, {"proposals": tf.zeros((1, 4, 4))})
    assert math.isnan(objective.score(in_training.numpy()))


def test_masks_are_pasted_into_their_boxes():
    # A mask of 2 x 2 on rows 2 to 6 and columns 1 to 3: cells of 2 x 1 pixels.
    boxes = np.array([(2, 1, 6, 3), (3, 2, 20, 9)])
    masks = np.array([[[0.9, 0.1], [0.2, 0.6]], np.ones((2, 2))])
    expected = np.zeros((8, 8), int)
    expected[3:, 2:] = 2
    expected[2:4, 1] = expected[4:6, 2] = 1
    np.testing.assert_array_equal(pasted(boxes, masks, (8, 8)), expected)


def test_a_panel_shows_objects_proposals_and_detections():
    image = np.zeros((8, 8, 1), np.float32)
    instance = np.zeros((8, 8), np.int32)
    instance[2:6, 2:6] = 1
    box, none = (2, 2, 6, 6), (-1, -1, -1, -1)
    boxes, masks = np.array([box, (0, 0, 3, 3)]), np.ones((2, 4, 4))
    scores = np.array([0.9, 0.2])
    proposals = np.array([(0, 0, 2, 8), (0, 0, 0, 0)])
    args = (image, instance, proposals, np.array([box, none]), boxes, masks, scores)
    picture = object_panel(*args, upright=True)
    assert picture.shape == (8, 32, 3)
    coloured = (picture > 0).any(axis=-1)
    np.testing.assert_array_equal(coloured[:, 8:16], instance)
    np.testing.assert_array_equal(coloured[:, 24:], instance)
    np.testing.assert_array_equal(coloured[:2, 16:24], np.ones((2, 8)))
    np.testing.assert_array_equal(picture[2, 10], PALETTE[0])  # the line of the box
    np.testing.assert_array_equal(object_panel(*args)[::-1], picture)


def test_a_batch_holds_the_maps_on_both_sides():
    maps = {"label": tf.zeros((1, 4, 4)), "instance": tf.ones((1, 4, 4))}
    inputs, labels = join(tf.zeros((1, 4, 4, 2)), maps)
    assert set(inputs) == {"image", "label", "instance"}
    assert labels is maps
