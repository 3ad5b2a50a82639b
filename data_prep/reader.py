"""From TFRecord shards to an endless, shuffled stream of numbered records, with `tf.data`.

The stream runs in rounds of as many examples as there are records, those of each case counted as
often as its repeats say. In each round the records are shuffled anew; every
`1 / foreground_fraction`-th example takes the next record that holds foreground, the others the
next record of all.
"""

import contextlib
import difflib
import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_prep.records import decode_numpy
from data_prep.records import read_records
from data_prep.shards import chunk_boxes
from data_prep.synthetic import check_mark
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import nearest

OPEN_FILES = 4


def find_shards(folder, manifest, splits, *, labels=True):
    """Returns the manifest's entries of the shards to read, in a fixed order.

    Args:
        folder: Data set folder.
        manifest: Its manifest, as a dict.
        splits: Names of the splits to read.
        labels: Whether the data set must have labels.

    Raises:
        DataError: The data set has no labels, no such split, or a shard is missing or cut off.
    """
    if labels and not manifest["classes"]:
        raise DataError(
            f"the data set {folder} has no labels. Prepare one that has, to train on it."
        )
    known = {shard["split"] for shard in manifest["shards"]}
    for split in splits:
        if split not in known:
            raise DataError(
                f"the data set {folder} has no records in split {split!r}. {nearest(split, known)}"
            )
    shards = [shard for shard in manifest["shards"] if shard["split"] in splits]
    for shard in shards:
        path = Path(folder) / shard["file"]
        size = path.stat().st_size if path.is_file() else 0
        if size != shard["bytes"]:
            raise DataError(
                f"{path}: the shard has {size} bytes, the manifest says {shard['bytes']}. "
                "Restore the file or prepare the data again."
            )
    return sorted(shards, key=lambda shard: shard["file"])


def examples_per_round(manifest, shards, repeats):
    """Returns the number of examples in a round of the stream.

    Args:
        manifest: The data set's manifest, as a dict.
        shards: From `find_shards`.
        repeats: Case id -> how often its records are seen in a round; once where not named.

    Raises:
        ConfigError: A case that the data set does not have, or no example is left.
    """
    if not repeats:
        return sum(shard["records"] for shard in shards)
    known = manifest["cases"]
    for case in repeats:
        if case not in known:
            closest = difflib.get_close_matches(case, known, n=1, cutoff=0)[0]
            raise ConfigError(
                f"data.repeats names the case {case!r}, which the data set does not have. "
                f"Did you mean {closest!r}?"
            )
    chunk, overlap = (manifest["options"][key] for key in ("chunk", "chunk_overlap"))
    count = sum(
        repeats.get(case, 1) * len(chunk_boxes(known[case]["shape"], chunk=chunk, overlap=overlap))
        for shard in shards
        for case in shard["cases"]
    )
    if not count:
        raise ConfigError(
            "data.repeats leaves out every case of the training folds. Set one of them above 0."
        )
    return count


