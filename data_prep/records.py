"""The record: one chunk of one case as a `tf.train.Example` in a TFRecord file.

`FEATURES` is the whole specification; the encoder, the TensorFlow decoder and the NumPy decoder
below follow it. Nothing here imports TensorFlow except inside `decode`, so that a converter
process costs megabytes and not seconds. How to read the files without segkit: `docs/records.md`.
"""

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from google.protobuf import message

from data_prep.example import example_class
from segkit.errors import DataError
from segkit.errors import ShapeError

SCHEMA = 1
LABEL_DTYPES = ("uint8", "uint16")


@dataclass(frozen=True)
class Feature:
    """How one feature is stored.

    Attributes:
        kind: `"int64"` (an int64 list), `"text"` (UTF-8), or the NumPy dtype of an array stored
            as raw little-endian bytes in C order; `"label"`: the dtype that `NAME_dtype` states.
        shape: Length per axis; a letter stands for an entry of `shape` = (d, h, w, c),
            `None` for any length.
        packed: `True` where the raw bytes are compressed with zlib.
    """

    kind: str
    shape: tuple = ()
    packed: bool = False


FEATURES = {
    "schema": Feature("int64", (1,)),
    "case_id": Feature("text"),
    "shape": Feature("int64", (4,)),
    "image": Feature("<i2", ("d", "h", "w", "c")),
    "slope": Feature("<f4", ("c",)),
    "intercept": Feature("<f4", ("c",)),
    "label": Feature("label", ("d", "h", "w")),
    "label_dtype": Feature("text"),
    "spacing_mm": Feature("<f8", (3,)),
    "affine": Feature("<f8", (4, 4)),
    "origin": Feature("int64", (3,)),
    "case_shape": Feature("int64", (3,)),
    "class_counts": Feature("int64", (None,)),
    "foreground": Feature("<i4", (None, 4)),
    "source_label": Feature("label", ("source_d", "source_h", "source_w"), packed=True),
    "source_label_dtype": Feature("text"),
    "source_shape": Feature("int64", (None,)),
}

# Only in records of a data set with objects: those of others keep their bytes.
INSTANCES = {
    "instance": Feature("<u2", ("d", "h", "w"), packed=True),
    "source_instance": Feature("<u2", ("source_d", "source_h", "source_w"), packed=True),
}
# Only in records of cases that no scanner saw.
SYNTHETIC = {"synthetic": Feature("text")}


@dataclass(frozen=True, eq=False)
class Chunk:
    """A box cut out of a prepared case, with what sampling and evaluation need to know of it.

    Attributes:
        case_id: Name of the case; no patient identifier.
        image: float32, shape `(d, h, w, c)`, normalised.
        label: uint8 or uint16 class indices, shape `(d, h, w)`, or `None`.
        spacing_mm: Voxel size per axis, shape `(3,)`.
        affine: Voxel index of the chunk to RAS+ mm, shape `(4, 4)`.
        origin: Index of the chunk's first voxel in the prepared case, shape `(3,)`.
        case_shape: Shape of the prepared case, `(3,)`.
        class_counts: int64, shape `(K,)`: voxels of each class in the chunk.
        foreground: int32, shape `(n, 4)`: sampled voxels `(class, k, j, i)` within the chunk.
        source_label: uint8 or uint16 on the source grid; only in the chunk of origin 0.
        instance: uint16, shape `(d, h, w)`: which object a voxel belongs to, 0 none; ids are those
            of the case. `None` in a data set without objects.
        source_instance: uint16 ids on the source grid, beside `source_label`.
        synthetic: What a network made the case of; `None` of a real case.
    """

    case_id: str
    image: np.ndarray
    label: np.ndarray | None
    spacing_mm: np.ndarray
    affine: np.ndarray
    origin: np.ndarray
    case_shape: np.ndarray
    class_counts: np.ndarray
    foreground: np.ndarray
    source_label: np.ndarray | None = None
    instance: np.ndarray | None = None
    source_instance: np.ndarray | None = None
    synthetic: str | None = None


def encode(chunk):
    """Returns a chunk as a serialized `tf.train.Example`; equal chunks give equal bytes.

    The image is stored as int16 with a slope and intercept per channel, chosen over the channel's
    own range: the error is at most half of (max - min) / 65535.

    Args:
        chunk: `Chunk`.

    Raises:
        ShapeError: Arrays of the chunk do not fit each other.
        DataError: The image has values that are not finite, or a label is not uint8/uint16.
    """
    stored, slope, intercept = _quantise(chunk)
    values = {
        "schema": [SCHEMA],
        "case_id": chunk.case_id,
        "shape": stored.shape,
        "image": stored,
        "slope": slope,
        "intercept": intercept,
        "label": chunk.label,
        "label_dtype": _label_dtype(chunk, "label"),
        "spacing_mm": chunk.spacing_mm,
        "affine": chunk.affine,
        "origin": chunk.origin,
        "case_shape": chunk.case_shape,
        "class_counts": chunk.class_counts,
        "foreground": np.asarray(chunk.foreground).reshape(-1, 4),
        "source_label": chunk.source_label,
        "source_label_dtype": _label_dtype(chunk, "source_label"),
        "source_shape": () if chunk.source_label is None else chunk.source_label.shape,
        "instance": chunk.instance,
        "source_instance": chunk.source_instance,
        "synthetic": chunk.synthetic,
    }
    features = _present(instances=chunk.instance is not None, synthetic=bool(chunk.synthetic))
    example = example_class()()
    for name, feature in features.items():
        entry, value = example.features.feature[name], values[name]
        if feature.kind == "int64":
            value = np.asarray(value, dtype=np.int64)
            _check_shape(chunk, name, value.shape, _resolved(feature, values))
            entry.int64_list.value.extend(value.tolist())
        else:
            entry.bytes_list.value.append(_to_bytes(chunk, name, value, values))
    return example.SerializeToString(deterministic=True)


