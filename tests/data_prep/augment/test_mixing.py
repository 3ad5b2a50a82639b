"""Mixing against slow NumPy versions and SciPy's Beta distribution, and its invariants."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from data_prep.augment import MIXING
from data_prep.augment import mixing
from data_prep.augment.random import Draws
from data_prep.augment.random import make_keys
from data_prep.augment.space import make_space
from segkit.errors import ConfigError

CLASSES = 4
PATCH = (5, 6, 7)


def make_draws(batch, first=0):
    keys = make_keys(7, first + tf.range(batch, dtype=tf.int64))
    return Draws(keys, salt=0, budget=64, scope="mix")


def space_of(batch, patch=PATCH, spacing=(1.0, 1.0, 1.0), channels=2):
    return make_space(patch, tf.constant([spacing] * batch), channels, CLASSES)


def example(batch, patch=PATCH, channels=2, dtype="int32", seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(batch, channels, *patch)).astype("float32")
    return tf.constant(image), tf.constant(rng.integers(0, CLASSES, (batch, *patch)), dtype)


def soft_example(batch, patch=PATCH, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.dirichlet(np.ones(CLASSES), (batch, *patch)).astype("float32")
    return example(batch, patch)[0], tf.constant(label)


def change(name, batch, *, patch=PATCH, first=0):
    """The transform `name` with its defaults."""
    options = {"classes": [1, 3]} if name == "copy_paste" else {}
    transform = getattr(mixing, name)
    return transform(make_draws(batch, first=first), space_of(batch, patch), **options)


def assert_same(found, expected, atol=0.0):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("order", [[0], [1, 0], [1, 0, 3, 2, 4], [1, 0, 3, 2, 5, 4]])
def test_partners_are_neighbours_and_the_last_odd_one_is_its_own(order):
    np.testing.assert_array_equal(mixing.partner(tf.range(len(order))), order)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("replicas", [2, 4])
def test_a_batch_split_over_replicas_is_mixed_as_a_whole(name, replicas):
    image, label = example(8)
    whole = change(name, 8)(image, label)
    share = 8 // replicas
    parts = [
        change(name, share, first=n)(image[n : n + share], label[n : n + share])
        for n in range(0, 8, share)
    ]
    assert_same([tf.concat(p, axis=0) for p in zip(*parts, strict=True)], whole, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64"])
def test_softening_is_one_hot_and_leaves_soft_labels_alone(dtype):
    _, label = example(2, dtype=dtype)
    soft = mixing.soften(label, CLASSES)
    assert soft.dtype == tf.float32
    np.testing.assert_array_equal(soft, np.eye(CLASSES)[label.numpy()])
    assert mixing.soften(soft, CLASSES) is soft


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha):
    number = 20_000
    shares = mixing.symmetric_beta(make_draws(number), alpha).numpy()
    assert 0 <= shares.min() <= shares.max() <= 1
    # Not nearer to 0 and 1 than this: float32 rounds there, below a share that shows.
    below = np.array([1e-5, 1e-3, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.999, 1 - 1e-5])
    found = (shares[:, None] < below).mean(axis=0)
    expected = stats.beta(alpha, alpha).cdf(below)
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / number)
    # Variance of Beta(a, a): 1 / (4 (2a + 1)).
    np.testing.assert_allclose(shares.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.03)


@pytest.mark.parametrize("alpha", [1e-6, 1e6])
def test_shares_stay_finite_for_extreme_alpha(alpha):
    shares = mixing.symmetric_beta(make_draws(1000), alpha).numpy()
    assert np.isfinite(shares).all()
    expected = np.round(shares) if alpha < 1 else 0.5
    np.testing.assert_allclose(shares, expected, atol=0.01)


def test_blend_matches_hand_computed_values():
    image = tf.reshape(tf.constant([1.0, 5.0]), (2, 1, 1, 1, 1))
    label = tf.reshape(tf.constant([1, 2]), (2, 1, 1, 1))
    mixed, soft = mixing.blend(image, label, tf.constant([0.25, 0.5]), 3)
    # 1 + (5 - 1) / 4 = 2 and 5 + (1 - 5) / 2 = 3.
    np.testing.assert_array_equal(mixed[:, 0, 0, 0, 0], [2, 3])
    np.testing.assert_array_equal(soft[:, 0, 0, 0], [[0, 0.75, 0.25], [0, 0.5, 0.5]])


@pytest.mark.parametrize("make", [example, soft_example])
def test_mixup_is_the_same_convex_combination_of_image_and_label(make):
    image, label = make(4)
    keep = np.array([0.9, 0.6, 0.0, 1.0], "float32")
    mixed = mixing.blend(image, label, tf.constant(1 - keep), CLASSES)
    soft = mixing.soften(label, CLASSES).numpy()
    for b, (k, other) in enumerate(zip(keep, [1, 0, 3, 2], strict=True)):
        for found, x in zip(mixed, (image, soft), strict=True):
            np.testing.assert_allclose(found[b], k * x[b] + (1 - k) * x[other], atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(mixed[1], -1), 1, atol=1e-6)
    assert float(tf.reduce_min(mixed[1])) >= 0


def test_mixup_keeps_of_each_example_the_share_drawn():
    image, label = example(6)
    weight = 1 - mixing.symmetric_beta(make_draws(6), 0.4)
    assert_same(change("mixup", 6)(image, label), mixing.blend(image, label, weight, CLASSES))


@pytest.mark.parametrize("make", [example, soft_example])
def test_a_box_of_the_partner_replaces_the_same_box(make):
    image, label = make(2)
    start, size = np.array([[1, 0, 2], [0, 3, 6]]), np.array([[3, 6, 4], [5, 2, 1]])
    expected = image.numpy().copy(), label.numpy().copy()
    for b in (0, 1):
        box = tuple(slice(s, s + n) for s, n in zip(start[b], size[b], strict=True))
        expected[0][b][:, *box] = image[1 - b].numpy()[:, *box]
        expected[1][b][box] = label[1 - b].numpy()[box]
    start, size = tf.constant(start, tf.float32), tf.constant(size, tf.float32)
    assert_same(mixing.swap_box(image, label, start, size), expected)


@pytest.mark.parametrize(("patch", "cut"), [((8, 10, 12), 3), ((1, 24, 20), 2)])
def test_the_box_holds_the_share_drawn_and_lies_anywhere_inside(patch, cut):
    batch = 1000
    label = tf.tile(tf.reshape(tf.range(batch) % 2, (batch, 1, 1, 1)), (1, *patch))
    space = space_of(batch, patch)
    mixed = mixing.cutmix(make_draws(batch), space)(tf.zeros((batch, 2, *patch)), label)[1]
    inside = (mixed != label).numpy()
    share = 1 - mixing.symmetric_beta(make_draws(batch), 1.0).numpy()
    sides = [np.round(n * share ** (1 / cut)) if n > 1 else np.ones(batch) for n in patch]
    np.testing.assert_array_equal(inside.sum(axis=(1, 2, 3)), np.prod(sides, axis=0))
    np.testing.assert_allclose(inside.mean(axis=(1, 2, 3)), share, atol=0.15)
    for axis in (1, 2, 3):
        along = inside.any(axis=tuple({1, 2, 3} - {axis})).mean(axis=0)
        np.testing.assert_allclose(along, along[::-1], atol=0.07)


@pytest.mark.parametrize("make", [example, soft_example])
@pytest.mark.parametrize("classes", [[2], [1, 3]])
def test_pasting_equals_a_slow_loop(make, classes):
    image, label = make(3)
    shift = np.array([[0, 2, -3], [-1, -6, 1], [4, 0, 6]])
    indices = label.numpy() if label.shape.rank == 4 else label.numpy().argmax(-1)
    expected = image.numpy().copy(), label.numpy().copy()
    for b, other in enumerate([1, 0, 2]):
        for voxel in np.ndindex(PATCH):
            target = tuple(np.add(voxel, shift[b]))
            inside = all(0 <= t < n for t, n in zip(target, PATCH, strict=True))
            if inside and indices[other][voxel] in classes:
                expected[0][b][:, *target] = image[other].numpy()[:, *voxel]
                expected[1][b][target] = label[other].numpy()[voxel]
    found = mixing.paste_classes(image, label, classes, tf.constant(shift, tf.int32))
    assert_same(found, expected)


def test_a_lesion_is_pasted_with_its_intensities_and_label():
    image, label = np.zeros((2, 1, 1, 4, 4), "float32"), np.zeros((2, 1, 4, 4), "uint16")
    image[0] += 1
    image[1, 0, 0, 1, 1:3], label[1, 0, 1, 1:3] = [7, 8], 2
    shift = tf.constant([[0, 1, 2], [0, 0, 0]])
    mixed = mixing.paste_classes(tf.constant(image), tf.constant(label), [2], shift)
    # Moved down by 1 and right by 2: the second voxel leaves the slice and does not come back.
    expected = np.ones((4, 4))
    expected[2, 3] = 7
    np.testing.assert_array_equal(mixed[0][0, 0, 0], expected)
    np.testing.assert_array_equal(mixed[1][0, 0], 2 * (expected == 7))
    # The partner of the lesion's owner has none.
    assert_same([x[1] for x in mixed], (image[1], label[1]))


@pytest.mark.parametrize(("spacing", "width"), [(1.0, range(16, 25)), (9.0, [20])])
def test_shifts_are_whole_voxels_within_the_share_and_none_along_thin_axes(spacing, width):
    batch, patch = 4000, (6, 20, 40)
    label = np.zeros((batch, *patch), "uint8")
    label[1::2, 3, 10, 20] = 1
    space = space_of(batch, patch, (1.0, 1.0, spacing), channels=1)
    paste = mixing.copy_paste(make_draws(batch), space, classes=[1], shift=0.1)
    pasted = paste(tf.zeros((batch, 1, *patch)), tf.constant(label))[1]
    found = np.nonzero(pasted[::2].numpy())[1:]
    # floor(0.1 * (6, 20, 40)) = 0, 2, 4 voxels either way, all equally likely.
    for places, expected in zip(found, ([3], range(8, 13), width), strict=True):
        values, counts = np.unique(places, return_counts=True)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_allclose(counts / 2000, 1 / len(values), atol=0.035)


@pytest.mark.parametrize("make", [example, soft_example])
def test_zero_strength_is_exactly_the_identity(make):
    image, label = make(3)
    space = space_of(3)
    draws, soft, without = make_draws(3), mixing.soften(label, CLASSES), tf.zeros_like(label)
    assert_same(mixing.mixup(draws, space, alpha=0.0)(image, label), (image, soft))
    assert_same(mixing.cutmix(draws, space, alpha=0.0)(image, label), (image, label))
    paste = mixing.copy_paste(draws, space, classes=[1])
    assert_same(paste(image, without), (image, without))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_an_example_without_a_partner_stays_as_it_is(name):
    image, label = example(3)
    mixed, mixed_label = change(name, 3)(image, label)
    np.testing.assert_array_equal(mixed[2], image[2])
    soft, mixed_soft = (mixing.soften(x, CLASSES) for x in (label, mixed_label))
    np.testing.assert_array_equal(mixed_soft[2], soft[2])


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize(("make", "patch"), [(soft_example, PATCH), (example, (1, 9, 8))])
def test_eager_graph_and_xla_agree_on_soft_volumes_and_on_slices(name, make, patch):
    image, label = make(4, patch)

    def run(image, label):
        return change(name, 4, patch=patch)(image, label)

    eager = run(image, label)
    assert_same(tf.function(run)(image, label), eager, atol=1e-5)
    assert_same(tf.function(run, jit_compile=True)(image, label), eager, atol=1e-5)


def test_nonsensical_options_are_refused_by_name():
    draws, space = make_draws(2), space_of(2)
    for transform in (mixing.mixup, mixing.cutmix):
        for alpha in (-1.0, float("nan")):
            with pytest.raises(ConfigError, match=f"alpha of 0 or more, got {alpha}"):
                transform(draws, space, alpha=alpha)
    for classes in ([], [0, 1], [4], [-1]):
        with pytest.raises(ConfigError, match=r"copy_paste.classes needs .* from 1 to 3"):
            mixing.copy_paste(draws, space, classes=classes)
    for shift in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="copy_paste.shift must be between 0 and 1"):
            mixing.copy_paste(draws, space, classes=[1], shift=shift)