def read_stream(
    folder,
    shards,
    *,
    count,
    repeats,
    seed,
    foreground_fraction,
    batch_size,
    start,
    stop,
    memory_bytes,
):
    """Returns the stream of records, in rounds.

    As few rounds as fill whole batches belong together: where workers of a `tf.data` service
    share the stream, each takes such a group, so that they make the batches of a single worker.

    Args:
        folder: Data set folder.
        shards: From `find_shards`.
        count: From `examples_per_round`.
        repeats: As there.
        seed: Seed of the order.
        foreground_fraction: Share of the examples that take a record with foreground.
        batch_size: Size of the batches that the stream will be cut into.
        start: Number of the first example; leaving others out costs less than one round.
        stop: Number of the example after the last one; `None`: the stream never ends.
        memory_bytes: Records are held in memory, and shuffled completely, when all of them
            take at most this much; otherwise as many of them as fit are shuffled.

    Returns:
        `tf.data.Dataset` of `(index, serialized)`: int64 number of the example, from `start`,
        and the serialized record, a scalar string.
    """
    stored = sum(shard["records"] for shard in shards)
    size = sum(shard["bytes"] for shard in shards)
    records = _records([str(Path(folder) / shard["file"]) for shard in shards])
    if repeats:
        records = records.flat_map(_copies_of(repeats))
    if size <= memory_bytes:
        records = records.cache()
        buffer = count + 1  # one more than there is: the cache is only kept once it saw the end
    else:
        buffer = max(1, stored * memory_bytes // (2 * size))  # two buffers: see _one_round
    stop = np.iinfo(np.int64).max if stop is None else stop
    together = batch_size // math.gcd(count, batch_size)

    def one_round(number):
        examples = _one_round(records, count, buffer, number, seed, foreground_fraction)
        examples = examples.take(tf.maximum(stop - number * count, 0))
        return examples.skip(tf.maximum(start - number * count, 0))

    def one_group(number):
        first = tf.maximum(number * together, start // count)
        return tf.data.Dataset.range(first, (number + 1) * together).flat_map(one_round)

    group = together * count
    return tf.data.Dataset.range(start // group, -(-stop // group)).flat_map(one_group)


def is_forced(index, fraction):
    """Returns whether an example is centred on foreground; spreads the share evenly.

    Of examples 0..n-1, floor(n * fraction) are.
    """
    index = tf.cast(index, tf.float64)
    return tf.floor((index + 1) * fraction) > tf.floor(index * fraction)


@contextlib.contextmanager
def reading_errors(folder, manifest):
    """Turns TensorFlow's error about an unreadable record into one that names the shard.

    Wrap the loop that consumes the data set: `with reading_errors(folder, manifest): fit(...)`.

    Args:
        folder: Data set folder.
        manifest: Its manifest, as a dict.

    Raises:
        DataError: A shard is corrupt; names it and the record's index. Or a record is synthetic
            where the manifest says nothing of it.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        for shard in manifest["shards"]:
            path = Path(folder) / shard["file"]
            for record in read_records(path):
                check_mark(decode_numpy(record), manifest, path)
        raise


def _records(files):
    """Serialized records of all files in turns; `OPEN_FILES` are read at once, one record ahead.

    `interleave(num_parallel_calls=...)` keeps dozens of records ready, more than a budget allows.
    """
    return tf.data.Dataset.from_tensor_slices(files).interleave(
        lambda file: tf.data.TFRecordDataset(file).prefetch(1), cycle_length=OPEN_FILES
    )


def _copies_of(repeats):
    """The function from a record to the data set of its copies, which share its memory."""
    cases = tf.constant(list(repeats))
    more = tf.constant([count - 1 for count in repeats.values()], tf.int64)

    def copies(serialized):
        features = {"case_id": tf.io.FixedLenFeature([], tf.string)}
        case = tf.io.parse_single_example(serialized, features)["case_id"]
        count = 1 + tf.reduce_sum(tf.where(cases == case, more, 0))
        return tf.data.Dataset.from_tensors(serialized).repeat(count)

    return copies


def _one_round(records, count, buffer, number, seed, fraction):
    """Numbered records of examples `number * count` up to `(number + 1) * count`."""
    # `shuffle` mixes a global seed into its own; this fixes the one of this function's graph only.
    tf.compat.v1.set_random_seed(1)
    seeds = tf.random.stateless_uniform([2], [seed, number], 0, tf.int64.max, tf.int64)
    anything, foreground = (
        records.shuffle(buffer, seed=seeds[n], reshuffle_each_iteration=False) for n in (0, 1)
    )
    # Repeating records ends at once when none is left; any record serves where none has foreground.
    foreground = foreground.filter(_has_foreground).repeat().concatenate(foreground)
    index = number * count + tf.range(count, dtype=tf.int64)
    forced = tf.data.Dataset.from_tensor_slices(tf.cast(is_forced(index, fraction), tf.int64))
    chosen = tf.data.Dataset.choose_from_datasets(
        [anything, foreground], forced, stop_on_empty_dataset=False
    )
    return tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(index), chosen)


def _has_foreground(serialized):
    features = {"foreground": tf.io.FixedLenFeature([], tf.string)}
    return tf.strings.length(tf.io.parse_single_example(serialized, features)["foreground"]) > 0
