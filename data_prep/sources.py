"""The records behind the patches of a stream: those of one data set, or of two in fixed shares.

Of each batch a synthetic data set has the same places, spread evenly, so that every replica and
worker has its share of them. The numbers of examples are those of the whole stream.
"""

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.reader import OPEN_FILES
from data_prep.reader import examples_per_round
from data_prep.reader import find_shards
from data_prep.reader import read_stream
from data_prep.synthetic import SPLIT
from data_prep.synthetic import places
from segkit.errors import ConfigError

_ALLOCATED = 1.5  # measured: what TensorFlow allocates over what its tensors hold


class Source(NamedTuple):
    """Records of one data set.

    Attributes:
        folder: Data set folder.
        shards: From `find_shards`.
        places: Which examples of each batch it makes, ints from 0.
        count: From `examples_per_round`.
        repeats: As there.
        synthetic: Whether its records must be marked as synthetic; else none may be.
    """

    folder: Path
    shards: list
    places: list
    count: int
    repeats: dict
    synthetic: bool

    @property
    def bytes(self):
        """Size of the records."""
        return sum(shard["bytes"] for shard in self.shards)


def find_sources(folder, manifest, splits, repeats, *, batch_size, labels, synthetic=None):
    """Returns the `Source`s of a stream, as many as have examples in a batch.

    Args:
        folder: Data set folder.
        manifest: Its manifest, as a dict.
        splits: Names of the splits to read.
        repeats: As in `examples_per_round`.
        batch_size: Examples per batch.
        labels: Whether the data sets must have labels.
        synthetic: `data_prep.synthetic.Synthetic`, or `None`.

    Raises:
        ConfigError, DataError: As `find_shards` and `examples_per_round`.
    """
    made = places(batch_size, synthetic.count if synthetic else 0)
    real = sorted(set(range(batch_size)) - set(made))
    sources = []
    if real:
        shards = find_shards(folder, manifest, splits, labels=labels)
        count = examples_per_round(manifest, shards, repeats)
        sources.append(Source(folder, shards, real, count, repeats, "synthetic" in manifest))
    if made:
        shards = find_shards(synthetic.folder, synthetic.manifest, (SPLIT,), labels=labels)
        count = examples_per_round(synthetic.manifest, shards, {})
        sources.append(Source(synthetic.folder, shards, made, count, {}, True))
    return sources


def read_sources(sources, *, batch_size, start, stop, memory_bytes, **options):
    """Returns the stream of records.

    Args:
        sources: From `find_sources`.
        batch_size: As there.
        start: As in `read_stream`.
        stop: As in `read_stream`.
        memory_bytes: As in `read_stream`, for all sources together.
        **options: `seed` and `foreground_fraction` of `read_stream`.

    Returns:
        `tf.data.Dataset` of `(index, order, synthetic, serialized)`: int64 number of the example
        in the stream and among those of its source, whether that is synthetic, bool, and the
        serialized record, a scalar string.
    """
    total = sum(source.bytes for source in sources)

    def read(source):
        before = [n if n is None else _before(source.places, batch_size, n) for n in (start, stop)]
        records = read_stream(
            source.folder,
            source.shards,
            count=source.count,
            repeats=source.repeats,
            batch_size=len(source.places),
            start=before[0],
            stop=before[1],
            memory_bytes=memory_bytes * source.bytes // total,
            **options,
        )
        return records.map(_numbered(source, batch_size))

    streams = [read(source) for source in sources]
    if len(streams) == 1:
        return streams[0]
    turns = np.isin(np.arange(batch_size), sources[1].places).astype(np.int64)
    turns = tf.data.Dataset.from_tensor_slices(np.roll(turns, -(start % batch_size))).repeat()
    return tf.data.Dataset.choose_from_datasets(streams, turns)


def share_memory(memory, box, batch_size, channels, sources, parallel):
    """Bytes for records, the number of examples made at once and of batches kept ready.

    Args:
        memory: Bytes that the stream may hold.
        box: Sides of the patches that leave it.
        batch_size: Examples per batch.
        channels: Channels of a patch.
        sources: From `find_sources`.
        parallel: Examples to make at once, or `None`.

    Raises:
        ConfigError: Memory for one batch is lacking.
    """
    voxels = math.prod(box)
    shards = [shard for source in sources for shard in source.shards]
    record = max(shard["bytes"] // shard["records"] for shard in shards)
    records = sum(source.bytes for source in sources)
    opened = sum(min(OPEN_FILES, len(source.shards)) for source in sources)
    example = int(_ALLOCATED * (4 * record + voxels * (16 * channels + 32)))
    batch = int(_ALLOCATED * batch_size * voxels * (4 * channels + 4))
    reading = int(_ALLOCATED * 2 * opened * record)
    # Besides those kept ready: one being filled, one stacked, one mixed and one in use.
    left = memory - min(records, memory // 2) - reading - 4 * batch
    parallel = max(1, min(parallel or os.cpu_count(), (left - batch) // example))
    prefetch = min(8, (left - parallel * example) // batch)
    if prefetch < 1:
        patches = reading + example + 5 * batch
        least = -(-min(2 * patches, records + patches) >> 20)
        raise ConfigError(
            f"data.memory_mb is {memory >> 20}, but patches of {list(box)} in batches of "
            f"{batch_size} need {least}. Set data.memory_mb={least}, or a smaller batch or patch."
        )
    # Records that come and go leave holes in the heap, as large as what is held of them.
    return records if records <= memory // 2 else memory // 4, parallel, prefetch


def _before(places, batch_size, index):
    """How many of the examples 0..index-1 of the stream a source makes."""
    batches, rest = divmod(index, batch_size)
    return batches * len(places) + sum(place < rest for place in places)


def _numbered(source, batch_size):
    """The function from what `read_stream` yields to what `read_sources` does."""
    own, table = len(source.places), tf.constant(source.places, tf.int64)

    def number(order, serialized):
        index = order // own * batch_size + tf.gather(table, order % own)
        return index, order, tf.constant(source.synthetic), serialized

    return number
