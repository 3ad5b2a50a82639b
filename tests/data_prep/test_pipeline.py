"""The stream of patches: what it holds, in what order, and what it does with damaged files."""

import os
import subprocess
import sys
import time
from dataclasses import replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from data_prep import pipeline
from data_prep.pipeline import Augmentation
from data_prep.pipeline import build_dataset
from data_prep.reader import reading_errors
from data_prep.records import Chunk
from data_prep.records import decode
from data_prep.records import encode
from data_prep.records import write_records
from segkit.errors import ConfigError
from segkit.errors import DataError

AUGMENT = Augmentation(
    [{"flip": {}}, {"rotation": {"probability": 0.5}}, {"brightness": {"factor": [0.5, 2.0]}}]
)


def make_chunk(case, label, image=None):
    """A chunk whose image is the flat voxel index, or what is given, and all its foreground."""
    if image is None:
        image = np.arange(label.size, dtype=np.float32).reshape(label.shape)
    voxels = np.argwhere(label)
    return Chunk(
        case_id=case,
        image=image[..., None],
        label=label.astype(np.uint8),
        spacing_mm=np.ones(3),
        affine=np.eye(4),
        origin=np.zeros(3),
        case_shape=np.array(label.shape),
        class_counts=np.bincount(label.ravel(), minlength=3),
        foreground=np.column_stack([label[tuple(voxels.T)], voxels]),
    )


def write_folder(folder, shards):
    """Writes shards, a dict split -> list of lists of chunks, and returns the manifest."""
    entries = []
    for split, files in shards.items():
        for n, chunks in enumerate(files):
            name = f"{split}-{n:05d}-of-{len(files):05d}.tfrecord"
            written = write_records(folder / name, map(encode, chunks))
            entries.append({"file": name, "split": split, **written})
    classes = [{"name": n, "value": v} for v, n in enumerate(("background", "a", "b"))]
    return {"schema": 1, "channels": ["MRI"], "classes": classes, "shards": entries}


def numbered(count, per_file=2, split="fold0"):
    """Chunks of 4x5x6 voxels whose image is their number everywhere."""
    label = np.zeros((4, 5, 6), int)
    label[1, 2, 3] = 1
    chunks = [make_chunk(f"c{n}", label, np.full(label.shape, n, np.float32)) for n in range(count)]
    return {split: [chunks[n : n + per_file] for n in range(0, count, per_file)]}


def stream(folder, manifest, count, splits=("fold0",), **options):
    """The first `count` examples as NumPy arrays."""
    defaults = {"patch_size": (2, 2, 2), "batch_size": 1, "seed": 3}
    dataset = build_dataset(folder, manifest, splits, **(defaults | options))
    return [(i[0], y[0]) for i, y in dataset.take(count).as_numpy_iterator()]


def assert_same(a, b):
    assert len(a) == len(b) > 0
    for (image, label), (other_image, other_label) in zip(a, b, strict=True):
        np.testing.assert_array_equal(image, other_image)
        np.testing.assert_array_equal(label, other_label)


def test_batches_have_the_stated_types_and_endless_cardinality(tmp_path):
    manifest = write_folder(tmp_path, numbered(3))
    dataset = build_dataset(
        tmp_path, manifest, ("fold0",), patch_size=(2, 3, 4), batch_size=5, seed=0
    )
    image, label = dataset.element_spec
    assert (image.shape, image.dtype) == ((5, 2, 3, 4, 1), tf.float32)
    assert (label.shape, label.dtype) == ((5, 2, 3, 4), tf.int32)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    image, label = next(iter(dataset))
    assert image.shape == (5, 2, 3, 4, 1)
    assert label.shape == (5, 2, 3, 4)


def test_image_and_label_of_a_patch_belong_together(tmp_path):
    index = np.arange(6 * 7 * 8).reshape(6, 7, 8)
    manifest = write_folder(tmp_path, {"fold0": [[make_chunk("a", index % 3)]]})
    augment = Augmentation([{"flip": {}}])
    for image, label in stream(tmp_path, manifest, 40, patch_size=(4, 4, 9), augment=augment):
        # Padding is index 0, whose label is 0 % 3 = 0 too.
        np.testing.assert_array_equal(label, np.rint(image[..., 0]).astype(int) % 3)
        assert len(np.unique(np.rint(image))) >= 4 * 4 * 8


