"""From TFRecord shards to batches of patches, with `tf.data`.

The stream is a pure function of the data set, the options and the seed: example `i` is always
the same patch, whatever the parallelism, the number of replicas or the step a run resumes from.
It runs in rounds of as many examples as there are records. In each round the records are
shuffled anew; every `1 / foreground_fraction`-th example takes the next record that holds
foreground and centres on a voxel of it, the others take the next record and any place in it.
"""

import contextlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_prep.augment import intensity
from data_prep.augment import spatial
from data_prep.records import decode
from data_prep.records import read_records
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import nearest

_AUTOTUNE = tf.data.AUTOTUNE


def build_dataset(
    folder,
    manifest,
    splits,
    *,
    patch_size,
    batch_size,
    seed,
    foreground_fraction=1 / 3,
    augment=None,
    start_index=0,
    batches=None,
    memory_bytes=1 << 30,
    num_parallel_calls=_AUTOTUNE,
):
    """Builds the stream of patches of one or more splits.

    Args:
        folder: Data set folder, the one that holds `dataset.json` and the shards.
        manifest: Its manifest, as a dict.
        splits: Names of the splits to read, such as `("fold1", "fold2")`.
        patch_size: `(height, width)` draws slices, `(depth, height, width)` draws volumes, in
            voxels. Where a chunk is smaller than the patch, both are centred on each other and
            the rest is 0.
        batch_size: Examples per batch; every batch is full.
        seed: Seed of order, patches and augmentation; an int of 0 or more.
        foreground_fraction: Share of examples centred on foreground, in [0, 1]: a class drawn
            from those that the record holds, then a voxel of that class.
        augment: Object with the attributes of `segkit.config.AugmentConfig`, or `None`.
        start_index: Number of examples to leave out at the start: resuming after `n` batches
            takes `n * batch_size`, and costs less than one round.
        batches: Number of batches after which the stream ends, the same ones in every
            iteration (validation); `None`: it never ends (training).
        memory_bytes: Records are held in memory, and shuffled completely, when all of them
            take at most this much; otherwise as many of them as fit are shuffled.
        num_parallel_calls: Examples made at once.

    Returns:
        `tf.data.Dataset` of `(image, label)`: float32 `(batch, *patch_size, channels)` and
        int32 `(batch, *patch_size)`, class indices. Its cardinality is exact.

    Raises:
        ConfigError: `patch_size` has neither 2 nor 3 entries.
        DataError: The data set has no labels, no such split, or a shard is missing or cut off.
    """
    if len(patch_size) not in (2, 3):
        raise ConfigError(
            f"data.patch_size needs 2 or 3 entries, got {list(patch_size)}. Write [height, width] "
            "for slices or [depth, height, width] for volumes."
        )
    shards = _shards(folder, manifest, splits)
    count = sum(shard["records"] for shard in shards)
    size = sum(shard["bytes"] for shard in shards)
    records = _records([str(Path(folder) / shard["file"]) for shard in shards])
    if size <= memory_bytes:
        records = records.cache()
        buffer = count + 1  # one more than there is: the cache is only kept once it saw the end
    else:
        buffer = max(1, count * memory_bytes // (2 * size))  # two buffers: see _one_round
    channels = len(manifest["channels"])
    patch = (1,) * (3 - len(patch_size)) + tuple(patch_size)

    def example(index, serialized):
        record = decode(serialized)
        record["image"] = tf.ensure_shape(record["image"], (None, None, None, channels))
        seeds = tf.random.experimental.stateless_split([seed, index], 3)
        start = _draw_start(record, _is_forced(index, foreground_fraction), patch, seeds[0])
        if augment is None:
            image, label = spatial.crop(record, start, patch)
        else:
            image, label = spatial.random_patch(record, start, patch, seeds[1], augment)
            image = intensity.random_intensity(image, seeds[2], augment)
        if len(patch_size) == 2:
            image, label = image[0], label[0]
        return image, tf.cast(label, tf.int32)

    rounds = tf.data.Dataset.range(start_index // count, np.iinfo(np.int64).max // count - 1)
    dataset = rounds.flat_map(
        lambda n: _one_round(records, count, buffer, n, seed, foreground_fraction)
    )
    dataset = dataset.skip(start_index % count).enumerate(start_index)
    dataset = dataset.map(example, num_parallel_calls, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    if batches is not None:
        dataset = dataset.take(batches)
    total = tf.data.INFINITE_CARDINALITY if batches is None else batches
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(_AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


@contextlib.contextmanager
def reading_errors(folder, manifest):
    """Turns TensorFlow's error about an unreadable record into one that names the shard.

    Wrap the loop that consumes the data set: `with reading_errors(folder, manifest): fit(...)`.

    Args:
        folder: Data set folder.
        manifest: Its manifest, as a dict.

    Raises:
        DataError: A shard is corrupt; names it and the record's index.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
        for shard in manifest["shards"]:
            for _ in read_records(Path(folder) / shard["file"]):
                pass
        raise


def _shards(folder, manifest, splits):
    """The manifest's entries of the shards to read, in a fixed order."""
    if not manifest["classes"]:
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


def _records(files):
    """Serialized records of all files, interleaved in a fixed order."""
    return tf.data.Dataset.from_tensor_slices(files).interleave(
        lambda file: tf.data.TFRecordDataset(file, buffer_size=1 << 20),
        cycle_length=min(len(files), 16),
        num_parallel_calls=_AUTOTUNE,
        deterministic=True,
    )


def _one_round(records, count, buffer, number, seed, fraction):
    """Serialized records of examples `number * count` up to `(number + 1) * count`."""
    # `shuffle` mixes a global seed into its own; this fixes the one of this function's graph only.
    tf.compat.v1.set_random_seed(1)
    seeds = tf.random.stateless_uniform([2], [seed, number], 0, tf.int64.max, tf.int64)
    anything, foreground = (
        records.shuffle(buffer, seed=seeds[n], reshuffle_each_iteration=False) for n in (0, 1)
    )
    # Repeating records ends at once when none is left; any record serves where none has foreground.
    foreground = foreground.filter(_has_foreground).repeat().concatenate(foreground)
    forced = _is_forced(number * count + tf.range(count, dtype=tf.int64), fraction)
    return tf.data.Dataset.choose_from_datasets(
        [anything, foreground],
        tf.data.Dataset.from_tensor_slices(tf.cast(forced, tf.int64)),
        stop_on_empty_dataset=False,
    )


def _has_foreground(serialized):
    features = {"foreground": tf.io.FixedLenFeature([], tf.string)}
    return tf.strings.length(tf.io.parse_single_example(serialized, features)["foreground"]) > 0


def _is_forced(index, fraction):
    """Spreads the share evenly: of examples 0..n-1, floor(n * fraction) are forced."""
    index = tf.cast(index, tf.float64)
    return tf.floor((index + 1) * fraction) > tf.floor(index * fraction)


def _draw_start(record, forced, patch, seed):
    """Draws where the patch starts, int32 `(3,)`, so that it overhangs as little as it can."""
    draws = tf.random.stateless_uniform([5], seed)
    room = tf.shape(record["label"]) - patch
    low = tf.where(room < 0, tf.math.floordiv(room, 2), 0)
    high = tf.where(room < 0, -tf.math.floordiv(-room, 2), room)

    def anywhere():
        return low + tf.cast(tf.floor(draws[:3] * tf.cast(high - low + 1, tf.float32)), tf.int32)

    def on_foreground():
        table = record["foreground"]
        kind = _pick(tf.unique(table[:, 0])[0], draws[3])
        voxel = _pick(table[table[:, 0] == kind], draws[4])[1:]
        return tf.clip_by_value(voxel - np.array(patch) // 2, low, high)

    return tf.cond(forced & (tf.shape(record["foreground"])[0] > 0), on_foreground, anywhere)


def _pick(rows, draw):
    size = tf.cast(tf.shape(rows)[0], tf.float32)
    return rows[tf.cast(tf.floor(draw * size), tf.int32)]
