"""What holds for every transform and every policy, whatever it does."""

import itertools
import os
from functools import lru_cache

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from data_prep.augment import GEOMETRY
from data_prep.augment import INTENSITY
from data_prep.augment import MIXING
from data_prep.augment import POLICIES
from data_prep.augment import TRANSFORMS
from data_prep.augment.apply import Keys
from data_prep.augment.apply import augment_batch
from data_prep.augment.apply import augment_record
from data_prep.augment.apply import mix
from data_prep.augment.crop import crop
from data_prep.augment.policy import parse_policy
from data_prep.augment.policy import read_policy
from data_prep.augment.random import make_keys
from segkit.errors import ShapeError

# For each transform: options at which it does nothing, and options at which it must be seen.
# `quarter_turns` has none, and a label of class 4 does not occur below.
OPTIONS = {
    "flip": ({"axes": [0, 0, 0]}, {"axes": [1, 1, 1]}),
    "quarter_turns": ({"probability": 0}, {}),
    "rotation": ({"degrees": 0}, {"degrees": 30}),
    "scaling": ({"field_of_view": [1, 1]}, {"field_of_view": [1.2, 1.4], "per_axis": True}),
    "multi_scale": ({"scales": [1]}, {"scales": [0.7, 0.8, 1.2, 1.3]}),
    "translation": ({"shift": 0}, {"shift": 0.3}),
    "shear": ({"degrees": 0}, {"degrees": 20}),
    "elastic": ({"displacement": [0, 0]}, {"displacement": [0.03, 0.04]}),
    "brightness": ({"factor": [1, 1]}, {"factor": [1.2, 1.5]}),
    "contrast": ({"factor": [1, 1]}, {"factor": [0.5, 0.7]}),
    "gamma": ({"gamma": [1, 1]}, {"gamma": [1.5, 2]}),
    "histogram_shift": ({"strength": 0}, {"strength": 1}),
    "saturation": ({"factor": [1, 1]}, {"factor": [0.5, 0.7]}),
    "hue": ({"degrees": 0}, {"degrees": 90}),
    "stain": ({"alpha": [1, 1], "beta": [0, 0]}, {"alpha": [0.8, 0.9], "beta": [0.1, 0.2]}),
    "gaussian_noise": ({"std": [0, 0]}, {"std": [0.1, 0.2]}),
    "rician_noise": ({"std": [0, 0]}, {"std": [0.1, 0.2]}),
    "blur": ({"sigma": [0, 0], "channel_probability": 1}, {"sigma": [0.8, 1]}),
    "sharpen": ({"amount": [0, 0], "channel_probability": 1}, {"amount": [1, 2]}),
    "low_resolution": ({"scale": [1, 1], "channel_probability": 1}, {"scale": [0.5, 0.6]}),
    "bias_field": ({"coefficient": 0}, {"coefficient": 0.3}),
    "spike": ({"intensity": [0, 0]}, {"intensity": [0.3, 0.5]}),
    "ghosting": ({"intensity": [0, 0]}, {"ghosts": [3, 4]}),
    "cutout": ({"size": [0, 0]}, {"size": [0.2, 0.4]}),
    "mixup": ({"alpha": 0}, {"alpha": 1}),
    "cutmix": ({"alpha": 0}, {"alpha": 1}),
    "copy_paste": ({"classes": [4], "shift": 0}, {"classes": [1, 3], "shift": 0.2}),
}
PATCHES = [(10, 12, 14), (12, 14)]
BATCH, CLASSES = 4, 5
VALUES = (0, 1, 3)  # of the label
SPACING = np.float32([[1, 1, 1], [2.1, 1, 1.4], [4, 1, 1], [1, 0.9, 0.8]])


@lru_cache
def example(patch, label_dtype="int32"):
    """Smooth RGB images in [0.1, 0.9] and labels, one or two voxels larger than the patch."""
    rng, sides = np.random.default_rng(3), tuple(p + 2 + p % 3 for p in patch)
    noise = rng.normal(size=(BATCH, *sides, 3))
    image = ndimage.gaussian_filter(noise, (0, *[1.2] * len(patch), 0))
    image = 0.5 + 0.4 * image / np.abs(image).max()
    label = rng.choice(VALUES, (BATCH, *sides))
    return tf.constant(image, tf.float32), tf.constant(label, label_dtype)


