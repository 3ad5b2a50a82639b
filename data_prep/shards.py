"""Which case goes into which file, and how a large case is cut into overlapping chunks.

Everything here is a pure function of the cases and options, so the files do not depend on the
number of workers or on the order in which work ends.
"""

import hashlib
import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from data_prep.fingerprint import checked_indices
from data_prep.fingerprint import checked_objects
from data_prep.fingerprint import seed_of
from data_prep.instances import prepare_ids
from data_prep.instances import split_slices
from data_prep.preprocess import prepare
from data_prep.records import Chunk
from segkit.errors import ConfigError
from segkit.outputs import ignored_class
from segkit.volume import Volume

TARGET_BYTES = 128 * 2**20
MIN_SHARDS = 4
FOREGROUND_PER_CLASS = 500


@dataclass(frozen=True)
class ShardSpec:
    """One file to write.

    Attributes:
        file: Its name, such as `"fold0-00000-of-00004.tfrecord"`.
        split: Name of its split, such as `"fold0"`.
        cases: Ids of its cases, in the order of their records.
        records: Number of its records: the cases' chunks.
    """

    file: str
    split: str
    cases: tuple[str, ...]
    records: int


def plan_shards(splits, shapes, *, num_channels, chunk, overlap, in_order=False):
    """Assigns cases to files: sorted by a hash of the id, then cut into runs of equal length.

    A split gets one file per 128 MiB, at least four where it has as many cases, and no empty one.

    Args:
        splits: Case id -> name of its split.
        shapes: Case id -> shape `(d, h, w)` of the prepared case.
        num_channels: Channels of the image.
        chunk: Longest side of a chunk, in voxels.
        overlap: Overlap of neighbouring chunks, in voxels.
        in_order: Keep the order of `splits` in place of that of the hashes.

    Returns:
        List of `ShardSpec`, sorted by file name.
    """
    boxes = {case: chunk_boxes(shapes[case], chunk=chunk, overlap=overlap) for case in splits}
    voxels = {case: sum(math.prod(size) for _, size in boxes[case]) for case in splits}
    shards = []
    for split in sorted(set(splits.values())):
        cases = [case for case in splits if splits[case] == split]
        cases = cases if in_order else sorted(cases, key=_hash)
        # Two bytes per image voxel and channel, one for the label.
        size = sum(voxels[case] for case in cases) * (2 * num_channels + 1)
        count = min(len(cases), max(MIN_SHARDS, math.ceil(size / TARGET_BYTES)))
        for index in range(count):
            low, high = (len(cases) * n // count for n in (index, index + 1))
            shards.append(
                ShardSpec(
                    file=f"{split}-{index:05d}-of-{count:05d}.tfrecord",
                    split=split,
                    cases=tuple(cases[low:high]),
                    records=sum(len(boxes[case]) for case in cases[low:high]),
                )
            )
    return shards


def chunk_boxes(shape, *, chunk, overlap):
    """Cuts a volume into overlapping boxes that cover every voxel.

    Any patch with sides of at most `overlap` lies wholly in one box.

    Args:
        shape: `(d, h, w)` of the volume.
        chunk: Longest side of a box, in voxels.
        overlap: Least overlap of neighbouring boxes, in voxels.

    Returns:
        List of `(origin, size)`, each a tuple of three; one box for a volume that fits into it.
    """
    origins = product(*(chunk_starts(n, chunk=chunk, overlap=overlap) for n in shape))
    size = tuple(min(n, chunk) for n in shape)
    return [(origin, size) for origin in origins]


def chunk_starts(length, *, chunk, overlap):
    """Returns where the chunks along one axis begin: as few as needed, evenly spaced.

    Raises:
        ConfigError: Unless `0 <= overlap < chunk`.
    """
    if not 0 <= overlap < chunk:
        raise ConfigError(
            f"chunks need 0 <= overlap < chunk, got chunk {chunk} and overlap {overlap}. "
            "Give an overlap of at least the largest patch that will be cropped."
        )
    if length <= chunk:
        return [0]
    count = math.ceil((length - chunk) / (chunk - overlap)) + 1
    # Rounding down keeps each step at most ceil(mean step) <= chunk - overlap.
    return [(length - chunk) * n // (count - 1) for n in range(count)]


def case_chunks(case, dataset, plan, *, chunk, overlap, in_slices=False):
    """Reads and prepares one case and cuts it.

    Args:
        case: `RawCase`.
        dataset: `RawDataset` it belongs to.
        plan: `Plan`.
        chunk: Longest side of a chunk, in voxels.
        overlap: Overlap of neighbouring chunks, in voxels.
        in_slices: Make an object of each part of an object in a slice of the prepared grid; those
            on the source grid stay whole.

    Yields:
        `Chunk`, the one at origin 0 first; that one carries label and ids on the source grid.
    """
    image, label, *objects = dataset.read(case)
    source = source_ids = ids = None
    if label is not None and dataset.classes:
        source = checked_indices(case, image, label, dataset.classes)
        source_ids = checked_objects(case, objects, source, dataset.classes)
    prepared = prepare(image, None if source is None else Volume(source, image.affine), plan)
    if source_ids is not None:
        ids = prepare_ids(source_ids, source, prepared, image)
        ids = split_slices(ids) if in_slices else ids
    yield from cut_case(
        case.id,
        prepared.image,
        prepared.label,
        classes=dataset.classes,
        spacing_mm=prepared.geometry["spacing_mm"],
        affine=prepared.affine,
        chunk=chunk,
        overlap=overlap,
        ids=ids,
        source_label=source,
        source_instance=source_ids,
    )


def cut_case(
    case,
    image,
    label,
    *,
    classes,
    spacing_mm,
    affine,
    chunk,
    overlap,
    ids=None,
    synthetic=None,
    **on_source_grid,
):
    """Cuts a prepared case into chunks.

    Args:
        case: Its id.
        image: float32, shape `(d, h, w, c)`.
        label: Class indices `(d, h, w)`, or `None`.
        classes: Names of the classes.
        spacing_mm: Voxel size per axis, three numbers.
        affine: Voxel index to RAS+ mm, shape `(4, 4)`.
        chunk: As in `case_chunks`.
        overlap: As in `case_chunks`.
        ids: Which object a voxel belongs to, `(d, h, w)`, or `None`.
        synthetic: As in `Chunk`.
        **on_source_grid: `source_label` and `source_instance` of `Chunk`.

    Yields:
        `Chunk`, the one at origin 0 first.
    """
    shape, ignored = image.shape[:3], ignored_class(classes)
    for origin, size in chunk_boxes(shape, chunk=chunk, overlap=overlap):
        box = tuple(slice(o, o + n) for o, n in zip(origin, size, strict=True))
        piece = None if label is None else label[box]
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :3] @ origin
        yield Chunk(
            case_id=case,
            image=image[box],
            label=piece,
            spacing_mm=np.array(spacing_mm),
            affine=moved,
            origin=np.array(origin),
            case_shape=np.array(shape),
            class_counts=class_counts(piece, len(classes)),
            foreground=sample_foreground(piece, seed_of(f"{case} {origin}"), ignored),
            instance=None if ids is None else ids[box],
            synthetic=synthetic,
            **({} if any(origin) else on_source_grid),
        )


def class_counts(label, num_classes):
    """Returns the voxels of each class, int64 `(num_classes,)`; zeros without a label."""
    if label is None:
        return np.zeros(num_classes, dtype=np.int64)
    return np.bincount(label.reshape(-1), minlength=num_classes).astype(np.int64)


def sample_foreground(label, seed, ignore_label=None):
    """Returns up to 500 voxels of each class but the background and the one to be ignored.

    Args:
        label: Class indices `(d, h, w)`, or `None`.
        seed: Seed of the choice.
        ignore_label: Class index to leave out, or `None`.

    Returns:
        int32, shape `(n, 4)`: rows `(class, k, j, i)`, sorted.
    """
    if label is None:
        return np.zeros((0, 4), dtype=np.int32)
    rng = np.random.default_rng(seed)
    flat = label.reshape(-1)
    where = np.flatnonzero((flat > 0) & (flat != ignore_label))
    rows = []
    for index in np.unique(flat[where]):
        voxels = where[flat[where] == index]
        if len(voxels) > FOREGROUND_PER_CLASS:
            voxels = np.sort(rng.choice(voxels, FOREGROUND_PER_CLASS, replace=False))
        rows.append(np.stack([np.full(len(voxels), index), *np.unravel_index(voxels, label.shape)]))
    return np.concatenate(rows, axis=1).T.astype(np.int32) if rows else sample_foreground(None, 0)


def _hash(case_id):
    return hashlib.sha256(f"segkit shard {case_id}".encode()).digest()
