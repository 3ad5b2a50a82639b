"""Features of regions, proposals and detections: Model Garden's, by hand, and slow versions."""

import numpy as np
import pytest
import tensorflow as tf

from segkit.models.mask_rcnn import garden
from segkit.models.mask_rcnn.detections import propose
from segkit.models.mask_rcnn.detections import select
from segkit.models.mask_rcnn.regions import box_levels
from segkit.models.mask_rcnn.regions import roi_align


def ramps():
    """Levels of stride 4 and 8 whose two channels are the row and the column of a cell's centre."""
    found = []
    for side, stride in ((16, 4), (8, 8)):
        centres = (np.arange(side) + 0.5) * stride
        found.append(np.stack(np.meshgrid(centres, centres, indexing="ij"), -1)[None])
    return [tf.constant(level, tf.float32) for level in found]


def test_features_of_a_region_are_those_at_the_centres_of_its_cells():
    # The first box has 14 rows of stride 2, so it is the finest level's; the second 14 of stride 4.
    boxes = tf.constant([[(8, 10, 36, 38), (5, 5, 61, 61)]], tf.float32)
    cut = roi_align(ramps(), boxes, levels=[2, 3], size=4)
    for box, found in zip(boxes[0].numpy(), cut[0], strict=True):
        steps = (np.arange(4) + 0.5) / 4
        rows, columns = (box[axis] + steps * (box[axis + 2] - box[axis]) for axis in (0, 1))
        expected = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_regions_beyond_the_border_take_the_nearest_feature():
    boxes = tf.constant([[(-8, -8, 4, 4)]], tf.float32)
    cut = roi_align(ramps(), boxes, levels=[2, 3], size=2)
    np.testing.assert_allclose(cut[0, 0, :, 0, 0], [2, 2])  # the centre of the first cell


