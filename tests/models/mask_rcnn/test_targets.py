"""What each head should find in an image of two objects, worked out by hand.

Image of 64 x 64, ids 7 and 3, classes 1 and 2. Object A is the square of rows 4 to 20 and columns
12 to 28. Object B lies in rows 36 to 59 and columns 36 to 52, without a corner of 4 x 8 pixels.
Anchors are squares of side 16 around every cell of stride 8, then of side 32 and stride 16.
"""

import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.step_context import step_context
from segkit.models.mask_rcnn import garden
from segkit.models.mask_rcnn.anchors import level_sides
from segkit.models.mask_rcnn.anchors import make_anchors
from segkit.models.mask_rcnn.objects import find_objects
from segkit.models.mask_rcnn.targets import Samples
from segkit.models.mask_rcnn.targets import box_targets
from segkit.models.mask_rcnn.targets import class_targets
from segkit.models.mask_rcnn.targets import draws
from segkit.models.mask_rcnn.targets import mask_targets
from segkit.models.mask_rcnn.targets import match_anchors
from segkit.models.mask_rcnn.targets import match_regions
from segkit.models.mask_rcnn.targets import sample

CLASSES = 3
BOX_A, BOX_B = (4, 12, 20, 28), (36, 36, 59, 52)
# Cells (1, 2) and (5, 5) of 8 x 8: the anchor that is A, and the best one of B.
ANCHOR_A, ANCHOR_B = 10, 45
LOG = np.log(23 / 16)


def maps(crowd=False):
    instance = np.zeros((1, 64, 64), np.int32)
    instance[0, 4:20, 12:28] = 7
    instance[0, 36:59, 36:52] = 3
    instance[0, 36:40, 36:44] = 0
    label = np.select([instance == 7, instance == 3], [1, CLASSES if crowd else 2])
    return tf.constant(label, tf.int32), tf.constant(instance)


@pytest.fixture(scope="module")
def anchors():
    return make_anchors([(8, 8), (4, 4)], [16, 32], [1.0], [3, 4])


@pytest.fixture(scope="module")
def objects():
    return find_objects(*maps(), CLASSES, max_objects=4)


@pytest.fixture(scope="module")
def crowded():
    return find_objects(*maps(crowd=True), CLASSES, max_objects=4)


def test_objects_are_the_boxes_of_ids_the_largest_first(objects):
    # B has 23 * 16 - 4 * 8 = 336 pixels, A 256.
    none = (-1, -1, -1, -1)
    np.testing.assert_array_equal(objects.boxes, [[BOX_B, BOX_A, none, none]])
    np.testing.assert_array_equal(objects.classes, [[2, 1, 0, 0]])
    np.testing.assert_array_equal(objects.ids, [[3, 7, 0, 0]])
    assert not np.any(objects.crowd)


def test_the_largest_objects_are_kept_and_those_of_the_background_are_none():
    label, instance = maps()
    kept = find_objects(label, instance, CLASSES, max_objects=1)
    np.testing.assert_array_equal(kept.ids, [[3]])
    kept = find_objects(tf.where(instance == 3, 0, label), instance, CLASSES, max_objects=1)
    np.testing.assert_array_equal(kept.boxes, [[BOX_A]])


def test_images_do_not_mix_and_the_highest_id_is_found():
    label, instance = maps()
    high = tf.where(instance == 7, 65535, 0)
    found = find_objects(tf.repeat(label, 2, 0), tf.concat([high, instance], 0), CLASSES, 2)
    np.testing.assert_array_equal(found.ids, [[65535, 0], [3, 7]])
    np.testing.assert_array_equal(found.boxes[0, 0], BOX_A)


def test_anchors_stand_around_the_centres_of_cells(anchors):
    assert anchors.shape == (64 + 16, 4)
    np.testing.assert_allclose(anchors[0], (-4, -4, 12, 12))
    np.testing.assert_allclose(anchors[ANCHOR_A], BOX_A)
    np.testing.assert_allclose(anchors[ANCHOR_B], (36, 36, 52, 52))
    np.testing.assert_allclose(anchors[64 + 5], (8, 8, 40, 40))


def test_aspects_are_height_over_width_and_keep_the_area():
    found = make_anchors([(1, 2)], [16], [0.25, 4.0], [3])
    flat, tall = (-4 + 4, 4 - 16, 8, 20), (4 - 16, 0, 20, 8)
    shift = np.array([0, 8, 0, 8])
    np.testing.assert_allclose(found, [flat, tall, flat + shift, tall + shift], atol=1e-5)


def test_sides_of_anchors_are_spread_over_the_levels():
    assert level_sides(None, [2, 3, 4]) == [32, 64, 128]
    np.testing.assert_allclose(level_sides([10, 20, 40], [2, 3, 4]), [10, 20, 40])
    np.testing.assert_allclose(level_sides([10, 40], [2, 3, 4]), [10, 20, 40])
    np.testing.assert_allclose(level_sides([10], [2, 3]), [10, 10])