def decode(serialized, *, instances=False):
    """Parses one record with TensorFlow operations; the image stays int16, so a crop is cheap.

    Args:
        serialized: Scalar string tensor, as `tf.data.TFRecordDataset` yields it.
        instances: Parse the ids of objects too, which the record must have.

    Returns:
        Dict feature name -> tensor, all of `FEATURES` but the source label's: `image` int16
        `(d, h, w, c)`, to be read as `image * slope + intercept` with float32 `(c,)` each;
        `label` uint16 `(d, h, w)`, or `(0, 0, 0)` where the record has none; `spacing_mm` and
        `affine` float64; `foreground` int32 `(n, 4)`; `shape`, `origin`, `case_shape` and
        `class_counts` int64; `synthetic`, empty of a real case; with `instances`, `instance`
        uint16 `(d, h, w)`.
    """
    import tensorflow as tf

    known = _present(instances=instances, synthetic=False)
    features = {name: f for name, f in known.items() if not name.startswith("source_")}
    specification = {name: _tf_feature(tf, feature) for name, feature in features.items()}
    specification["synthetic"] = tf.io.FixedLenFeature([], tf.string, "")
    parsed = tf.io.parse_single_example(serialized, specification)
    sizes = dict(zip("dhwc", tf.unstack(parsed["shape"]), strict=True))
    for name, feature in features.items():
        if feature.kind in ("int64", "text"):
            continue
        shape = [sizes.get(n, -1 if n is None else n) for n in feature.shape]
        if feature.kind == "label":
            labelled = tf.strings.length(parsed[name]) > 0
            shape = tf.where(labelled, shape, tf.zeros_like(shape))
            parsed[name] = tf.cond(
                parsed[f"{name}_dtype"] == "uint16",
                lambda raw=parsed[name]: tf.io.decode_raw(raw, tf.uint16),
                lambda raw=parsed[name]: tf.cast(tf.io.decode_raw(raw, tf.uint8), tf.uint16),
            )
        else:
            raw = parsed[name]
            raw = tf.io.decode_compressed(raw, "ZLIB") if feature.packed else raw
            parsed[name] = tf.io.decode_raw(raw, np.dtype(feature.kind).name)
        parsed[name] = tf.reshape(parsed[name], shape)
    return parsed


def decode_numpy(serialized):
    """Parses one record into a `Chunk` without TensorFlow.

    Args:
        serialized: The record's bytes.

    Raises:
        DataError: The bytes are no record of this schema.
    """
    example = example_class()()
    try:
        example.ParseFromString(serialized)
    except message.DecodeError as error:
        raise DataError(f"the record is not a tf.train.Example ({error}).") from error
    stored, found = example.features.feature, {}
    schema = list(stored["schema"].int64_list.value)
    if schema != [SCHEMA]:
        raise DataError(
            f"the record has schema {schema}, this version reads {SCHEMA}. "
            "Prepare the data set again with this version."
        )
    features = _present(instances="instance" in stored, synthetic="synthetic" in stored)
    for name, feature in features.items():
        if feature.kind == "int64":
            found[name] = np.array(stored[name].int64_list.value, dtype=np.int64)
        elif not stored[name].bytes_list.value:
            raise DataError(f"the record has no feature {name!r}. Prepare the data set again.")
        elif feature.kind == "text":
            found[name] = stored[name].bytes_list.value[0].decode("utf-8")
        else:
            found[name] = stored[name].bytes_list.value[0]
    for name, feature in features.items():
        if feature.kind not in ("int64", "text"):
            found[name] = _from_bytes(name, feature, found)
    image = found["image"] * found["slope"] + found["intercept"]
    kept = {name: found[name] for name in Chunk.__dataclass_fields__ if name in found}
    del kept["image"]
    return Chunk(image=image, **kept)