def test_levels_follow_the_area():
    # Equation 1 of the paper: a side of 224 is on level 4, of 56 on level 2, of 112 on level 3.
    sides = [(0, 0, s, s) for s in (1, 55, 57, 113, 223, 225, 4000)]
    levels = box_levels(tf.constant([sides], tf.float32), [2, 3, 4])
    np.testing.assert_array_equal(levels, [[2, 2, 2, 3, 3, 4, 4]])
    flat = tf.constant([[(0, 0, 28, 112 * 2.01)]], tf.float32)  # 79 squared
    np.testing.assert_array_equal(box_levels(flat, [2, 3, 4]), [[2]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_roi_align_is_model_gardens_half_a_cell_further(dtype):
    rng = np.random.default_rng(0)
    levels = [tf.constant(rng.normal(size=(2, n, n, 3)), tf.float32) for n in (32, 16)]
    corners = rng.uniform(10, 70, (2, 5, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 50, (2, 5, 2))], -1)
    boxes = tf.constant(boxes, tf.float32)
    stride = tf.pow(2.0, tf.cast(box_levels(boxes, [2, 3]), tf.float32))[..., None]
    theirs = garden.require().spatial.multilevel_crop_and_resize(
        {"2": levels[0], "3": levels[1]}, boxes - 0.5 * stride, output_size=7
    )
    ours = roi_align([tf.cast(x, dtype) for x in levels], boxes, levels=[2, 3], size=7)
    assert ours.dtype == dtype
    np.testing.assert_allclose(
        tf.cast(ours, tf.float32), theirs, atol=1e-5 if dtype == "float32" else 0.05
    )


def overlap(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = sides.clip(0).prod()
    return shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def thinned(boxes, scores, limit):
    """Indices that non-maximum suppression keeps, one by one."""
    kept = []
    for index in np.argsort(-scores):
        if all(overlap(boxes[index], boxes[k]) < limit for k in kept):
            kept.append(index)
    return kept


def random_boxes(number, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (number, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 24, (number, 2))], -1)
    return boxes.astype(np.float32), rng.permutation(number) / number


def test_suppression_is_that_of_a_slow_version():
    for seed in range(3):
        boxes, scores = random_boxes(40, seed)
        order = np.argsort(-scores)
        found, values = garden.suppress(
            tf.constant(boxes[order])[None],
            tf.constant(scores[order], tf.float32)[None],
            number=40,
            overlap=0.5,
        )
        kept = thinned(boxes, scores, 0.5)
        assert 5 < len(kept) < 40
        np.testing.assert_allclose(found[0, : len(kept)], boxes[kept])
        np.testing.assert_allclose(values[0, : len(kept)], scores[kept], rtol=1e-6)
        assert not np.any(found[0, len(kept) :])


def test_proposals_are_decoded_clipped_and_thinned_out():
    # The second anchor lies on the first; the third is moved by half its side and sticks out; the
    # fourth lies off the image; the fifth is not among the best.
    anchors = [(0, 0, 8, 8), (0, 0, 8, 9), (8, 8, 16, 16), (30, 30, 40, 40), (0, 20, 8, 28)]
    offsets = np.zeros((1, 5, 4), np.float32)
    offsets[0, 2, :2] = 0.5
    logits = tf.constant([[3.0, 2.0, 1.0, 0.5, -1.0]])
    found = propose(
        logits,
        tf.constant(offsets),
        tf.constant(anchors, tf.float32),
        shape=(16, 18),
        candidates=4,
        number=3,
        overlap=0.7,
    )
    np.testing.assert_allclose(found, [[(0, 0, 8, 8), (12, 12, 16, 18), (0, 0, 0, 0)]])


def test_few_anchors_give_few_proposals_with_unknown_sides():
    def proposed(logits, offsets):
        anchors = tf.constant([(0, 0, 8, 8), (8, 8, 16, 16)], tf.float32)
        shape = (tf.constant(16), tf.constant(18))
        options = {"candidates": 20, "number": 10, "overlap": 0.7}
        return propose(logits, offsets, anchors, shape=shape, **options)

    spec = [tf.TensorSpec((None, None)), tf.TensorSpec((None, None, 4))]
    logits, offsets = tf.constant([[-200.0, -100.0]]), tf.zeros((1, 2, 4))
    expected = [(8, 8, 16, 16), (0, 0, 8, 8), *[(0, 0, 0, 0)] * 8]
    ways = (proposed, tf.function(proposed, spec), tf.function(proposed, jit_compile=True))
    for function in ways:
        np.testing.assert_allclose(function(logits, offsets), [expected])


def test_detections_are_chosen_per_class():
    boxes = tf.constant([[(0, 0, 8, 8), (0, 0, 8, 9), (20, 20, 28, 28.5), (0, 0, 0, 0)]])
    chances = tf.constant(
        [[[0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.0, 0.1, 0.9], [0.0, 0.5, 0.5]]], tf.float32
    )
    options = {"number": 4, "candidates": 6, "overlap": 0.5}
    found, scores, classes = select(chances, boxes, threshold=0.2, **options)
    # Of the first two boxes the better one of each class; the first is the better of 0.3 twice.
    expected = [(20, 20, 28, 28.5), (0, 0, 8, 8), (0, 0, 8, 8), (0, 0, 0, 0)]
    np.testing.assert_allclose(found, [expected], atol=1e-5)
    np.testing.assert_allclose(scores, [[0.9, 0.6, 0.3, 0]])
    np.testing.assert_array_equal(classes, [[2, 1, 2, 0]])
    _, scores, _ = select(chances, boxes, threshold=0.5, **options)
    np.testing.assert_allclose(scores, [[0.9, 0.6, 0, 0]])


def test_detections_are_those_of_suppression_class_by_class():
    boxes, _ = random_boxes(30)
    chances = np.random.default_rng(1).dirichlet(np.ones(4), 30).astype(np.float32)
    found, scores, classes = select(
        tf.constant(chances)[None],
        tf.constant(boxes)[None],
        number=80,
        candidates=90,
        threshold=0.05,
        overlap=0.5,
    )
    expected = []
    for index in range(1, 4):
        above = np.flatnonzero(chances[:, index] >= 0.05)
        kept = above[thinned(boxes[above], chances[above, index], 0.5)]
        expected += [(chances[k, index], index, *boxes[k]) for k in kept]
    expected = np.array(sorted(expected, reverse=True))
    count = len(expected)
    np.testing.assert_allclose(scores[0, :count], expected[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(classes[0, :count], expected[:, 1])
    np.testing.assert_allclose(found[0, :count], expected[:, 2:], atol=1e-4)
    assert not np.any(scores[0, count:])
