import numpy as np
import pytest

from segkit.errors import ShapeError
from segkit.inference.detections import InstanceMap
from segkit.inference.detections import instance_map
from segkit.inference.detections import separate
from segkit.inference.link_slices import link_slices

SHAPE = (24, 40, 48)


def balls(*centres_and_radii):
    """Balls `(z, y, x, radius)` in a volume, numbered from 1; the first painted wins."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    labels = np.zeros(SHAPE, np.int32)
    for number, (*centre, radius) in enumerate(centres_and_radii, start=1):
        inside = ((grid - centre) ** 2).sum(axis=-1) <= radius**2
        labels[inside & (labels == 0)] = number
    return labels


def slices(labels, *, classes=None, masks=True):
    """What a perfect network finds in each slice, in an order of its own."""
    found = []
    for plane in labels:
        named = None if classes is None else {n: classes[n] for n in np.unique(plane)}
        objects = instance_map(
            np.where(plane > 0, 99 - plane, 0),
            named and {99 - n: kind for n, kind in named.items()},
        )
        found.append(separate(objects) if masks else objects)
    return found


def same(found, labels):
    pairs = np.unique(np.stack([found.labels.ravel(), labels.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


@pytest.mark.parametrize("masks", [True, False])
def test_balls_come_out_whole_from_pole_to_pole(masks):
    labels = balls((12, 12, 12, 10), (8, 30, 14, 6), (14, 25, 36, 9))
    found = link_slices(slices(labels, masks=masks))
    assert same(found, labels)
    assert len(found.scores) == 3


def test_balls_that_touch_side_by_side_stay_apart():
    labels = balls((12, 20, 12, 9), (12, 20, 29, 9), (10, 33, 20, 6))
    assert (labels[12, 20, 21:23] == [1, 2]).all()  # no gap between them
    assert same(link_slices(slices(labels)), labels)


def test_objects_that_follow_each_other_in_depth_stay_apart_unless_one_covers_the_other():
    labels = np.zeros(SHAPE, np.int32)
    labels[2:8, 5:15, 5:15] = 1
    labels[8:14, 11:21, 5:15] = 2  # shares 4 of 10 rows with the first
    labels[14:20, 14:24, 5:15] = 3  # shares 7 of 10 rows with the second
    found = link_slices(slices(labels))
    assert len(found.scores) == 2
    assert same(found, np.where(labels == 3, 2, labels))
    assert len(link_slices(slices(labels), overlap=0.8).scores) == 3


def test_a_fork_goes_on_with_the_branch_that_covers_it_best():
    labels = np.zeros((2, 10, 20), np.int32)
    labels[0, 2:8, 2:16] = 1
    labels[1, 2:8, 2:7], labels[1, 2:8, 8:16] = 1, 2
    found = link_slices(slices(labels))
    assert len(found.scores) == 2
    assert found.labels[1, 4, 10] == found.labels[0, 4, 4]
    assert found.labels[1, 4, 4] != found.labels[0, 4, 4]


def test_pairs_are_chosen_together_not_one_after_the_other():
    before, after = np.zeros((1, 30), np.int32), np.zeros((1, 30), np.int32)
    before[0, 0:9], before[0, 9:16] = 1, 2
    after[0, 4:14], after[0, 14:17] = 1, 2
    found = link_slices([instance_map(before), instance_map(after)])
    # IoU 1-1 5/14, 2-1 5/12, 2-2 2/8. The best pair first would leave two objects alone.
    assert len(found.scores) == 2
    assert found.labels[1, 0, 4] == found.labels[0, 0, 0]
    assert found.labels[1, 0, 14] == found.labels[0, 0, 9]


def test_objects_of_different_classes_are_not_linked():
    labels = balls((12, 20, 20, 8))
    upper = np.where((labels == 1) & (np.arange(24)[:, None, None] >= 12), 2, labels)
    found = link_slices(slices(upper, classes={0: 0, 1: 1, 2: 2}))
    assert sorted(found.classes.tolist()) == [1, 2]


def test_the_score_is_the_mean_over_pixels_and_weak_detections_are_left_out():
    wide, narrow = np.zeros((6, 6), np.int32), np.zeros((6, 6), np.int32)
    wide[0:2, 0:6], narrow[0:2, 0:2] = 1, 1
    strong = instance_map(wide, scores={1: 0.9})
    weak = instance_map(narrow, scores={1: 0.5})
    found = link_slices([strong, weak])
    assert found.scores.tolist() == [pytest.approx((12 * 0.9 + 4 * 0.5) / 16)]
    parts = [separate(strong), separate(weak)]
    assert link_slices(parts, min_score=0.6).labels[1].max() == 0


def test_an_object_missed_in_a_slice_ends_there_and_no_object_is_nothing():
    labels = balls((12, 20, 20, 8))
    labels[12] = 0
    found = link_slices(slices(labels))
    assert len(found.scores) == 2
    empty = link_slices(slices(np.zeros(SHAPE, np.int32)))
    assert isinstance(empty, InstanceMap)
    assert empty.labels.shape == SHAPE
    assert not len(empty.scores)


@pytest.mark.parametrize("widths", [(), (3, 4)])
def test_slices_of_several_shapes_or_none_are_refused(widths):
    with pytest.raises(ShapeError, match="must have one shape"):
        link_slices([instance_map(np.zeros((3, width))) for width in widths])