def test_a_volume_smaller_than_the_patch_is_centred_in_zeros(tmp_path):
    label = np.full((2, 3, 4), 2)
    chunk = make_chunk("a", label, np.full(label.shape, 7, np.float32))
    manifest = write_folder(tmp_path, {"fold0": [[chunk]]})
    for image, found in stream(tmp_path, manifest, 6, patch_size=(4, 3, 6)):
        expected = np.pad(label, [(1, 1), (0, 0), (1, 1)])
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(image[..., 0], np.where(expected, 7, 0))


def test_the_asked_share_is_centred_on_foreground(tmp_path):
    label = np.zeros((16, 16, 16), int)
    label[8, 8, 8] = 1
    manifest = write_folder(tmp_path, {"fold0": [[make_chunk("a", label)]]})
    found = stream(tmp_path, manifest, 300, patch_size=(4, 4, 4))
    centred = sum(y[2, 2, 2] == 1 for _, y in found)
    # 100 are forced; of the other 200 one in 13**3 is there by chance
    assert 100 <= centred <= 103
    assert sum(y[2, 2, 2] == 1 for _, y in found[:30]) >= 10


def test_classes_are_drawn_evenly_however_rare(tmp_path):
    label = np.zeros((10, 10, 10), int)
    label[3:7, 3:7, 3:6] = 1
    label[5, 5, 6] = 2
    manifest = write_folder(tmp_path, {"fold0": [[make_chunk("a", label)]]})
    found = stream(tmp_path, manifest, 300, foreground_fraction=1.0)
    kinds = [y[1, 1, 1] for _, y in found]
    assert set(kinds) == {1, 2}
    # 300 / 2 with standard deviation sqrt(300 / 4) = 8.7
    assert abs(kinds.count(2) - 150) < 35


def test_other_patches_cover_the_volume_evenly(tmp_path):
    label = np.zeros((1, 1, 12), int)
    manifest = write_folder(tmp_path, {"fold0": [[make_chunk("a", label)]]})
    found = stream(tmp_path, manifest, 450, patch_size=(1, 1, 4), foreground_fraction=0.0)
    starts = np.bincount([round(float(i[0, 0, 0, 0])) for i, _ in found])
    # 9 places, 450 / 9 = 50 each; chi-square with 8 degrees of freedom stays below 26.1 (0.1 %)
    assert len(starts) == 9
    assert ((starts - 50.0) ** 2 / 50).sum() < 26.1


def test_forced_examples_come_from_records_that_hold_foreground(tmp_path):
    empty, full = np.zeros((4, 4, 4), int), np.ones((4, 4, 4), int)
    chunks = [make_chunk("a", empty), make_chunk("b", full), make_chunk("c", empty)]
    manifest = write_folder(tmp_path, {"fold0": [chunks]})
    assert all(y.all() for _, y in stream(tmp_path, manifest, 9, foreground_fraction=1.0))
    third = stream(tmp_path, manifest, 30)
    assert all(y.all() for _, y in third[2::3])
    assert not all(y.all() for _, y in third)


def test_a_data_set_without_foreground_still_yields_patches(tmp_path):
    chunks = [make_chunk(n, np.zeros((4, 4, 4), int)) for n in "abc"]
    manifest = write_folder(tmp_path, {"fold0": [chunks]})
    assert len(stream(tmp_path, manifest, 12, foreground_fraction=0.5)) == 12


def test_each_round_visits_every_record_once_in_a_new_order(tmp_path):
    manifest = write_folder(tmp_path, numbered(7))
    found = stream(tmp_path, manifest, 28, foreground_fraction=0.0)
    order = [round(float(i.max())) for i, _ in found]
    rounds = [tuple(order[n : n + 7]) for n in range(0, 28, 7)]
    assert all(sorted(r) == list(range(7)) for r in rounds)
    assert len(set(rounds)) == 4


