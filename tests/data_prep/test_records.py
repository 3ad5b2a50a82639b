"""The record format against TensorFlow's own reader and writer, and against damage."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.records import FEATURES
from data_prep.records import Chunk
from data_prep.records import decode
from data_prep.records import decode_numpy
from data_prep.records import encode
from data_prep.records import read_records
from data_prep.records import write_records
from segkit.errors import DataError
from segkit.errors import ShapeError


def make_chunk(**changes):
    shape = (3, 4, 5)
    values = np.arange(60, dtype=np.float32).reshape(shape)
    chunk = Chunk(
        case_id="hippocampus_001",
        image=np.stack([values, values % 7 / 4], axis=-1),
        label=(values % 3).astype(np.uint8),
        spacing_mm=np.array([1.0, 0.5, 0.25]),
        affine=np.diag([1.0, 2.0, 3.0, 1.0]),
        origin=np.array([0, 2, 4]),
        case_shape=np.array([3, 6, 9]),
        class_counts=np.array([20, 20, 20]),
        foreground=np.array([[1, 0, 0, 1], [2, 0, 0, 2]]),
    )
    return dataclasses.replace(chunk, **changes)


def assert_equal(a, b, step):
    for field in dataclasses.fields(Chunk):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "image":
            assert x.dtype == np.float32
            assert (np.abs(x - y).max(axis=(0, 1, 2)) <= step).all()
        elif x is None or y is None:
            assert x is y
        else:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_chunk_survives_the_round_trip(dtype):
    source = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    chunk = make_chunk(label=make_chunk().label.astype(dtype), source_label=source)
    found = decode_numpy(encode(chunk))
    # Half a level: 59 / 65535 / 2 = 4.5e-4 and 1.5 / 65535 / 2 = 1.2e-5, plus float32 rounding.
    assert_equal(found, chunk, np.array([4.6e-4, 1.6e-5]))
    assert found.label.dtype == dtype
    assert found.source_label.dtype == dtype


def test_ids_of_objects_survive_the_round_trip():
    ids = (np.arange(60).reshape(3, 4, 5) * 1100).astype(np.uint16)
    source = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    chunk = make_chunk(instance=ids, source_instance=source, source_label=source.astype(np.uint8))
    serialized = encode(chunk)
    found = decode_numpy(serialized)
    assert_equal(found, chunk, np.array([4.6e-4, 1.6e-5]))
    assert found.instance.dtype == found.source_instance.dtype == np.uint16
    record = decode(serialized, instances=True)
    assert record["instance"].dtype == "uint16"
    np.testing.assert_array_equal(record["instance"], ids)
    assert "instance" not in decode(serialized)
    assert (
        decode_numpy(encode(dataclasses.replace(chunk, source_instance=None))).source_instance
        is None
    )


def test_ids_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"instance must have shape \(3, 4, 5\)"):
        encode(make_chunk(instance=np.zeros((3, 4, 4), np.uint16)))


def test_a_chunk_without_labels_survives_the_round_trip():
    found = decode_numpy(encode(make_chunk(label=None, foreground=np.zeros((0, 4)))))
    assert found.label is None
    assert found.source_label is None
    assert found.foreground.shape == (0, 4)


def test_quantisation_is_exact_where_the_range_is_65535_levels():
    image = np.array([0, 1, 2, 65535], np.float32).reshape(1, 1, 4, 1)
    label = np.zeros((1, 1, 4), np.uint8)
    record = decode(encode(make_chunk(image=image, label=label)))
    # slope (65535 - 0) / 65535 = 1, intercept 0 + 32768 * 1
    assert record["slope"].numpy().tolist() == [1.0]
    assert record["intercept"].numpy().tolist() == [32768.0]
    assert record["image"].numpy().ravel().tolist() == [-32768, -32767, -32766, 32767]


@pytest.mark.parametrize("value", [0.0, -3.3, 1e30])
def test_a_constant_channel_is_stored_exactly(value):
    image = np.full((3, 4, 5, 1), value, np.float32)
    np.testing.assert_array_equal(decode_numpy(encode(make_chunk(image=image))).image, image)


def test_a_range_too_small_for_float32_steps_does_not_overflow():
    image = np.zeros((3, 4, 5, 1), np.float32)
    image[0, 0, 0, 0] = 1e-44
    assert np.abs(decode_numpy(encode(make_chunk(image=image))).image).max() <= 1e-43


def test_equal_chunks_give_equal_bytes_in_every_process():
    golden = "b2c8561221e0881baa3c20f07606c7f8bfd135b5710e8a793374f1ea5c76782b"
    assert encode(make_chunk()) == encode(make_chunk())
    assert hashlib.sha256(encode(make_chunk())).hexdigest() == golden


def test_tensorflow_parses_what_numpy_parses():
    import tensorflow as tf

    chunk = make_chunk()
    serialized = encode(chunk)
    assert set(tf.train.Example.FromString(serialized).features.feature) == set(FEATURES)
    record = decode(serialized)
    assert record["image"].dtype == tf.int16
    assert record["label"].dtype == tf.uint16
    assert record["case_id"].numpy() == b"hippocampus_001"
    for name in ("label", "spacing_mm", "affine", "origin", "case_shape", "foreground"):
        np.testing.assert_array_equal(record[name], getattr(chunk, name))
    image = tf.cast(record["image"], tf.float32) * record["slope"] + record["intercept"]
    np.testing.assert_allclose(image, decode_numpy(serialized).image, atol=1e-5)


def test_tensorflow_decodes_uint16_and_missing_labels_in_a_graph():
    import tensorflow as tf

    graph = tf.function(decode)
    large = make_chunk(label=np.full((3, 4, 5), 40000, np.uint16))
    assert graph(tf.constant(encode(large)))["label"].numpy().max() == 40000
    assert graph(tf.constant(encode(make_chunk(label=None))))["label"].shape == (0, 0, 0)


def test_files_are_bit_for_bit_those_of_tensorflow(tmp_path):
    import tensorflow as tf

    records = [b"", b"a", bytes(range(256)) * 50]
    written = write_records(tmp_path / "ours", records)
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    ours = (tmp_path / "ours").read_bytes()
    assert ours == (tmp_path / "theirs").read_bytes()
    assert list(read_records(tmp_path / "theirs")) == records
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / "ours"))] == records
    # 0 + 1 + 12800 bytes of data and 16 of framing for each record
    assert written == {
        "records": 3,
        "bytes": 12801 + 48,
        "sha256": hashlib.sha256(ours).hexdigest(),
    }


def test_an_altered_byte_is_named_with_file_and_record(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"first", b"second"])
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # within "second"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tfrecord: record 1 has a wrong checksum\. "):
        list(read_records(path))
    data[0] ^= 1  # the length of "first"
    path.write_bytes(data)
    with pytest.raises(DataError, match="record 0 has a wrong checksum of its length"):
        list(read_records(path))


@pytest.mark.parametrize("kept", [-1, -8, 22, 25])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kept):
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"first", b"second"])  # 21 and 22 bytes
    path.write_bytes(path.read_bytes()[:kept])
    records = read_records(path)
    assert next(records) == b"first"
    with pytest.raises(DataError, match=r"a\.tfrecord: record 1 is cut off"):
        next(records)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"no TFRecord file .*none\.tfrecord"):
        list(read_records(tmp_path / "none.tfrecord"))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [b"old"])

    def failing():
        yield b"new"
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_records(path, failing())
    assert list(read_records(path)) == [b"old"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.tfrecord"]


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"image": np.full((3, 4, 5, 1), np.nan)}, DataError, "not finite"),
        ({"image": np.zeros((3, 4, 5))}, ShapeError, r"\(d, h, w, c\), got \(3, 4, 5\)"),
        ({"label": np.zeros((3, 4, 4), np.uint8)}, ShapeError, r"label must have shape \(3, 4, 5"),
        ({"label": np.zeros((3, 4, 5), np.int32)}, DataError, "uint8 or uint16, got int32"),
        ({"origin": np.zeros(2)}, ShapeError, r"origin must have shape \(3,\)"),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(changes, error, text):
    with pytest.raises(error, match="case hippocampus_001: .*" + text):
        encode(make_chunk(**changes))


def test_bytes_of_another_kind_or_schema_are_refused():
    import tensorflow as tf

    with pytest.raises(DataError, match=r"not a tf\.train\.Example"):
        decode_numpy(b"\xff\xff\xff")
    example = tf.train.Example.FromString(encode(make_chunk()))
    example.features.feature["label"].bytes_list.value[0] = b"\x00"
    with pytest.raises(DataError, match="'label' is corrupt"):
        decode_numpy(example.SerializeToString())
    del example.features.feature["label"]
    with pytest.raises(DataError, match="no feature 'label'"):
        decode_numpy(example.SerializeToString())
    example.features.feature["schema"].int64_list.value[0] = 7
    with pytest.raises(DataError, match=r"schema \[7\], this version reads 1"):
        decode_numpy(example.SerializeToString())


def test_writing_and_reading_do_not_import_tensorflow(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from data_prep.records import *\n"
        "c = Chunk('a', np.zeros((1, 1, 1, 1)), None, np.ones(3), np.eye(4), np.zeros(3),"
        " np.ones(3), np.zeros(2), np.zeros((0, 4)))\n"
        "write_records(sys.argv[1], [encode(c)])\n"
        "decode_numpy(next(read_records(sys.argv[1])))\n"
        "sys.exit('tensorflow' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)


def test_the_documented_reader_reads_the_files(tmp_path):
    text = (Path(__file__).resolve().parents[2] / "docs" / "records.md").read_text("utf-8")
    chunk = make_chunk()
    write_records(tmp_path / "a", [encode(chunk)])
    scope = {"files": [str(tmp_path / "a")]}
    exec(text.split("```python\n")[1].split("```")[0], scope)
    case, image, label = next(iter(scope["dataset"]))
    assert case == b"hippocampus_001"
    np.testing.assert_allclose(image, chunk.image, atol=1e-3)
    np.testing.assert_array_equal(label, chunk.label)