def test_anchors_are_matched_by_overlap(anchors, objects):
    # A's own anchor overlaps it wholly. B's best one lies within it: 256 / 368 = 0.696 is below
    # 0.7, but no other anchor overlaps B as much.
    # Neither: A's neighbours at 8 pixels, 128 / 384 = 0.333, and the one below B's, 240 / 384.
    matched, kinds = match_anchors(anchors, objects)
    expected = np.full(80, garden.NEGATIVE)
    expected[[ANCHOR_A, ANCHOR_B]] = garden.POSITIVE
    expected[[2, 9, 11, 18, 53]] = garden.NEITHER
    np.testing.assert_array_equal(kinds, [expected])
    assert (matched[0, ANCHOR_A], matched[0, ANCHOR_B]) == (1, 0)


def test_a_best_anchor_belongs_to_its_object_though_it_overlaps_another_more():
    # The object of 4 x 4 has no better anchor than the one that is the large object.
    instance = np.zeros((1, 64, 64), np.int32)
    instance[0, 4:20, 12:28] = 1
    instance[0, 10:14, 18:22] = 2
    found = find_objects(tf.ones_like(instance), tf.constant(instance), 2, 2)
    anchors = tf.constant([BOX_A, (4, 4, 20, 20)], tf.float32)
    matched, kinds = match_anchors(anchors, found)
    assert (kinds[0, 0], matched[0, 0]) == (garden.POSITIVE, 0)
    far = tf.constant([(40, 40, 48, 48), BOX_A], tf.float32)
    matched, kinds = match_anchors(far, find_objects(*maps(), CLASSES, 2))
    np.testing.assert_array_equal(kinds, [[garden.POSITIVE, garden.POSITIVE]])
    np.testing.assert_array_equal(matched, [[0, 1]])


def test_anchors_are_matched_as_a_slow_version_does(anchors, objects):
    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    def overlap(a, b):
        shared = area((*np.maximum(a[:2], b[:2]), *np.minimum(a[2:], b[2:])))
        return shared / (area(a) + area(b) - shared)

    table = np.array([[overlap(a, b) for b in (BOX_B, BOX_A)] for a in anchors.numpy()])
    highest = table.max(axis=1)
    expected = np.where(highest < 0.3, garden.NEGATIVE, garden.NEITHER)
    expected[(highest >= 0.7) | (table == table.max(axis=0)).any(axis=1)] = garden.POSITIVE
    np.testing.assert_array_equal(match_anchors(anchors, objects)[1], [expected])


def test_offsets_of_anchors_lead_to_their_objects(anchors, objects):
    # B's centre is 3.5 below that of its anchor: 3.5 / 16; it is 23 high instead of 16.
    samples = Samples(
        tf.constant([[ANCHOR_A, ANCHOR_B, 0]]),
        tf.constant([[garden.POSITIVE, garden.POSITIVE, garden.NEGATIVE]]),
        tf.constant([[1, 0, 0]]),
    )
    chosen = tf.gather(anchors, samples.indices)
    targets = box_targets(chosen, samples, objects)
    np.testing.assert_allclose(targets, [[(0,) * 4, (3.5 / 16, 0, LOG, 0), (0,) * 4]], atol=1e-6)
    decoded = garden.decode(targets, chosen)
    np.testing.assert_allclose(decoded[0, :2], [BOX_A, BOX_B], atol=1e-4)


def test_regions_get_classes_and_scaled_offsets(objects):
    regions = tf.constant(
        [
            [
                BOX_A,
                (6, 12, 22, 28),  # 14 rows of A: 224 / 288 = 0.78
                (12, 12, 28, 28),  # 8 rows of A: 128 / 384 = 0.33
                (36, 36, 52, 52),  # 256 of 368 pixels of B's box
                (0, 0, 0, 0),  # padding
                (-1, -1, -1, -1),
            ]
        ],
        tf.float32,
    )
    matched, kinds = match_regions(regions, objects)
    yes, no, neither = garden.POSITIVE, garden.NEGATIVE, garden.NEITHER
    np.testing.assert_array_equal(kinds, [[yes, yes, no, yes, neither, neither]])
    samples = Samples(tf.range(6)[None], kinds, matched)
    np.testing.assert_array_equal(class_targets(samples, objects), [[1, 1, 0, 2, -1, -1]])
    targets = box_targets(regions, samples, objects, [10.0, 10.0, 5.0, 5.0])
    expected = np.zeros((6, 4))
    expected[1, 0] = 10 * -2 / 16
    expected[3] = 10 * 3.5 / 16, 0, 5 * LOG, 0
    np.testing.assert_allclose(targets, [expected], atol=1e-5)
    # A stage of a cascade asks for more: 0.78 and 0.696 are below 0.8.
    kinds = match_regions(regions, objects, overlap=0.8)[1]
    np.testing.assert_array_equal(kinds, [[yes, no, no, no, neither, neither]])


