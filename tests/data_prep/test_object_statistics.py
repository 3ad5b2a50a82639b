"""Boxes and their statistics against slow versions and values by hand."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.object_statistics import Box
from data_prep.object_statistics import count_objects
from data_prep.object_statistics import describe_objects
from data_prep.object_statistics import measure_shard
from data_prep.object_statistics import slice_boxes
from data_prep.object_statistics import spread
from data_prep.records import Chunk
from data_prep.records import encode
from data_prep.records import write_records
from segkit.errors import DataError

NAMES = ["background", "cell", "ignore"]


def make_chunk(case, label, instance, origin=(0, 0, 0)):
    return Chunk(
        case_id=case,
        image=np.zeros((*label.shape, 1), np.float32),
        label=label.astype(np.uint8),
        spacing_mm=np.ones(3),
        affine=np.eye(4),
        origin=np.array(origin),
        case_shape=np.array(label.shape),
        class_counts=np.bincount(label.ravel(), minlength=3),
        foreground=np.zeros((0, 4)),
        instance=instance.astype(np.uint16),
    )


def write(folder, chunks):
    write_records(folder / "a.tfrecord", map(encode, chunks))
    return ["a.tfrecord"]


def rectangle(shape, *boxes):
    """Ids 1, 2, ... of `(slice, top, left, bottom, right)`."""
    ids = np.zeros(shape, int)
    for index, (plane, top, left, bottom, right) in enumerate(boxes, start=1):
        ids[plane, top:bottom, left:right] = index
    return ids


def test_boxes_are_those_of_a_loop_over_slices_and_ids():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, size=(3, 6, 7)) * (rng.random((3, 6, 7)) < 0.3)
    label = (ids > 0) * 1 + (ids > 4)
    expected = []
    for plane in range(3):
        for index in range(1, 9):
            rows, columns = np.nonzero(ids[plane] == index)
            if len(rows):
                box = rows.min() + 10, columns.min() + 20, rows.max() + 11, columns.max() + 21
                expected.append(Box(index, plane + 5, 1 + (index > 4), tuple(map(int, box))))
    assert slice_boxes(ids, label, origin=(5, 10, 20)) == expected
    assert len(expected) > 15
    assert slice_boxes(np.zeros((2, 3, 3), int), np.zeros((2, 3, 3), int)) == []


def test_an_object_cut_by_chunks_is_measured_whole(tmp_path):
    ids = rectangle((2, 6, 20), (0, 1, 2, 4, 15), (1, 0, 0, 2, 3))
    chunks = [
        make_chunk("c", (part > 0) * 1, part, origin=(0, 0, start))
        for start, part in ((0, ids[:, :, :12]), (8, ids[:, :, 8:]))
    ]
    write(tmp_path, chunks)
    assert measure_shard(tmp_path / "a.tfrecord") == {
        "c": [Box(1, 0, 1, (1, 2, 4, 15)), Box(2, 1, 1, (0, 0, 2, 3))]
    }


def test_statistics_by_hand(tmp_path):
    a = rectangle((1, 40, 40), (0, 0, 0, 4, 4), (0, 10, 10, 14, 26), (0, 30, 30, 40, 40))
    label = (a > 0) * 1 + (a == 3)  # the third is to be ignored
    held_back = rectangle((1, 40, 40), *[(0, n, 0, n + 1, 1) for n in range(9)])
    nothing = np.zeros((1, 40, 40), int)
    shards = write(
        tmp_path,
        [
            make_chunk("a", label, a),
            make_chunk("b", nothing, nothing),
            make_chunk("t", (held_back > 0) * 1, held_back),
        ],
    )
    splits = {"a": "fold0", "b": "fold1", "t": "test"}
    found = describe_objects(tmp_path, shards, splits, NAMES, {"a": 7, "t": 5})
    assert found == {
        "count": 2,
        "classes": {"cell": 2, "ignore": 1},
        "per_case_max": 2,
        "per_slice_max": 2,
        "max_id": 9,
        # sqrt(4 * 4) = 4 and sqrt(4 * 16) = 8; 4 / 4 and 4 / 16
        "sides": [4.0, 4.2, 5.0, 6.0, 7.0, 7.8, 8.0],
        "aspects": pytest.approx([0.25, 0.2875, 0.4375, 0.625, 0.8125, 0.9625, 1.0], abs=6e-4),
        # 7.8 / 4.2 is under 2: one side, sqrt(7.8 * 4.2); 0.9625 / 0.2875 = 3.35 takes two
        "anchor_sides": [5.72],
        "anchor_aspects": [0.39, 0.71],
        "overlap_voxels": 7,
        "overlap_cases": 1,
    }


def test_a_volume_counts_objects_once_and_boxes_per_slice(tmp_path):
    ids = np.zeros((3, 8, 8), int)
    ids[:, 1:3, 1:3] = 1
    ids[1, 5:7, 5:7] = 2
    shards = write(tmp_path, [make_chunk("v", (ids > 0) * 1, ids)])
    found = describe_objects(tmp_path, shards, {"v": "fold0"}, NAMES, {})
    assert (found["count"], found["per_case_max"], found["per_slice_max"]) == (2, 2, 2)
    assert found["sides"] == [2.0] * 7


def test_a_data_set_whose_objects_all_vanished_is_refused(tmp_path):
    nothing = np.zeros((1, 4, 4), int)
    shards = write(tmp_path, [make_chunk("a", nothing, nothing)])
    with pytest.raises(DataError, match="no object is left on the prepared grid"):
        describe_objects(tmp_path, shards, {"a": "fold0"}, NAMES, {})


@pytest.mark.parametrize(("low", "high"), [(5, 5), (5, 9), (5, 10), (5, 11), (3, 100)])
def test_anchors_are_few_and_near_to_all(low, high):
    values = np.geomspace(low, high, 1001)
    anchors = np.array(spread(values))
    middle = values[(values >= np.quantile(values, 0.05)) & (values <= np.quantile(values, 0.95))]
    far = np.abs(np.log2(middle[:, None] / anchors)).min(axis=1).max()
    assert far <= 0.5 + 0.01  # anchors have two decimals
    assert len(anchors) == max(1, np.ceil(np.log2(middle.max() / middle.min())))


def test_all_labelled_cases_have_objects_or_none():
    facts = {"a": {"class_voxels": [1, 2], "overlap": 3}, "b": {"class_voxels": None}}
    assert count_objects(facts) == {"objects": {"a": 3}}
    assert count_objects({"b": {"class_voxels": [1, 2]}}) == {}
    with pytest.raises(DataError, match="case c has a label but no objects"):
        count_objects(facts | {"c": {"class_voxels": [3, 4]}})


def test_records_of_cases_without_labels_have_no_boxes(tmp_path):
    ids = rectangle((1, 4, 4), (0, 0, 0, 2, 2))
    chunk = make_chunk("a", (ids > 0) * 1, ids)
    write(tmp_path, [replace(chunk, label=None, instance=None)])
    assert measure_shard(tmp_path / "a.tfrecord") == {"a": []}