def test_only_the_named_splits_are_read(tmp_path):
    label = np.zeros((2, 2, 2), int)
    folds = {
        split: [[make_chunk(split, label, np.full(label.shape, n, np.float32))]]
        for n, split in enumerate(("fold0", "fold1", "fold2", "test"))
    }
    manifest = write_folder(tmp_path, folds)
    found = stream(tmp_path, manifest, 20, splits=("fold0", "fold2"), patch_size=(2, 2))
    assert {round(float(i.max())) for i, _ in found} == {0, 2}


def test_a_patch_of_two_sides_draws_slices(tmp_path):
    label = np.zeros((5, 6, 7), int)
    label[3, 4, 5] = 2
    image = np.broadcast_to(np.arange(5.0, dtype=np.float32)[:, None, None], label.shape)
    manifest = write_folder(tmp_path, {"fold0": [[make_chunk("a", label, image)]]})
    found = stream(tmp_path, manifest, 60, patch_size=(4, 8))
    assert found[0][0].shape == (4, 8, 1)
    assert found[0][1].shape == (4, 8)
    slices = {round(float(i.max())) for i, _ in found}
    assert slices == {0, 1, 2, 3, 4}
    for image, label in found[2::3]:  # every third is forced, onto slice 3
        assert label.max() == 2
        assert image.max() == pytest.approx(3, abs=1e-4)


@pytest.mark.parametrize("memory", [1 << 30, 40000])  # 40000: 5 of 24 records are shuffled
def test_a_resumed_stream_goes_on_exactly_where_it_stopped(tmp_path, memory):
    manifest = write_folder(tmp_path, numbered(24))
    options = {"augment": AUGMENT, "memory_bytes": memory}
    whole = stream(tmp_path, manifest, 45, **options)
    for start in (24, 33):  # where a round ends, and within one
        rest = stream(tmp_path, manifest, 45 - start, start_index=start, **options)
        assert_same(rest, whole[start:])


def test_the_stream_depends_on_the_seed_and_on_nothing_else(tmp_path):
    manifest = write_folder(tmp_path, numbered(9))
    options = {"augment": AUGMENT, "memory_bytes": 1 << 30}
    one = stream(tmp_path, manifest, 40, **options)
    assert_same(one, stream(tmp_path, manifest, 40, num_parallel_calls=1, **options))
    batched = build_dataset(
        tmp_path, manifest, ("fold0",), patch_size=(2, 2, 2), batch_size=4, seed=3, augment=AUGMENT
    )
    images = np.concatenate([i for i, _ in batched.take(10).as_numpy_iterator()])
    np.testing.assert_array_equal(images, [i for i, _ in one])
    tf.random.set_seed(5)
    try:
        assert_same(one, stream(tmp_path, manifest, 40, **options))
        assert tf.compat.v1.get_seed(1) == (5, 1)
    finally:
        tf.random.set_seed(None)
    other = stream(tmp_path, manifest, 40, **(options | {"seed": 4}))
    assert any((a[0] != b[0]).any() for a, b in zip(one, other, strict=True))


def test_fast_mode_lets_quick_examples_overtake_and_loses_none(tmp_path, monkeypatch):
    def wait(seconds):
        time.sleep(float(seconds))
        return seconds

    def slow_on_case_3(serialized, **options):
        record = decode(serialized, **options)
        seconds = tf.where(record["case_id"] == "c3", 0.5, 0.0)
        (waited,) = tf.numpy_function(wait, [seconds], [tf.float32])
        with tf.control_dependencies([waited]):
            return record | {"image": tf.identity(record["image"])}

    monkeypatch.setattr(pipeline, "decode", slow_on_case_3)
    manifest = write_folder(tmp_path, numbered(9))
    options = {"batches": 9, "foreground_fraction": 0, "num_parallel_calls": 4}

    def order(deterministic):
        found = stream(tmp_path, manifest, 9, deterministic=deterministic, **options)
        return [round(float(image.max())) for image, _ in found]

    slow, fast = order(deterministic=True), order(deterministic=False)
    assert sorted(fast) == sorted(slow) == list(range(9))
    assert fast.index(3) > slow.index(3)


def test_validation_is_finite_and_the_same_in_every_pass(tmp_path):
    manifest = write_folder(tmp_path, numbered(5))
    dataset = build_dataset(
        tmp_path, manifest, ("fold0",), patch_size=(2, 2, 2), batch_size=2, seed=1, batches=4
    )
    assert dataset.cardinality() == 4
    passes = [list(dataset.as_numpy_iterator()) for _ in range(2)]
    assert len(passes[0]) == 4
    assert_same(*passes)