def test_what_lies_in_a_crowd_counts_neither_way(anchors, crowded):
    np.testing.assert_array_equal(crowded.crowd, [[True, False, False, False]])
    kinds = match_anchors(anchors, crowded)[1].numpy()[0]
    assert kinds[ANCHOR_A] == garden.POSITIVE
    # Shares of anchors in B's box: 1; 15 / 16; 8 of 16 columns, 0.5, is not more than half.
    assert (kinds[ANCHOR_B], kinds[53], kinds[44]) == (-1, -1, garden.NEGATIVE)
    assert (kinds[64:] != garden.NEITHER).all()  # anchors of side 32 are not within it
    regions = tf.constant([[BOX_A, BOX_B, (38, 38, 44, 44), (0, 0, 8, 8)]], tf.float32)
    kinds = match_regions(regions, crowded)[1]
    np.testing.assert_array_equal(kinds, [[1, -1, -1, 0]])


def test_an_image_without_objects_has_negatives_only(anchors):
    nothing = tf.zeros((1, 64, 64), tf.int32)
    empty = find_objects(nothing, nothing, CLASSES, 3)
    assert (match_anchors(anchors, empty)[1].numpy() == garden.NEGATIVE).all()
    regions = tf.constant([[BOX_A, (0, 0, 0, 0)]], tf.float32)
    np.testing.assert_array_equal(match_regions(regions, empty)[1], [[0, -1]])


def test_sampling_takes_the_highest_numbers_of_each_kind():
    yes, no, neither = garden.POSITIVE, garden.NEGATIVE, garden.NEITHER
    kinds = tf.constant([[no, yes, neither, yes, no, yes, no]])
    numbers = tf.constant([[0.1, 0.5, 0.99, 0.7, 0.3, 0.2, 0.6]])
    found = sample(tf.range(7)[None] * 10, kinds, numbers, number=4, positive_share=0.5)
    np.testing.assert_array_equal(found.indices, [[3, 1, 6, 4]])
    np.testing.assert_array_equal(found.kinds, [[yes, yes, no, no]])
    np.testing.assert_array_equal(found.objects, [[30, 10, 60, 40]])


def test_sampling_fills_up_with_negatives_then_with_nothing():
    yes, no, neither = garden.POSITIVE, garden.NEGATIVE, garden.NEITHER
    kinds = tf.constant([[neither, yes, no, no, neither]])
    numbers = tf.constant([[0.9, 0.2, 0.3, 0.4, 0.8]])
    found = sample(kinds, kinds, numbers, number=5, positive_share=0.8)
    np.testing.assert_array_equal(found.kinds, [[yes, no, no, neither, neither]])
    np.testing.assert_array_equal(found.indices[0, :3], [1, 3, 2])


def test_random_numbers_follow_the_example():
    keys = tf.constant([[1, 2], [3, 4]], tf.uint32)
    with step_context(keys):
        both = draws("anchors", 2, 5)
    with step_context(keys[1:]):
        alone = draws("anchors", 1, 5)
    np.testing.assert_array_equal(both[1:], alone)
    assert not np.array_equal(both[0], both[1])
    np.testing.assert_array_equal(draws("anchors", 2, 5), draws("anchors", 2, 5))


def test_masks_are_the_pixels_of_the_object_at_the_centres_of_cells():
    _, instance = maps()
    # Cells of 8 rows and 4 columns: their centres are rows 36, 44, 52, 60, columns 38, 42, 46, 50.
    # The corner that B lacks is rows 36 to 40, columns 36 to 44; B ends at row 59.
    boxes = tf.constant([[(32, 36, 64, 52), BOX_A, BOX_A]], tf.float32)
    masks = mask_targets(instance, boxes, tf.constant([[3, 3, 0]]), 4)
    expected = [[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(masks[0, 0], expected)
    assert not np.any(masks[0, 1:])


def test_all_targets_are_the_same_compiled(anchors):
    label, instance = maps(crowd=True)

    def targets(label, instance):
        objects = find_objects(label, instance, CLASSES, 4)
        matched, kinds = match_anchors(anchors, objects)
        numbers = draws("anchors", 1, 80)
        samples = sample(matched, kinds, numbers, number=16, positive_share=0.5)
        chosen = tf.gather(anchors, samples.indices)
        masks = mask_targets(instance, chosen, tf.ones_like(samples.kinds) * 7, 4)
        return samples.indices, samples.kinds, box_targets(chosen, samples, objects), masks

    for jit in (False, True):
        compiled = tf.function(targets, jit_compile=jit)(label, instance)
        for ours, expected in zip(compiled, targets(label, instance), strict=True):
            np.testing.assert_allclose(ours, expected, atol=1e-6)