def middle(x, patch):
    """The patch around the middle."""
    starts = [(s - p) // 2 for s, p in zip(x.shape[1:], patch, strict=False)]
    return x[(slice(None), *(slice(n, n + p) for n, p in zip(starts, patch, strict=True)))]


def keys_of(index, seed=7):
    index = tf.cast(index, tf.int64)
    return Keys(make_keys(seed, index), make_keys(seed, -1 - index // BATCH))


def change(steps, image, label, patch, *, index=None, seed=7, spacing=SPACING, **options):
    """`augment_batch` of the examples of some numbers, by default 0 to 3."""
    index = tf.range(BATCH) if index is None else index
    options = {"patch": patch, "num_classes": CLASSES, "spacing_mm": spacing} | options
    return augment_batch(image, label, keys_of(index, seed), steps, **options)


def neutral(name):
    return parse_policy([{name: {"probability": 1} | OPTIONS[name][0]}])


def strong(name):
    return parse_policy([{name: OPTIONS[name][1]}])


@lru_cache
def strongly_changed(name, patch=PATCHES[0]):
    return change(strong(name), *example(patch), patch)


def soft(label):
    return tf.one_hot(tf.cast(label, tf.int32), CLASSES)


def assert_same(found, expected, atol=0.0):
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=atol)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=0 if atol == 0 else 1e-5)
    assert found[1].dtype == expected[1].dtype


def test_options_are_given_for_every_transform():
    assert list(OPTIONS) == list(TRANSFORMS)


@pytest.mark.parametrize(("patch", "order"), [(PATCHES[0], 1), (PATCHES[1], 1), (PATCHES[1], 3)])
def test_zero_strength_is_the_identity(patch, order):
    image, label = example(patch)
    expected = middle(image, patch), middle(label, patch)
    for name in TRANSFORMS:
        if order == 1 or name in GEOMETRY:
            found = change(neutral(name), image, label, patch, order=order)
            wanted = (expected[0], soft(expected[1])) if name == "mixup" else expected
            np.testing.assert_array_equal(found[0], wanted[0], name)
            np.testing.assert_array_equal(found[1], wanted[1], name)
            assert found[1].dtype == wanted[1].dtype, name
    together = [step for name in TRANSFORMS if name != "mixup" for step in neutral(name)]
    steps = [step._replace(number=n) for n, step in enumerate(together)]
    assert_same(change(steps, image, label, patch, order=order), expected)


@pytest.mark.parametrize("patch", PATCHES)
def test_strong_options_are_seen(patch):
    image = example(patch)[0]
    for name in TRANSFORMS:
        found, before = strongly_changed(name, patch)[0], middle(image, patch)
        changed = np.abs(found - before).max(axis=tuple(range(1, len(patch) + 2))) > 0.01
        assert changed.sum() >= 2, name


def test_another_seed_makes_another_result():
    for name in TRANSFORMS:
        if name != "flip":  # its strong options leave nothing to draw
            found = change(strong(name), *example(PATCHES[1]), PATCHES[1], seed=8)[0]
            assert not np.array_equal(found, strongly_changed(name, PATCHES[1])[0]), name


@pytest.mark.parametrize("patch", PATCHES)
def test_a_step_of_probability_zero_changes_nothing(patch):
    entries = [{name: OPTIONS[name][1] | {"probability": 0}} for name in OPTIONS]
    steps = parse_policy([entry for entry in entries if "mixup" not in entry])
    image, label = example(patch)
    expected = middle(image, patch), middle(label, patch)
    assert_same(change(steps, image, label, patch), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_labels_keep_their_values_and_dtype(dtype):
    patch = PATCHES[dtype != "int32"]
    image, label = example(patch, dtype)
    for name in TRANSFORMS:
        found = change(strong(name), image, label, patch)[1]
        if name == "mixup":  # a share of each class
            assert found.dtype == tf.float32
            np.testing.assert_allclose(tf.reduce_sum(found, axis=-1), 1, atol=1e-6)
            assert set(np.nonzero(found)[-1]) == set(VALUES)
        else:
            assert found.dtype == label.dtype, name
            assert set(np.unique(found)) == set(VALUES), name


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_padded_patch_stays_finite_and_keeps_its_shape(name):
    image, label = (tf.zeros_like(x) for x in example(PATCHES[0]))
    found = change(strong(name), image, label, PATCHES[0])
    assert np.isfinite(found[0]).all()
    assert found[0].shape == (BATCH, *PATCHES[0], 3)
    assert found[0].dtype == tf.float32


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_result_is_the_same_eagerly_in_a_graph_under_xla_and_in_tf_data(name):
    image, label = example(PATCHES[0])
    steps, expected = strong(name), strongly_changed(name)

    @tf.function(autograph=False)
    def in_graph(index):
        return change(steps, image, label, PATCHES[0], index=index)

    under_xla = tf.function(in_graph, jit_compile=True, autograph=False)
    index = tf.data.Dataset.range(BATCH, output_type=tf.int32).batch(BATCH, drop_remainder=True)
    in_tf_data = index.map(tf.autograph.experimental.do_not_convert(lambda n: in_graph(n)))
    for found in (in_graph(tf.range(BATCH)), under_xla(tf.range(BATCH)), *in_tf_data):
        assert_same(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_batch_is_the_same_as_one_by_one(name):
    image, label = example(PATCHES[0])
    share = 2 if name in MIXING else 1  # mixing takes pairs
    for n in range(0, BATCH, share):
        part = slice(n, n + share)
        alone = change(
            strong(name),
            image[part],
            label[part],
            PATCHES[0],
            index=tf.range(n, n + share),
            spacing=SPACING[part],
        )
        assert_same(alone, [x[part] for x in strongly_changed(name)], atol=1e-5)


def geometries():
    """Each geometric transform, and those of whole policies, all applied."""
    found = {name: [{name: OPTIONS[name][1]}] for name in GEOMETRY}
    for policy in ("light", "nnunet", "heavy"):
        entries = [(n, o) for entry in read_policy(policy) for n, o in entry.items()]
        found[f"{policy} policy"] = [
            {n: o | {"probability": 1}} for n, o in entries if n in GEOMETRY
        ]
    return found.items()


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize(("name", "entries"), geometries())
def test_image_and_label_stay_aligned_under_geometry(name, entries, patch):
    steps = parse_policy(entries)
    sides = tuple(p + 6 for p in patch)
    place = np.tile(np.indices(sides)[None], (BATCH, *[1] * (len(patch) + 1)))
    number = np.ravel_multi_index(tuple(np.moveaxis(place, 1, 0)), sides) + 1
    number = tf.constant(number, tf.int32)
    # Read at the nearest voxel, an image of labels is the label, ties and padding included.
    image, label = change(steps, tf.cast(number, tf.float32)[..., None], number, patch, order=0)
    np.testing.assert_array_equal(image[..., 0], label)
    # An image of coordinates, read linearly, lies within half a voxel of the label's voxel.
    image = tf.constant(np.moveaxis(place, 1, -1), tf.float32)
    image, label = (x.numpy() for x in change(steps, image, number, patch))
    voxel = np.stack(np.unravel_index(np.maximum(label, 1) - 1, sides), axis=-1)
    inner = np.all((voxel > 0) & (voxel < np.array(sides) - 1), axis=-1) & (label > 0)
    assert inner.mean() > 0.3
    assert np.abs(image - voxel)[inner].max() <= 0.5 + 1e-4


@pytest.mark.parametrize("name", INTENSITY)
def test_landmarks_stay_in_place_under_changes_of_intensity(name):
    image, label = (middle(x, PATCHES[0]) for x in example(PATCHES[0]))
    found, found_label = strongly_changed(name)
    np.testing.assert_array_equal(found_label, label)
    before, after = (x - np.mean(x, axis=(1, 2, 3), keepdims=True) for x in (image, found))
    shifts = list(itertools.product((-1, 0, 1), repeat=3))
    likeness = [np.sum(np.roll(after, shift, (1, 2, 3)) * before) for shift in shifts]
    assert shifts[np.argmax(likeness)] == (0, 0, 0)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("name", MIXING)
def test_image_and_label_stay_aligned_under_mixing(name, patch):
    label = example(patch)[1]
    image, label = change(strong(name), soft(label)[..., :3], label, patch)
    classes = label if name == "mixup" else soft(label)
    np.testing.assert_allclose(image, classes[..., :3], atol=1e-6)


def test_the_geometric_steps_of_a_policy_are_composed():
    image, label = example(PATCHES[0])

    def changed(*entries):
        return change(parse_policy(list(entries)), image, label, PATCHES[0])

    twice = changed({"flip": {"axes": [1, 1, 1]}}, {"flip": {"axes": [1, 0, 1]}})
    expected = [tf.reverse(middle(x, PATCHES[0]), [2]) for x in (image, label)]
    assert_same(twice, expected)
    assert_same(changed({"shear": {}}, {"scaling": {"probability": 0}}), changed({"shear": {}}))
    # a second scaling by 2 undoes a first by 1/2, up to the interpolation's rounding
    half, double = ({"scaling": {"field_of_view": [f, f]}} for f in (0.5, 2))
    assert_same(changed(half, double), [middle(x, PATCHES[0]) for x in (image, label)], atol=1e-5)


def make_record(channels=3):
    rng, shape = np.random.default_rng(1), (9, 13, 15)
    image = ndimage.gaussian_filter(rng.normal(size=(*shape, channels)), (1, 1, 1, 0))
    return {
        "image": tf.constant(20000 * image, tf.int16),
        "slope": tf.constant([1e-4, 2e-4, 1.5e-4]),
        "intercept": tf.constant([0.0, 0.5, -0.3]),
        "label": tf.constant(rng.choice(VALUES, shape), tf.uint8),
        "spacing_mm": tf.constant([1.5, 1.0, 1.0], tf.float64),
    }


MIXING_POLICY = [{"rotation": {}}, {"mixup": {"probability": 0.5}}, {"cutmix": {}}]
VOLUME, SLICE = (8, 10, 9), (1, 12, 10)
PLACED = [  # policy, patch, order of interpolation, whether the step is compiled: it takes long
    *((policy, VOLUME, 1, False) for policy in POLICIES if policy != "nnunet"),
    ("nnunet", SLICE, 1, True),
    ("none", SLICE, 1, False),
    (MIXING_POLICY, SLICE, 1, False),
    ([{"rotation": {}}], SLICE, 3, False),
]


@pytest.mark.parametrize(("policy", "patch", "order", "under_xla"), PLACED)
def test_tf_data_makes_the_same_patches_as_the_step(policy, patch, order, under_xla):
    record, steps, count = make_record(), parse_policy(read_policy(policy)), 8
    starts = tf.constant(np.random.default_rng(2).integers(-2, 4, (count, 3)), tf.int32)
    starts = tf.maximum(starts, [[0 if patch[0] == 1 else -2, -2, -2]])
    sides = patch[1:] if patch[0] == 1 else patch

    @tf.autograph.experimental.do_not_convert
    def from_record(index):
        options = {"num_classes": CLASSES, "order": order}
        return augment_record(record, starts[index], patch, keys_of(index[None]), steps, **options)

    @tf.autograph.experimental.do_not_convert
    def mixed(image, label):
        image, label = (tf.reshape(x, (count, *sides, *x.shape[4:])) for x in (image, label))
        return mix(image, label, keys_of(tf.range(count)), steps, tf.ones((count, 3)), CLASSES)

    data = tf.data.Dataset.range(count).map(from_record, num_parallel_calls=2)
    in_tf_data = next(iter(data.batch(count, drop_remainder=True).map(mixed)))

    margin = np.where(np.array(patch) == 1, 0, 12)
    boxes = [crop(record, start - margin, tuple(patch + 2 * margin)) for start in starts]
    image, label = (
        tf.reshape(tf.stack(x), (count, *(s + 24 for s in sides), *x[0].shape[3:]))
        for x in zip(*boxes, strict=True)
    )
    spacing = tf.tile(tf.cast(record["spacing_mm"], tf.float32)[None], [count, 1])
    options = {"index": tf.range(count), "spacing": spacing, "order": order}
    in_step = tf.function(change, autograph=False, jit_compile=True) if under_xla else change
    expected = in_step(steps, image, label, sides, **options)
    assert_same(in_tf_data, expected, atol=1e-4)
    assert expected[1].dtype == (tf.float32 if policy is MIXING_POLICY else tf.uint8)


def test_a_patch_larger_than_the_image_is_refused():
    image, label = example(PATCHES[1])
    for patch in ((40, 14), (10, 12, 14)):
        with pytest.raises(ShapeError, match="cannot be cut out of images of"):
            change([], image, label, patch)
