"""Chunks cover everything and hold every patch; shards depend on names alone."""

from collections import Counter

import numpy as np
import pytest

from data_prep.shards import chunk_boxes
from data_prep.shards import chunk_starts
from data_prep.shards import plan_shards
from data_prep.shards import sample_foreground
from segkit.errors import ConfigError


@pytest.mark.parametrize("length", [1, 9, 10, 11, 17, 40, 101])
@pytest.mark.parametrize("overlap", [0, 1, 4, 9])
def test_every_patch_up_to_the_overlap_lies_in_one_chunk(length, overlap):
    starts = chunk_starts(length, chunk=10, overlap=overlap)
    ends = [min(start + 10, length) for start in starts]
    assert starts[0] == 0
    assert ends[-1] == length
    patch = max(1, min(overlap, length))
    for at in range(length - patch + 1):
        assert any(s <= at and at + patch <= e for s, e in zip(starts, ends, strict=True))


def test_chunks_are_evenly_spaced_and_as_few_as_needed():
    # 400 voxels: (400 - 160) / (160 - 64) = 2.5, so 3 steps of 80.
    assert chunk_starts(400, chunk=160, overlap=64) == [0, 80, 160, 240]
    assert chunk_starts(160, chunk=160, overlap=64) == [0]
    assert chunk_starts(161, chunk=160, overlap=64) == [0, 1]


def test_boxes_of_a_volume_are_the_product_of_its_axes():
    boxes = chunk_boxes((12, 5, 18), chunk=10, overlap=2)
    assert [origin for origin, _ in boxes] == [(0, 0, 0), (0, 0, 8), (2, 0, 0), (2, 0, 8)]
    assert {size for _, size in boxes} == {(10, 5, 10)}


@pytest.mark.parametrize(("chunk", "overlap"), [(64, 64), (64, 100), (64, -1), (0, 0)])
def test_an_overlap_must_be_smaller_than_the_chunk(chunk, overlap):
    with pytest.raises(ConfigError, match=f"got chunk {chunk} and overlap {overlap}"):
        chunk_starts(5, chunk=chunk, overlap=overlap)


def shards_of(splits, shape=(8, 8, 8)):
    shapes = dict.fromkeys(splits, shape)
    return plan_shards(splits, shapes, num_channels=1, chunk=160, overlap=64)


def test_each_case_is_in_one_shard_and_no_shard_is_empty():
    splits = {f"case{n}": "fold0" if n < 11 else "fold1" if n < 13 else "test" for n in range(14)}
    shards = shards_of(splits)
    assert Counter(s.split for s in shards) == {"fold0": 4, "fold1": 2, "test": 1}
    assert sorted(case for s in shards for case in s.cases) == sorted(splits)
    assert all(s.cases and s.records == len(s.cases) for s in shards)
    assert shards[0].file == "fold0-00000-of-00004.tfrecord"


def test_shards_do_not_depend_on_the_order_of_the_cases():
    splits = {f"case{n}": "fold0" for n in range(9)}
    assert shards_of(splits) == shards_of(dict(reversed(splits.items())))


def test_cases_keep_their_order_where_that_is_asked_for():
    cases = [f"synthetic-{n:06d}" for n in (7, 3, 5, 1, 9, 2)]
    shapes = dict.fromkeys(cases, (8, 8, 8))
    splits = dict.fromkeys(cases, "synthetic")
    shards = plan_shards(splits, shapes, num_channels=1, chunk=8, overlap=0, in_order=True)
    assert [case for shard in shards for case in shard.cases] == cases
    assert len(shards) == 4


def test_a_large_split_gets_one_shard_per_128_mebibytes():
    # 12 cases of 128^3 voxels at 3 bytes are 72 MiB in all. Of 256^3, each 8 chunks of 160^3
    # (starts 0 and 96): 12 * 8 * 160^3 * 3 bytes = 1125 MiB, that is 8.8 times 128 MiB.
    splits = {f"case{n}": "fold0" for n in range(12)}
    assert len(shards_of(splits, (128, 128, 128))) == 4
    assert len(shards_of(splits, (256, 256, 256))) == 9
    assert shards_of(splits, (256, 256, 256))[0].records == 8


def test_foreground_is_sampled_per_class_within_the_label_and_the_same_each_time():
    label = np.zeros((10, 12, 14), dtype=np.uint8)
    label[2:, 3:] = 1  # 8 * 9 * 14 = 1008 voxels
    label[0, 0, 5] = 4
    rows = sample_foreground(label, seed=7)
    assert rows.dtype == np.int32
    assert Counter(rows[:, 0].tolist()) == {1: 500, 4: 1}
    np.testing.assert_array_equal(label[tuple(rows[:, 1:].T)], rows[:, 0])
    assert len(np.unique(rows, axis=0)) == 501
    np.testing.assert_array_equal(rows, sample_foreground(label, seed=7))
    assert not np.array_equal(rows, sample_foreground(label, seed=8))


def test_a_chunk_without_foreground_or_label_has_no_rows():
    assert sample_foreground(np.zeros((2, 2, 2), dtype=np.uint8), seed=0).shape == (0, 4)
    assert sample_foreground(None, seed=0).shape == (0, 4)


def test_voxels_to_be_ignored_are_no_foreground():
    label = np.zeros((2, 3, 4), dtype=np.uint8)
    label[0, 0], label[1, 2, 3] = 2, 1
    np.testing.assert_array_equal(sample_foreground(label, 0, ignore_label=2), [[1, 1, 2, 3]])