def write_records(path, records):
    """Writes a TFRecord file that appears whole under its name or not at all.

    Args:
        path: File to write.
        records: Iterable of bytes, one entry per record.

    Returns:
        Dict `{"records": count, "bytes": size of the file, "sha256": hex digest of the file}`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count, size, digest = 0, 0, hashlib.sha256()
    try:
        with open(temporary, "wb") as file:
            for count, record in enumerate(records, start=1):  # noqa: B007
                length = struct.pack("<Q", len(record))
                for part in (length, _masked_crc(length), record, _masked_crc(record)):
                    file.write(part)
                    digest.update(part)
                    size += len(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {"records": count, "bytes": size, "sha256": digest.hexdigest()}


def read_records(path):
    """Yields the bytes of each record of a TFRecord file, checksums verified.

    Args:
        path: File to read.

    Raises:
        DataError: The file is missing, cut off or altered; names the file and the record's index.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no TFRecord file {path}. Prepare the data set again.")
    remaining = path.stat().st_size
    with open(path, "rb") as file:
        index = 0
        while remaining:
            head = file.read(12)
            if len(head) < 12:
                raise _broken(path, index, "is cut off")
            if _masked_crc(head[:8]) != head[8:]:
                raise _broken(path, index, "has a wrong checksum of its length")
            length = struct.unpack("<Q", head[:8])[0]
            remaining -= length + 16
            if remaining < 0:
                raise _broken(path, index, "is cut off")
            record = file.read(length)
            if _masked_crc(record) != file.read(4):
                raise _broken(path, index, "has a wrong checksum")
            yield record
            index += 1


def _present(*, instances, synthetic):
    """The specification of a record with objects, or of a synthetic case."""
    return FEATURES | (INSTANCES if instances else {}) | (SYNTHETIC if synthetic else {})


def _broken(path, index, what):
    return DataError(f"{path}: record {index} {what}. Restore the file or prepare the data again.")


def _masked_crc(data):
    """CRC-32C as TFRecord stores it: rotated and offset, little endian."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _quantise(chunk):
    """Returns `(int16 image, slope, intercept)`; a constant channel is stored exactly."""
    image = np.asarray(chunk.image)
    if image.ndim != 4 or 0 in image.shape:
        raise ShapeError(f"case {chunk.case_id}: a chunk is (d, h, w, c), got {image.shape}.")
    if not np.isfinite(image).all():
        raise DataError(f"case {chunk.case_id}: the image holds values that are not finite.")
    low = image.min(axis=(0, 1, 2)).astype(np.float64)
    slope = ((image.max(axis=(0, 1, 2)) - low) / 65535).astype(np.float32)
    constant = slope == 0
    intercept = np.where(constant, low, low + 32768.0 * slope).astype(np.float32)
    slope = np.where(constant, np.float32(1), slope)
    levels = np.rint((image - intercept.astype(np.float64)) / slope)
    return np.clip(levels, -32768, 32767).astype("<i2"), slope, intercept


def _label_dtype(chunk, name):
    label = getattr(chunk, name)
    if label is None:
        return ""
    if label.dtype.name not in LABEL_DTYPES:
        raise DataError(
            f"case {chunk.case_id}: {name} must be uint8 or uint16, got {label.dtype.name}."
        )
    return label.dtype.name


def _resolved(feature, values):
    """The feature's shape with letters replaced by lengths; `None` where any length will do."""
    sizes = dict(zip("dhwc", values["shape"], strict=True))
    sizes |= dict(zip(("source_d", "source_h", "source_w"), values["source_shape"], strict=False))
    return tuple(sizes.get(n, n) for n in feature.shape)


def _to_bytes(chunk, name, value, values):
    feature = _present(instances=True, synthetic=True)[name]
    if feature.kind == "text":
        return value.encode("utf-8")
    if value is None:
        return b""
    dtype = np.dtype(values[f"{name}_dtype"] if feature.kind == "label" else feature.kind)
    value = np.asarray(value)
    _check_shape(chunk, name, value.shape, _resolved(feature, values))
    raw = value.astype(dtype.newbyteorder("<")).tobytes()
    return zlib.compress(raw, 6) if feature.packed else raw


def _from_bytes(name, feature, found):
    dtype, raw = found.get(f"{name}_dtype", feature.kind), found[name]
    if not dtype:
        return None
    try:
        if feature.packed and not raw:
            return None
        raw = zlib.decompress(raw) if feature.packed else raw
        shape = [-1 if n is None else int(n) for n in _resolved(feature, found)]
        return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    except (ValueError, TypeError, zlib.error) as error:
        raise DataError(f"the record's feature {name!r} is corrupt ({error}).") from error


def _check_shape(chunk, name, shape, expected):
    if len(shape) != len(expected) or any(
        e not in (None, n) for n, e in zip(shape, expected, strict=True)
    ):
        raise ShapeError(
            f"case {chunk.case_id}: {name} must have shape {expected} beside an image of shape "
            f"{np.shape(chunk.image)}, got {shape}."
        )


def _tf_feature(tf, feature):
    if feature.kind != "int64":
        return tf.io.FixedLenFeature([], tf.string)
    if feature.shape == (None,):
        return tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    return tf.io.FixedLenFeature(feature.shape, tf.int64)
