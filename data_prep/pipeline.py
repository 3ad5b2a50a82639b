"""From TFRecord shards to batches of patches, with `tf.data`.

The stream is a pure function of the data set, the options and the seed: example `i` is always
the same patch, whatever the parallelism, the number of replicas or the step a run resumes from.
Patches are augmented here (`placement` input) or leave with a margin and the keys of their
random numbers, to be augmented by `device_augmentation` inside the training step.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.augment.apply import Keys
from data_prep.augment.apply import augment_batch
from data_prep.augment.apply import augment_record
from data_prep.augment.apply import mix
from data_prep.augment.apply import reach
from data_prep.augment.crop import crop
from data_prep.augment.crop import random_start
from data_prep.augment.policy import parse_policy
from data_prep.augment.random import make_keys
from data_prep.augment.random import uniform
from data_prep.covariates import covariate_vectors
from data_prep.covariates import target_indices
from data_prep.detectors import check_mixing
from data_prep.joined_labels import join
from data_prep.joined_labels import label_of
from data_prep.joined_labels import split
from data_prep.joined_labels import with_label
from data_prep.reader import is_forced
from data_prep.records import decode
from data_prep.service import made_by_service
from data_prep.sources import find_sources
from data_prep.sources import read_sources
from data_prep.sources import share_memory
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.priors import count_priors

ORDERS = {"linear": 1, "cubic": 3}
_PLACE = 1 << 31  # salt of a patch's place; the steps of a policy count from 0


class Augmentation(NamedTuple):
    """How the patches of a stream are changed.

    Attributes:
        policy: List of transforms, from `policy.read_policy`.
        placement: `"input"` or `"device"`, see the module.
        interpolation: Of the image, a key of `ORDERS`.
    """

    policy: list
    placement: str = "input"
    interpolation: str = "linear"

    @property
    def options(self):
        """The keyword arguments that both placements share."""
        return {"steps": parse_policy(self.policy), "order": ORDERS[self.interpolation]}


def build_dataset(
    folder,
    manifest,
    splits,
    *,
    patch_size,
    batch_size,
    seed,
    foreground_fraction=1 / 3,
    labels=True,
    repeats=None,
    augment=None,
    start_index=0,
    part=(0, 1),
    with_cases=False,
    with_covariates=False,
    with_targets=False,
    with_instances=False,
    batches=None,
    memory_bytes=1 << 31,
    num_parallel_calls=None,
    deterministic=True,
    service=None,
    synthetic=None,
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
        labels: `False` reads none, for data sets without them: labels are 0 everywhere, and no
            example is centred on foreground.
        repeats: Mapping case id -> how often each of its records is seen per round; a case that
            is not named: once.
        augment: `Augmentation`, or `None`.
        start_index: Number of examples to leave out at the start: resuming after `n` batches
            takes `n * batch_size`, and costs less than one round.
        part: `(number, count)`: yield this of so many equal parts of every batch, for one of
            several workers.
        with_cases: Yield `(case, image, label)`, with the case of each example, a string, in
            front; only for placement `"input"`.
        with_covariates: Yield `{"image", "covariates"}` in place of the image, with the
            covariates of each example's case, float32 `(batch, width)`; where a policy mixes
            examples, those of the first one.
        with_targets: Yield `{"label", "target"}` in place of the label, with the class of each
            example's case, int32 `(batch,)`, -1 where it is not known.
        with_instances: Yield `{"label", "instance"}` in place of the label, with the ids of
            objects, int32 `(batch, *patch_size)`, 0 for none. An object that leaves the patch
            leaves no id; one that is cut or hidden in part keeps its own.
        batches: Number of batches after which the stream ends, the same ones in every
            iteration (validation); `None`: it never ends (training).
        memory_bytes: The stream never holds more: up to half for records, which are kept in
            memory when they fit there and read again in each round otherwise, the rest for
            patches in the making.
        num_parallel_calls: Examples made at once; `None`: one per CPU core.
        deterministic: Yield examples in order, or whichever is ready first.
        service: Address of a `tf.data` service (`grpc://host:port`) whose workers make the
            batches, each within `memory_bytes` of its own. The batches are the same, and each
            is made once; their order depends on the workers.
        synthetic: `data_prep.synthetic.Synthetic` to mix in, for training only: its examples
            have fixed places in every batch. `None`: none.

    Returns:
        `tf.data.Dataset` of `(image, label)`: float32 `(batch, *patch_size, channels)` and
        int32 `(batch, *patch_size)`, class indices, or what mixing makes of them. With
        placement `"device"`: the arguments of `device_augmentation`'s function. Its
        cardinality is exact.

    Raises:
        ConfigError: `patch_size` has neither 2 nor 3 entries, memory for one batch is lacking,
            nothing answers at the address `service`, a policy mixes examples whose ids would
            meet, covariates are asked of synthetic cases, or as `reader.examples_per_round`.
        DataError: As `reader.find_shards`, the data set has no objects, or synthetic cases would
            be validated on.
    """
    if len(patch_size) not in (2, 3):
        raise ConfigError(
            f"data.patch_size needs 2 or 3 entries, got {list(patch_size)}. Write [height, width] "
            "for slices or [depth, height, width] for volumes."
        )
    repeats, kinds = repeats or {}, {"labels": labels, "synthetic": synthetic}
    sources = find_sources(folder, manifest, splits, repeats, batch_size=batch_size, **kinds)
    if batches is not None:
        _check_real(sources)
    if with_instances:
        _check_instances(folder, manifest, augment)
    if with_covariates and synthetic:
        raise ConfigError("synthetic cases have no covariates. Leave them, or the cases, out.")
    foreground_fraction = foreground_fraction if labels else 0.0
    augment = augment or Augmentation([])
    on_device = augment.placement == "device"
    box = margin(augment, patch_size, manifest) if on_device else tuple(patch_size)
    for_records, parallel, prefetch = share_memory(
        memory_bytes,
        box,
        batch_size,
        len(manifest["channels"]) + with_instances,  # ids take as much as a channel
        sources,
        num_parallel_calls,
    )
    dataset = read_sources(
        sources,
        seed=seed,
        foreground_fraction=foreground_fraction,
        batch_size=batch_size,
        start=start_index,
        stop=None if batches is None else start_index + batches * batch_size,
        memory_bytes=for_records,
    )
    keys_of = partial(_keys_of, seed, batch_size)
    make_example = _example_maker(
        manifest, augment, keys_of, patch_size, box, foreground_fraction, labels, with_instances
    )
    make_batch = _batch_maker(
        manifest,
        augment,
        keys_of,
        _lookup("image", "covariates", covariate_vectors(manifest) if with_covariates else None),
        _lookup("label", "target", _targets(manifest, synthetic) if with_targets else None),
        with_cases,
        with_instances,
    )
    number, count = part
    share = batch_size // count
    if count > 1:
        dataset = dataset.filter(lambda index, *_: index % batch_size // share == number)
    dataset = dataset.map(make_example, parallel, deterministic=deterministic)
    dataset = dataset.batch(share, drop_remainder=True).map(make_batch)
    if service is not None:
        dataset = made_by_service(dataset, service, prefetch)
    total = tf.data.INFINITE_CARDINALITY if batches is None else batches
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(prefetch)
    options = tf.data.Options()
    options.deterministic = deterministic
    # Fused with `batch`, `map` fills the batches in order, however it was asked.
    options.experimental_optimization.map_and_batch_fusion = deterministic
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def device_augmentation(augment, patch_size, num_classes, *, priors=0, keep_missing=False):
    """Returns the function that augments a batch inside the training step.

    Args:
        augment: `Augmentation`.
        patch_size: As in `build_dataset`.
        num_classes: Number of classes, background included.
        priors: Number of the data set's channels that are priors.
        keep_missing: Leave a channel that is 0 throughout a patch at 0, as the stream does of a
            data set that `lacks_channels`.

    Returns:
        Function from the elements of `build_dataset` with placement `"device"`, whole or a
        replica's part of one, to `(image, label)`.
    """

    @tf.autograph.experimental.do_not_convert
    def change(inputs, labels, example_keys, batch_keys, spacing_mm):
        image, label = augment_batch(
            inputs["image"] if isinstance(inputs, dict) else inputs,
            label_of(labels),
            Keys(example_keys, batch_keys),
            patch=tuple(patch_size),
            spacing_mm=spacing_mm,
            num_classes=num_classes,
            priors=priors,
            keep_missing=keep_missing,
            **augment.options,
        )
        inputs = {**inputs, "image": image} if isinstance(inputs, dict) else image
        return inputs, with_label(labels, label)

    return change


def lacks_channels(manifest):
    """Returns whether some case of a data set lacks a channel."""
    return any("missing_channels" in case for case in manifest.get("cases", {}).values())


def margin(augment, patch_size, manifest):
    """Returns the sides of the box that leaves the stream with placement `"device"`.

    It holds what 99 of 100 patches of the policy read; further out they read 0.
    """
    spacing = manifest["preprocess"]["spacing_mm"] or (1.0, 1.0, 1.0)
    return reach(parse_policy(augment.policy), patch_size, spacing, share=0.99)


def _changes(augment, manifest):
    """The keyword arguments of augmentation that go with a data set."""
    return {
        **augment.options,
        "num_classes": len(manifest["classes"]) or 1,
        "priors": count_priors(manifest["channels"]),
        "keep_missing": lacks_channels(manifest),
    }


def _keys_of(seed, batch_size, index):
    return Keys(make_keys(seed, index), make_keys(seed, -1 - index // batch_size))


def _check_real(sources):
    if any(source.synthetic for source in sources):
        raise DataError(
            f"the data set {sources[-1].folder} is synthetic: nothing is validated on it. Name "
            "splits of a real one."
        )


def _targets(manifest, synthetic):
    """`target_indices` of a data set, with those of synthetic cases, which are not known."""
    ids, indices = target_indices(manifest)
    more = list(synthetic.manifest["cases"]) if synthetic else []
    return ids + more, np.concatenate([indices, np.full(len(more), -1, np.int32)])


def _check_instances(folder, manifest, augment):
    if "instances" not in manifest:
        raise DataError(
            f"the data set {folder} has no objects. Prepare it from a layout with objects, or with "
            "--instances; see docs/instances.md."
        )
    check_mixing(augment.options["steps"] if augment else [])


def _example_maker(
    manifest, augment, keys_of, patch_size, box, foreground_fraction, labels, instances
):
    """The function from a record to an example."""
    channels, options = len(manifest["channels"]), _changes(augment, manifest)
    patch, box = ((1,) * (3 - len(sides)) + tuple(sides) for sides in (patch_size, box))
    before = [(outer - inner) // 2 for outer, inner in zip(box, patch, strict=True)]

    @tf.autograph.experimental.do_not_convert
    def make_example(index, order, synthetic, serialized):
        record = decode(serialized, instances=instances)
        tf.debugging.assert_equal(record["synthetic"] != "", synthetic)
        record["image"] = tf.ensure_shape(record["image"], (None, None, None, channels))
        if not labels:
            record["label"] = tf.zeros(tf.shape(record["image"])[:3], record["label"].dtype)
        if instances:
            ids = tf.cast(record["instance"], tf.int32)
            record["label"] = join(tf.cast(record["label"], tf.int32), ids)
        keys = keys_of(index[None])
        draws = uniform(keys.example, _PLACE, 5)[0]
        start = random_start(record, patch, is_forced(order, foreground_fraction), draws)
        if options["steps"] and augment.placement != "device":
            image, label = augment_record(record, start, patch, keys, **options)
        else:
            image, label = crop(record, start - before, box)
        if len(patch_size) == 2:
            image, label = image[0], label[0]
        spacing = tf.cast(record["spacing_mm"], tf.float32)
        return record["case_id"], image, tf.cast(label, tf.int32), index, spacing

    return make_example


def _batch_maker(manifest, augment, keys_of, inputs_of, labels_of, with_cases, with_instances):
    """The function from a batch of examples to what leaves the stream."""
    options = _changes(augment, manifest)
    mixing = [options[key] for key in ("num_classes", "priors")]

    def all_labels(case, label):
        if not with_instances:
            return labels_of(case, label)
        label, instance = split(label)
        known = labels_of(case, label)
        return {**(known if isinstance(known, dict) else {"label": label}), "instance": instance}

    @tf.autograph.experimental.do_not_convert
    def make_batch(case, image, label, index, spacing_mm):
        keys = keys_of(index)
        if augment.placement == "device":
            inputs, labels = inputs_of(case, image), all_labels(case, label)
            return inputs, labels, keys.example, keys.batch, spacing_mm
        image, label = mix(image, label, keys, options["steps"], spacing_mm, *mixing)
        batch = inputs_of(case, image), all_labels(case, label)
        return (case, *batch) if with_cases else batch

    return make_batch


def _lookup(name, beside, known):
    """The function from the cases of a batch and a tensor to what leaves the stream.

    `known` is a list of case ids and an array of what is known of them, which goes out under the
    name `beside`; `None`: the tensor goes out alone.
    """
    if known is None:
        return lambda case, tensor: tensor
    ids, values = map(tf.constant, known)

    def named(case, tensor):
        number = tf.argmax(case[:, None] == ids, axis=1)
        return {name: tensor, beside: tf.gather(values, number)}

    return named
