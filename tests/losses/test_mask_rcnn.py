"""Each term of Mask R-CNN's loss, worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.losses import build_loss
from segkit.losses.mask_rcnn import anchor_terms
from segkit.losses.mask_rcnn import mask_term
from segkit.losses.mask_rcnn import region_terms
from segkit.losses.mask_rcnn import smooth_l1

LN2 = math.log(2)


def anchors():
    """Two examples of three anchors; the second has nothing positive."""
    return {
        "anchor_kinds": tf.constant([[1, 0, -1], [0, -1, -1]]),
        # Entropies: log 2; log(1 + 3) = 2 log 2; not counted. Then log(1 + 1/3).
        "anchor_logits": tf.constant([[0.0, math.log(3), 9.0], [-math.log(3), 9.0, 9.0]]),
        # Beyond 1/9 the distance is linear: 1 - 1/18, and 4 off by 1/18: 4 * 9 / 2 / 18**2.
        "anchor_offsets": tf.constant([[[1.0, 0, 0, 0], [5.0] * 4, [5.0] * 4], [[5.0] * 4] * 3]),
        "anchor_targets": tf.zeros((2, 3, 4)),
    }


def regions(stages=1):
    """One example: a region of class 2, one of the background, one that is not counted."""
    logits = tf.constant([[0.0, 0.0, math.log(2)], [0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    offsets = tf.constant([[2.0, 0.5, 0.0, 0.0], [7.0] * 4, [7.0] * 4])
    return {
        "class_logits": tf.stack([logits] * stages)[None],
        "class_targets": tf.constant([[[2, 0, -1]] * stages]),
        "box_offsets": tf.stack([offsets] * stages)[None],
        "box_targets": tf.zeros((1, stages, 3, 4)),
    }


def masks():
    """Two examples of two masks of 1 x 2; only the first mask of the first counts."""
    logits = [[[[0.0, math.log(3)]], [[9.0, 9.0]]], [[[9.0, 9.0]], [[9.0, 9.0]]]]
    return {
        "mask_logits": tf.constant(logits),
        "mask_targets": tf.constant([[[[1.0, 1.0]], [[0.0, 0.0]]]] * 2),
        "mask_kinds": tf.constant([[1, 0], [0, -1]]),
    }


def test_smooth_l1_is_a_parabola_that_goes_on_as_a_line():
    differences = tf.constant([[0.5, 0.0], [-1.0, 3.0]])
    np.testing.assert_allclose(smooth_l1(differences, bend=1.0), [0.125, 0.5 + 2.5])
    np.testing.assert_allclose(smooth_l1(differences, bend=2.0), [0.0625, 0.25 + 2.0])


def test_anchors_are_averaged_over_those_that_count():
    terms = anchor_terms(anchors())
    np.testing.assert_allclose(terms["rpn_score"], [3 * LN2 / 2, math.log(4 / 3)], rtol=1e-5)
    np.testing.assert_allclose(terms["rpn_box"], [(1 - 1 / 18) / 2, 0], rtol=1e-5)


def test_regions_are_averaged_over_those_that_count():
    # Cross-entropies: log(4 / 2) and log 3. Offsets: 2 - 1/2 and 1/8, over two regions.
    terms = region_terms(regions())
    np.testing.assert_allclose(terms["class"], [(LN2 + math.log(3)) / 2], rtol=1e-5)
    np.testing.assert_allclose(terms["box"], [(1.5 + 0.125) / 2], rtol=1e-5)


def test_the_stages_of_a_cascade_weigh_less_and_less():
    one, three = region_terms(regions()), region_terms(regions(3))
    for name, value in one.items():
        np.testing.assert_allclose(three[name], 1.75 * value, rtol=1e-5)


def test_masks_are_averaged_over_pixels_of_positive_regions():
    np.testing.assert_allclose(mask_term(masks()), [(LN2 + math.log(4 / 3)) / 2, 0], rtol=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    outputs = {name: tf.repeat(value, 2, axis=0) for name, value in regions().items()}
    outputs |= {**anchors(), **masks()}
    plain = build_loss("mask_rcnn").parts(None, outputs)
    assert list(plain) == ["rpn_score", "rpn_box", "class", "box", "mask"]
    loss = build_loss("mask_rcnn", mask=0.0, classes=3.0, ignore_label=4)
    weighted = loss.parts(None, outputs)
    np.testing.assert_allclose(weighted["class"], 3 * plain["class"])
    assert not weighted["mask"].numpy().any()
    assert weighted["box"].dtype == tf.float32
    np.testing.assert_allclose(loss(None, outputs), sum(weighted.values()), rtol=1e-6)
    for logits in ("anchor_logits", "class_logits", "mask_logits"):
        halves = {**outputs, logits: tf.cast(outputs[logits], tf.bfloat16)}
        assert build_loss("mask_rcnn")(None, halves).dtype == tf.float32
    with pytest.raises(ConfigError, match="weights of 0 or more"):
        build_loss("mask_rcnn", box=-1.0)
