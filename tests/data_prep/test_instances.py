"""Maps of objects: made, checked, resampled; against values by hand and slow versions."""

import numpy as np
import pytest
from scipy import ndimage

from data_prep import instances
from data_prep.instances import components
from data_prep.instances import number_objects
from data_prep.instances import paint
from data_prep.instances import prepare_ids
from data_prep.instances import resample_ids
from data_prep.instances import split_slices
from data_prep.joined_labels import join
from data_prep.joined_labels import split
from data_prep.layouts import Objects
from data_prep.plan import Plan
from data_prep.preprocess import prepare
from data_prep.preprocess import resample_labels
from data_prep.preprocess import undo
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.volume import Volume

NAMES = ("background", "cell", "debris")
EMPTY = "A mask was empty: it is no object."
HIDDEN = "An object lay wholly under smaller ones: it was left out."


def test_the_smaller_of_two_overlapping_objects_has_the_shared_voxels():
    objects = paint([[2, 3, 4, 5], [5, 6]], (1, 2, 4))
    assert objects.ids.tolist() == [[[0, 0, 1, 1], [1, 2, 2, 0]]]
    assert objects.lost == 1  # voxel 5
    assert objects.notes == ()


def test_order_decides_between_equals_only():
    assert paint([[0, 1], [1, 2]], (1, 1, 3)).ids.tolist() == [[[1, 2, 2]]]
    assert paint([[1], [0, 1, 2]], (1, 1, 3)).ids.tolist() == [[[2, 1, 2]]]


def test_empty_and_hidden_objects_are_left_out_with_a_note():
    objects = paint([[], [0, 1], [0], [1]], (1, 1, 3))
    assert objects.ids.tolist() == [[[3, 4, 0]]]
    assert objects.lost == 2
    assert objects.notes == (EMPTY, HIDDEN)
    nothing = paint([], (1, 2, 2))
    assert not nothing.ids.any()
    assert nothing[1:] == (0, ())


def test_components_part_classes_and_join_corners():
    label = np.array([[[1, 0, 0, 2], [0, 1, 2, 2], [0, 0, 0, 0], [1, 1, 0, 2]]])
    ids = components(label, background=0).ids
    assert ids.tolist() == [[[1, 0, 0, 3], [0, 1, 3, 3], [0, 0, 0, 0], [2, 2, 0, 4]]]


def test_components_take_any_background_value():
    ids = components(np.array([[[7, 7, 0, 0, 7, 0]]]), background=7).ids
    assert ids.tolist() == [[[0, 0, 1, 1, 0, 2]]]


def test_a_part_in_a_slice_becomes_an_object():
    ids = np.zeros((2, 3, 3), np.uint16)
    ids[0, :, 0] = ids[0, :, 2] = ids[1, 1, 1] = 5  # two parts, and one
    ids[1, 0, 0] = 9  # touches the one by a corner, but is another object
    found = split_slices(ids)
    assert found.dtype == np.uint16
    assert found.tolist() == [
        [[1, 0, 2], [1, 0, 2], [1, 0, 2]],
        [[4, 0, 0], [0, 3, 0], [0, 0, 0]],
    ]


def test_more_objects_than_ids_are_refused(monkeypatch):
    ids = np.arange(65537).reshape(1, 1, -1)
    label = (ids > 0).astype(np.uint8)
    with pytest.raises(DataError, match="65536 objects in one case; ids go up to 65535"):
        number_objects(Objects(ids), label, NAMES)
    assert number_objects(Objects(ids[..., :-1]), label[..., :-1], NAMES).max() == 65535
    monkeypatch.setattr(instances, "MAX_OBJECTS", 5)
    with pytest.raises(DataError, match="6 objects in one case"):
        split_slices(ids[..., :7])


def test_ids_are_numbered_in_their_order():
    label = np.array([[[1, 1, 2, 0, 2]]], np.uint8)
    ids = number_objects(Objects(np.array([[[70000, 3, 8, 0, 0]]])), label, NAMES)
    assert ids.tolist() == [[[3, 1, 2, 0, 0]]]
    assert ids.dtype == np.uint16


