import numpy as np
import pytest

from segkit.errors import ShapeError
from segkit.inference.detections import Detections
from segkit.inference.detections import InstanceMap
from segkit.inference.detections import bounds
from segkit.inference.detections import instance_map
from segkit.inference.detections import paint
from segkit.inference.detections import separate
from segkit.inference.detections import tighten
from segkit.inference.detections import true_objects
from segkit.inference.detections import without_vanished
from segkit.inference.paste_masks import paste_masks


def squares(*corners, side=4, scores=None, shape=(10, 12)):
    boxes = np.array([(y, x, y + side, x + side) for y, x in corners], np.float32)
    scores = np.array(scores or [1.0] * len(corners), np.float32)
    masks = [np.ones((side, side), bool)] * len(corners)
    return Detections(boxes, scores, np.arange(1, len(corners) + 1, dtype=np.int32), masks, shape)


def test_ids_are_numbered_anew_in_their_order():
    found = instance_map([[70000, 0], [9, 9]], classes={9: 2, 70000: 1}, scores={9: 0.5, 70000: 1})
    assert found.labels.tolist() == [[2, 0], [1, 1]]
    assert found.classes.tolist() == [2, 1]
    assert found.scores.tolist() == [0.5, 1]
    assert instance_map(np.full((1, 2), 7)).labels.tolist() == [[1, 1]]
    assert len(instance_map(np.zeros((2, 2), int)).scores) == 0


def test_a_true_object_has_the_class_of_most_of_its_pixels():
    ids = np.array([[4, 4, 4, 0, 9, 2]])
    label = np.array([[1, 2, 2, 1, 3, 1]])
    truth = true_objects(ids, label, ignore_label=3)
    assert truth.labels.tolist() == [[2, 2, 2, 0, 3, 1]]
    assert truth.classes.tolist() == [1, 2, 3]
    assert truth.ignored.tolist() == [False, False, True]
    assert not true_objects(ids, label).ignored.any()


def test_maps_of_different_images_are_refused():
    with pytest.raises(ShapeError, match=r"\(2, 3\) and classes \(2, 4\)"):
        true_objects(np.zeros((2, 3), int), np.zeros((2, 4), int))


def test_objects_that_have_vanished_are_left_out():
    labels = np.array([[0, 3, 1]], np.int32)
    found = InstanceMap(labels, np.array([0.9, 0.8, 0.7]), np.array([1, 2, 3]))
    kept = without_vanished(found)
    assert kept.labels.tolist() == [[0, 2, 1]]
    assert kept.scores.tolist() == [0.9, 0.7]
    assert kept.classes.tolist() == [1, 3]
    with pytest.raises(ShapeError, match="the id 3, but classes of 2 objects"):
        without_vanished(InstanceMap(labels, np.ones(2), np.ones(2, int)))


def test_bounds_are_the_pixels_touched_within_the_image():
    boxes = [[0.2, 1.9, 2.0, 3.1], [-3, 5, 4.5, 99]]
    assert bounds(boxes, (4, 8)).tolist() == [[0, 1, 2, 4], [0, 5, 4, 8]]


def test_a_map_taken_apart_and_painted_again_is_the_same():
    labels = np.array([[1, 1, 0, 3], [2, 1, 0, 3], [2, 2, 0, 0]], np.int32)
    found = InstanceMap(
        labels, np.array([0.9, 0.8, 0.7], np.float32), np.array([1, 2, 1], np.int32)
    )
    parts = separate(found)
    assert parts.boxes.tolist() == [[0, 0, 2, 2], [1, 0, 3, 2], [0, 3, 2, 4]]
    again = paint(parts)
    for a, b in zip(again, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_higher_score_is_on_top_and_what_is_mostly_hidden_is_left_out():
    # The second covers 2 of 16 pixels of the first, the third 12 of the second's 16.
    found = paint(squares((0, 0), (2, 3), (3, 3), scores=[0.9, 0.5, 0.8]))
    assert found.scores.tolist() == [np.float32(0.9), np.float32(0.8)]
    assert found.classes.tolist() == [1, 3]
    assert np.bincount(found.labels.ravel()).tolist()[1:] == [16, 15]
    all_of_them = paint(squares((0, 0), (2, 3), (3, 3), scores=[0.9, 0.5, 0.8]), visible=0)
    assert np.bincount(all_of_them.labels.ravel()).tolist()[1:] == [16, 15, 3]
    assert len(paint(squares((0, 0), (5, 5), scores=[0.9, 0.4]), min_score=0.5).scores) == 1


def test_tight_boxes_hold_the_same_masks():
    mask = np.zeros((4, 4), bool)
    mask[1, 2:] = True
    found = squares((2, 3), (0, 0))._replace(masks=[mask, np.zeros((4, 4), bool)])
    tight = tighten(found)
    assert tight.boxes.tolist() == [[3, 5, 4, 7]]
    assert tight.masks[0].tolist() == [[True, True]]
    np.testing.assert_array_equal(paint(tight).labels, paint(found).labels)


def slow_paste(box, mask, shape):
    """Bilinear interpolation at the centre of one pixel at a time."""
    side, result = len(mask), np.zeros(shape)
    for y in range(shape[0]):
        for x in range(shape[1]):
            if not (box[0] - 1 < y < box[2] and box[1] - 1 < x < box[3]):
                continue
            v = (y + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
            u = (x + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
            v, u = np.clip([v, u], 0, side - 1)
            a, b = int(min(v, side - 2)), int(min(u, side - 2))
            v, u = v - a, u - b
            result[y, x] = (
                mask[a, b] * (1 - v) * (1 - u)
                + mask[a, b + 1] * (1 - v) * u
                + mask[a + 1, b] * v * (1 - u)
                + mask[a + 1, b + 1] * v * u
            )
    return result


@pytest.mark.parametrize(
    "box", [(2, 3, 9, 12), (0.4, 1.7, 5.2, 17.9), (-3.5, 2.2, 6, 9), (8, 8, 15, 40), (3, 3, 4, 4)]
)
def test_pasted_masks_are_those_of_a_slow_version(box):
    mask = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    found = paste_masks([box], [0.9], [1], [mask], (12, 20))
    whole = np.zeros((12, 20), bool)
    ((y0, x0, y1, x1),) = bounds(found.boxes, found.shape)
    whole[y0:y1, x0:x1] = found.masks[0]
    np.testing.assert_array_equal(whole, slow_paste(box, mask, (12, 20)) > 0.5)


def test_padding_and_boxes_without_a_pixel_are_left_out():
    boxes = [[0, 0, 4, 4], [0, 0, 0, 0], [50, 50, 60, 60], [5, 5, 2, 9], [1, 1, 3, 3]]
    masks = np.ones((5, 2, 2))
    found = paste_masks(boxes, [0.9, 0, 0.8, 0.7, 0.6], [1, 0, 1, 1, 2], masks, (8, 8))
    assert found.classes.tolist() == [1, 2]
    assert [mask.sum() for mask in found.masks] == [16, 4]
    assert len(paste_masks(np.zeros((0, 4)), [], [], np.zeros((0, 5, 5)), (8, 8)).masks) == 0


def test_arrays_of_different_numbers_of_objects_are_refused():
    with pytest.raises(ShapeError, match="2 boxes need as many scores, classes and square masks"):
        paste_masks(np.zeros((2, 4)), [1.0], [1, 1], np.zeros((2, 3, 3)), (8, 8))