def test_records_that_fit_into_memory_are_read_once(tmp_path):
    manifest = write_folder(tmp_path, numbered(5, per_file=5))
    dataset = build_dataset(
        tmp_path, manifest, ("fold0",), patch_size=(2, 2, 2), batch_size=1, seed=1
    )
    assert len(list(dataset.take(5))) == 5
    (tmp_path / "fold0-00000-of-00001.tfrecord").unlink()
    assert len(list(dataset.take(20))) == 20


def repeatable(folder, count, per_file=2):
    """As `numbered`, with the cases in the manifest, which stored them in one chunk each."""
    manifest = write_folder(folder, numbered(count, per_file))
    cases = [f"c{n}" for n in range(count)]
    for n, shard in enumerate(manifest["shards"]):
        shard["cases"] = cases[n * per_file :][:per_file]
    shapes = {case: {"shape": [4, 5, 6]} for case in cases}
    return manifest | {"cases": shapes, "options": {"chunk": 8, "chunk_overlap": 4}}


def numbers(examples):
    return [int(image.max()) for image, _ in examples]


@pytest.mark.parametrize("memory", [1 << 30, 40000])  # 40000: 5 of 24 records are shuffled
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_round_holds_every_case_as_often_as_its_repeats(tmp_path, memory, fraction):
    manifest = repeatable(tmp_path, 24)
    # 22 cases once, one three times, one never: 25 examples per round.
    options = {"repeats": {"c2": 3, "c5": 0, "c6": 1}, "memory_bytes": memory}
    found = numbers(stream(tmp_path, manifest, 75, foreground_fraction=fraction, **options))
    expected = sorted([*set(range(24)) - {5}, 2, 2])
    rounds = [found[:25], found[25:50], found[50:]]
    assert all(sorted(one) == expected for one in rounds)
    assert rounds[0] != rounds[1]


def test_every_chunk_of_a_case_is_repeated(tmp_path):
    manifest = repeatable(tmp_path, 4)
    for shard in manifest["shards"]:
        first, second = shard["cases"]
        path = tmp_path / shard["file"]
        chunks = [make_chunk(case, np.ones((4, 4, 4), int)) for case in (first, first, second)]
        shard |= write_records(path, map(encode, chunks))
        manifest["cases"][first]["shape"] = [4, 4, 6]
        manifest["cases"][second]["shape"] = [4, 4, 4]
    manifest["options"] = {"chunk": 4, "chunk_overlap": 2}
    dataset = build_dataset(
        tmp_path,
        manifest,
        ("fold0",),
        patch_size=(4, 4, 4),
        batch_size=1,
        seed=0,
        foreground_fraction=0.0,
        repeats={"c0": 2, "c3": 3},
        with_cases=True,
    )
    # Chunks per case 2, 1, 2, 1, so a round has 2 * 2 + 1 + 2 + 3 * 1 = 10 examples.
    cases = [case[0].decode() for case, *_ in dataset.take(20).as_numpy_iterator()]
    assert sorted(cases[:10]) == sorted(cases[10:]) == ["c0"] * 4 + ["c1"] + ["c2"] * 2 + ["c3"] * 3


def test_repeats_of_one_change_nothing_and_others_go_on_where_they_stopped(tmp_path):
    manifest = repeatable(tmp_path, 9)
    plain = stream(tmp_path, manifest, 30, augment=AUGMENT)
    once = stream(tmp_path, manifest, 30, augment=AUGMENT, repeats={"c1": 1, "c8": 1})
    assert_same(plain, once)
    options = {"augment": AUGMENT, "repeats": {"c1": 0, "c3": 2, "c7": 4}}
    whole = stream(tmp_path, manifest, 40, **options)  # rounds of 12 examples
    for start in (12, 17):
        assert_same(
            stream(tmp_path, manifest, 40 - start, start_index=start, **options), whole[start:]
        )
    parts = [
        build_dataset(
            tmp_path,
            manifest,
            ("fold0",),
            patch_size=(2, 2, 2),
            batch_size=4,
            seed=3,
            part=(n, 2),
            **options,
        ).take(10)
        for n in (0, 1)
    ]
    for number, (one, two) in enumerate(zip(*parts, strict=True)):
        images = np.concatenate([one[0], two[0]])
        expected = [image for image, _ in whole[4 * number : 4 * number + 4]]
        np.testing.assert_array_equal(images, expected)