@pytest.mark.parametrize(
    ("ids", "error", "text"),
    [
        ([[[4, 4, 4, 0]]], DataError, "object 4 lies in cell and debris, where an object has one"),
        ([[[0, 0, 3, 3]]], DataError, "object 3 lies in background and debris"),
        ([[[0, 0, 0, 2]]], DataError, "object 2 lies in background, where"),
        ([[[-1, 0, 0, 0]]], DataError, "ids of 0 or more, got -1"),
        ([[[1, 0, 0]]], ShapeError, r"shape \(1, 1, 3\), their image \(1, 1, 4\)"),
    ],
)
def test_ids_that_do_not_fit_the_label_are_refused(ids, error, text):
    with pytest.raises(error, match=text):
        number_objects(Objects(np.array(ids)), np.array([[[1, 1, 2, 0]]]), NAMES)


def discs(shape, seed, count=12):
    """A label of two classes and ids of touching discs, some of them cut by others."""
    rng = np.random.default_rng(seed)
    ids, label = np.zeros(shape, np.uint16), np.zeros(shape, np.uint8)
    grid = np.indices(shape)
    for index in range(1, count + 1):
        middle = rng.uniform(0, shape)
        inside = ((grid.T - middle).T ** 2).sum(axis=0) < rng.uniform(2, 4) ** 2
        ids[inside], label[inside] = index, 1 + index % 2
    return label, ids


def slow_ids(ids, label, new_label):
    """For each object the share of every new voxel, one map per object."""
    shape = new_label.shape
    zoom = [n / m for n, m in zip(ids.shape, shape, strict=True)]
    where = [
        np.clip((np.arange(m) + 0.5) * z - 0.5, 0, n - 1)
        for n, m, z in zip(ids.shape, shape, zoom, strict=True)
    ]
    points = np.stack(np.meshgrid(*where, indexing="ij"))
    best, result = np.zeros(shape), np.zeros(shape, int)
    for kind in (1, 2):
        share = ndimage.map_coordinates(1.0 * ((label == kind) & (ids == 0)), points, order=1)
        best = np.where(new_label == kind, share, best)
    for index in range(1, ids.max() + 1):
        if (ids == index).any():
            share = ndimage.map_coordinates(1.0 * (ids == index), points, order=1)
            kind = label[ids == index][0]
            wins = (share > best + 1e-6) & (new_label == kind)
            best, result = np.where(wins, share, best), np.where(wins, index, result)
    return result


@pytest.mark.parametrize("shape", [(5, 20, 31), (9, 30, 17)])
def test_resampled_ids_are_those_of_the_largest_share_within_the_class(shape):
    label, ids = discs((9, 23, 22), seed=1)
    ids[label == 2] *= ids[label == 2] != 4  # an object that is none: its class stays
    new_label = resample_labels(label, shape)
    found = resample_ids(ids, label, new_label)
    np.testing.assert_array_equal(found, slow_ids(ids, label, new_label))
    for index in np.unique(found[found > 0]):
        assert set(new_label[found == index]) == {label[ids == index][0]}


def test_every_resampled_voxel_of_a_class_has_an_object_where_all_had_one():
    label, ids = discs((9, 23, 22), seed=2)
    new_label = resample_labels(label, (14, 15, 40))
    np.testing.assert_array_equal(resample_ids(ids, label, new_label) > 0, new_label > 0)


@pytest.mark.parametrize("codes", ["SAR", "LPI", "ASL"])
def test_ids_go_where_the_label_goes(codes):
    label, ids = discs((9, 12, 11), seed=3)
    image = Volume(np.pad(np.ones((5, 8, 9)), [(2, 2), (1, 3), (2, 0)]))
    inside = image.array > 0
    label, ids = label * inside, ids * inside
    plan = Plan(codes, None, True, ({"scheme": "zscore", "masked": False},))
    prepared = prepare(image, Volume(label), plan)
    found = prepare_ids(ids, label, prepared, image)
    assert found.shape == prepared.label.shape == tuple(prepared.geometry["shape"])
    assert found.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(undo(found, prepared.geometry), ids)


def test_class_and_id_share_a_map_without_loss():
    label = np.array([0, 1, 1, 32767], np.int32)
    ids = np.array([0, 1, 65535, 65535], np.int32)
    joined = join(label, ids)
    assert joined.dtype == np.int32
    np.testing.assert_array_equal(split(joined), (label, ids))
