"""Whole prepared cases, put together from the chunks that records hold."""

import itertools
from typing import NamedTuple

import numpy as np

from data_prep.manifest import shard_files
from data_prep.records import decode_numpy
from data_prep.records import read_records
from data_prep.synthetic import check_mark


class WholeCase(NamedTuple):
    """A prepared case, with what is true of it.

    Attributes:
        id: Name of the case.
        image: float32, shape `(d, h, w, channels)`, normalised.
        label: uint16 class indices, shape `(d, h, w)`; zeros without labels.
        source_label: Class indices on the source grid, or `None`.
        source_instance: uint16 ids of objects there; `None` in a data set without objects.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    source_label: np.ndarray | None
    source_instance: np.ndarray | None


def read_cases(folder, manifest, split):
    """Yields the `WholeCase` of each case of a split.

    Args:
        folder: Folder of the data set.
        manifest: Its manifest.
        split: Name of the split.

    Raises:
        DataError: As `shard_files` and `read_records`, or a case is synthetic where the manifest
            says nothing of it.
    """
    for path in shard_files(manifest, folder, [split]):
        chunks = map(decode_numpy, read_records(path))
        for case, parts in itertools.groupby(chunks, key=lambda chunk: chunk.case_id):
            parts = list(parts)
            check_mark(parts[0], manifest, path)
            yield _join(case, parts)


def _join(case, parts):
    first = parts[0]
    image = np.zeros((*first.case_shape, first.image.shape[-1]), np.float32)
    label = np.zeros(first.case_shape, np.uint16)
    for part in parts:
        ends = zip(part.origin, part.image.shape, strict=False)
        box = tuple(slice(start, start + length) for start, length in ends)
        image[box] = part.image
        if part.label is not None:
            label[box] = part.label
    return WholeCase(case, image, label, first.source_label, first.source_instance)