def test_repeats_that_do_not_fit_the_data_are_refused(tmp_path):
    manifest = repeatable(tmp_path, 3)
    with pytest.raises(ConfigError, match=r"names the case 'c11'.*Did you mean 'c1'\?"):
        stream(tmp_path, manifest, 1, repeats={"c11": 2})
    with pytest.raises(ConfigError, match="leaves out every case"):
        stream(tmp_path, manifest, 1, repeats=dict.fromkeys(("c0", "c1", "c2"), 0))


def test_a_corrupt_shard_is_named(tmp_path):
    manifest = write_folder(tmp_path, numbered(4))
    path = tmp_path / manifest["shards"][1]["file"]
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with (
        pytest.raises(DataError, match=r"fold0-00001-of-00002\.tfrecord: record 1 has a wrong"),
        reading_errors(tmp_path, manifest),
    ):
        stream(tmp_path, manifest, 10)


def test_other_errors_pass_through_unchanged(tmp_path):
    manifest = write_folder(tmp_path, numbered(2))
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="mine"),
        reading_errors(tmp_path, manifest),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "mine")


def test_what_cannot_be_trained_on_is_refused_before_reading(tmp_path):
    manifest = write_folder(tmp_path, numbered(2))
    with pytest.raises(ConfigError, match=r"data\.patch_size needs 2 or 3 entries, got \[4\]"):
        stream(tmp_path, manifest, 1, patch_size=(4,))
    with pytest.raises(DataError, match=r"no records in split 'fold9'.*'fold0'"):
        stream(tmp_path, manifest, 1, splits=("fold9",))
    with pytest.raises(DataError, match="has no labels"):
        stream(tmp_path, manifest | {"classes": []}, 1)
    path = tmp_path / manifest["shards"][0]["file"]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=f"has {size - 3} bytes, the manifest says {size}"):
        stream(tmp_path, manifest, 1)


def test_without_labels_the_patches_are_those_of_a_data_set_that_has_none(tmp_path):
    rng = np.random.default_rng(0)
    volumes = {f"c{n}": rng.normal(size=(4, 5, 6)).astype(np.float32) for n in range(5)}
    label = np.zeros((4, 5, 6), int)
    label[1, 2, 3] = 1
    found = {}
    for name in ("labelled", "bare"):
        chunks = [make_chunk(case, label, image) for case, image in volumes.items()]
        if name == "bare":
            none = {"label": None, "foreground": np.zeros((0, 4)), "class_counts": np.zeros(0)}
            chunks = [replace(chunk, **none) for chunk in chunks]
        (tmp_path / name).mkdir()
        manifest = write_folder(tmp_path / name, {"test": [chunks]})
        manifest |= {"classes": manifest["classes"] if name == "labelled" else []}
        manifest |= {"preprocess": {"spacing_mm": [1, 1, 1]}}
        options = {
            "splits": ("test",),
            "labels": False,
            "augment": AUGMENT,
            "patch_size": (3, 3, 3),
        }
        found[name] = stream(tmp_path / name, manifest, 12, **options)
        assert all((labels == 0).all() for _, labels in found[name])
    assert_same(found["labelled"], found["bare"])


@pytest.mark.slow
def test_two_replicas_share_the_batches_of_one(tmp_path):
    code = """
import sys, numpy as np, tensorflow as tf
sys.path.insert(0, sys.argv[2])
import test_pipeline as t
from pathlib import Path
folder = Path(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
manifest = t.write_folder(folder, t.numbered(5))
make = lambda: t.build_dataset(
    folder, manifest, ("fold0",), patch_size=(2, 2, 2), batch_size=4, seed=1, batches=6)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
two = [np.concatenate([v.numpy() for v in strategy.experimental_local_results(i)])
       for i, _ in strategy.experimental_distribute_dataset(make())]
np.testing.assert_array_equal(two, [i.numpy() for i, _ in make()])
"""
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code, str(tmp_path), here], check=True, timeout=120)
