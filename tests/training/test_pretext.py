"""What pretext tasks make of a patch, and how they are scored."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.layers.step_context import step_context
from segkit.training import PRETEXTS
from segkit.training.pretext import Patches
from segkit.training.pretext import build_pretext
from segkit.training.pretext import prepare_fixed
from segkit.training.puzzles import rotations
from segkit.training.replica import example_keys

SHAPE = (8, 12, 8, 2)


def noise(count=3, shape=SHAPE):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32) + 2


def prepare(name, images, first=0, **options):
    """Inputs and targets of the examples of the stream from number `first` on."""
    task = build_pretext(name, Patches(images.shape[1:]), **options)
    numbers = tf.range(first, first + len(images), dtype=tf.int64)
    with step_context(example_keys(7, numbers)):
        return [x.numpy() for x in task.prepare(tf.constant(images))]


@pytest.mark.parametrize("name", PRETEXTS)
def test_an_example_is_changed_alike_alone_and_in_a_batch_and_others_otherwise(name):
    images, options = np.repeat(noise(1), 4, axis=0), {"block": 4} if name == "masked" else {}
    inputs, targets = prepare(name, images, **options)
    alone, target = prepare(name, images[2:3], first=2, **options)
    np.testing.assert_array_equal(alone[0], inputs[2])
    np.testing.assert_array_equal(target[0], targets[2])
    assert (name == "autoencoder") == (inputs == inputs[0]).all()


@pytest.mark.parametrize("name", PRETEXTS)
def test_xla_changes_nothing(name):
    images = tf.constant(noise())
    task = build_pretext(name, Patches(SHAPE))

    def run():
        with step_context(example_keys(7, tf.range(3, dtype=tf.int64))):
            return task.prepare(images)

    compiled = tf.function(run, jit_compile=True, autograph=False)()
    for plain, other in zip(run(), compiled, strict=True):
        np.testing.assert_allclose(other, plain, atol=1e-5)


def test_an_autoencoder_is_given_what_it_has_to_give_back():
    images = noise()
    inputs, targets = prepare("autoencoder", images)
    np.testing.assert_array_equal(inputs, images)
    np.testing.assert_array_equal(targets[..., :-1], images)
    assert (targets[..., -1] == 1).all()


def test_noise_has_the_stated_deviation_and_share():
    images = noise(4, (16, 16, 16, 1))
    inputs, targets = prepare("denoising", images, sigma=0.5, drop=0.2)
    np.testing.assert_array_equal(targets[..., :-1], images)
    dropped = inputs == 0
    difference = (inputs - images)[~dropped]
    # 16384 voxels: one standard error is 0.003 of the share, 0.004 of mean and deviation.
    assert abs(dropped.mean() - 0.2) < 0.01
    assert abs(difference.mean()) < 0.015
    assert abs(difference.std() - 0.5) < 0.015
    assert abs(np.mean(np.abs(difference) < 0.5) - 0.6827) < 0.015  # normal, not uniform
    only_dropped, _ = prepare("denoising", images, sigma=0.0, drop=0.2)
    np.testing.assert_array_equal(only_dropped, np.where(dropped, 0, images))


@pytest.mark.parametrize(("block", "share", "hidden"), [(4, 0.5, 6), (4, 0.25, 3), (5, 0.5, 6)])
def test_whole_blocks_are_hidden_in_the_stated_number(block, share, hidden):
    # Sides 8, 12, 8: 2 x 3 x 2 = 12 blocks of 4, and as many of 5, cut off at the far end.
    images = noise()
    inputs, targets = prepare("masked", images, block=block, share=share)
    np.testing.assert_array_equal(targets[..., :-1], images)
    mask = targets[..., -1]
    np.testing.assert_array_equal(inputs, np.where(mask[..., None] == 1, 0, images))
    blocks = itertools.product(range(0, 8, block), range(0, 12, block), range(0, 8, block))
    means = [
        mask[:, k : k + block, j : j + block, i : i + block].mean((1, 2, 3)) for k, j, i in blocks
    ]
    assert set(np.ravel(means)) == {0, 1}
    np.testing.assert_array_equal(np.sum(means, axis=0), hidden)


def test_the_loss_counts_hidden_voxels_or_all():
    images = noise()
    _, hidden = prepare("masked", images, block=4)
    inputs, every = prepare("masked", images, block=4, hidden_only=False)
    assert (every[..., -1] == 1).all()
    task = build_pretext("masked", Patches(SHAPE), block=4)
    # The input itself has error 0 where it can be seen, and images ** 2 elsewhere.
    mask = hidden[..., -1:]
    expected = [(m * x**2).sum() / (2 * m.sum()) for m, x in zip(mask, images, strict=True)]
    np.testing.assert_allclose(task.loss(hidden, inputs), expected, rtol=1e-5)
    share = mask.mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(task.loss(every, inputs), expected * share, rtol=1e-5)


def test_r2_is_the_explained_share_of_the_variance_of_what_counts():
    # One channel, values 1, 3, 8 (not counted), 5: mean 3, squared distances 4 + 0 + 4 = 8;
    # guesses 1, 4, 0, 4: squared errors 0 + 1 + 1 = 2, so R2 = 1 - 2 / 8.
    task = build_pretext("masked", Patches((2, 2, 2, 1)), block=1)
    target = tf.constant([[1.0, 1], [3, 1], [8, 0], [5, 1]])[None]
    counts = task.count(target, tf.constant([1.0, 4, 0, 4])[None, :, None])
    assert task.score(counts) == pytest.approx(0.75)
    assert task.score(2 * counts) == pytest.approx(0.75)


def test_r2_of_many_voxels_keeps_its_digits():
    rng = np.random.default_rng(0)
    truth = rng.normal(5, 1, (2, 40, 56, 40, 2)).astype(np.float32)
    guess = truth + rng.normal(0, 0.5, truth.shape).astype(np.float32)
    task = build_pretext("autoencoder", Patches(truth.shape[1:]))
    counts = task.count(tf.concat([truth, np.ones_like(truth[..., :1])], -1), guess)
    spread = ((truth - truth.mean((0, 1, 2, 3), np.float64)) ** 2).sum()
    expected = 1 - ((guess - truth).astype(np.float64) ** 2).sum() / spread
    assert task.score(counts) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("sides", "number"),
    [((4, 4, 4), 24), ((4, 6, 4), 8), ((4, 6, 8), 4), ((5, 5), 4), ((5, 3), 2)],
)
def test_rotations_are_all_that_keep_the_shape(sides, number):
    assert len(rotations(sides)) == number


def test_the_rotations_of_a_square_are_numpys():
    image = noise(1, (4, 4, 1))
    images = np.repeat(image, 40, axis=0)
    inputs, answers = prepare("rotation", images)
    turned = {n: {x.tobytes() for x in inputs[answers[:, 0] == n]} for n in range(4)}
    assert all(len(found) == 1 for found in turned.values())
    quarters = {np.rot90(image[0], k).tobytes() for k in range(4)}
    assert set().union(*turned.values()) == quarters


def test_the_rotations_of_a_cube_are_a_group_of_24_without_mirrors():
    image = np.arange(27.0).reshape(3, 3, 3)

    def quarter_turns(found):
        planes = ((0, 1), (0, 2), (1, 2))
        return {np.rot90(x, 1, plane).tobytes() for x in found for plane in planes}

    group, wave = {image.tobytes()}, {image.tobytes()}
    while wave:
        arrays = [np.frombuffer(x).reshape(3, 3, 3) for x in wave]
        wave = quarter_turns(arrays) - group
        group |= wave
    found = {
        np.flip(image.transpose(order), [a for a, f in enumerate(flipped) if f]).tobytes()
        for order, flipped in rotations((3, 3, 3))
    }
    assert found == group


def test_a_jigsaw_says_for_each_place_which_tile_is_there():
    images = noise()
    inputs, order = prepare("jigsaw", images)
    boxes = list(itertools.product((0, 4), (0, 6), (0, 4)))

    def tile(image, number):
        k, j, i = boxes[number]
        return image[k : k + 4, j : j + 6, i : i + 4]

    for n, place in itertools.product(range(3), range(8)):
        np.testing.assert_array_equal(
            tile(inputs[n], place), tile(images[n], order[n, place]), err_msg=f"{n} {place}"
        )
    assert np.array_equal(np.sort(order), np.tile(np.arange(8), (3, 1)))


@pytest.mark.parametrize(("name", "classes"), [("rotation", 8), ("jigsaw", 8)])
def test_a_puzzle_is_undone_by_the_right_answers_and_scored_by_their_share(name, classes):
    images = noise()
    task = build_pretext(name, Patches(SHAPE))
    inputs, answers = (tf.constant(x) for x in prepare(name, images))
    right = tf.one_hot(answers, classes)
    wrong = tf.concat([right[:1], tf.roll(right[1:], 1, axis=-1)], 0)
    assert task.score(task.count(answers, right)) == 1
    assert task.score(task.count(answers, wrong)) == pytest.approx(1 / 3)
    middle = images[:, 4, :, :, 0]
    for picture, image in zip(task.panels(inputs, answers, wrong), middle, strict=True):
        assert picture.shape == (12, 24, 3)
        undone = picture[::-1, 8:16, 0].astype(float)  # drawn with anterior up
        assert np.corrcoef(undone.ravel(), image.ravel())[0, 1] > 0.99


def test_a_reconstruction_is_drawn_beside_input_and_target_on_one_scale():
    images = noise(1) + 3
    task = build_pretext("masked", Patches(SHAPE, upright=True), block=4)
    inputs, targets = (tf.constant(x) for x in prepare("masked", images, block=4))
    (picture,) = task.panels(inputs, targets, tf.constant(images))
    given, target, output = np.split(picture, 3, axis=1)
    np.testing.assert_array_equal(target, output)
    hidden = targets[0, 4, ..., -1].numpy() == 1
    assert (given[~hidden] == target[~hidden]).all()
    assert (given[hidden] == 0).all()  # zero is far below these intensities


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maskd", {}, "Did you mean 'masked'"),
        ("masked", {"blok": 4}, "Did you mean 'block'"),
        ("masked", {"share": 1.0}, "hides 12 of 12 blocks"),
        ("masked", {"block": 0}, "some must be hidden and some not"),
        ("denoising", {"sigma": 0.0, "drop": 0.0}, "needs noise"),
        ("denoising", {"drop": 1.0}, "pretext.drop must be at least 0 and below 1"),
        ("jigsaw", {"grid": 1}, "pretext.grid must be 2 or more"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(name, options, message):
    options = {"block": 4, **options} if name == "masked" and "blok" not in options else options
    with pytest.raises(ConfigError, match=message):
        build_pretext(name, Patches(SHAPE), **options)


def test_tiles_must_fill_the_patch():
    with pytest.raises(ShapeError, match=r"multiples of its grid of 3, got \[8, 12, 8\]"):
        build_pretext("jigsaw", Patches(SHAPE), grid=3)


@pytest.mark.parametrize(("name", "has_skips"), [("denoising", False), ("masked", True)])
def test_what_skips_would_give_away_is_learned_without_them(name, has_skips):
    task = build_pretext(name, Patches((8, 8, 1)), **({"block": 4} if has_skips else {}))
    network = task.network(filters=4, downsamplings=1)
    assert ("skip0" in [layer.name for layer in network.layers]) == has_skips
    assert "skip0" not in [x.name for x in task.network(filters=4, skips=False).layers]


def test_held_out_batches_are_the_same_each_time_and_for_any_number_of_workers():
    images = noise(8, (4, 4, 1))
    task = build_pretext("masked", Patches((4, 4, 1)), block=2)

    def stream(part):
        number, count = part
        mine = images.reshape(2, count, 4 // count, 4, 4, 1)[:, number]
        data = tf.data.Dataset.from_tensor_slices((mine, mine))
        batches = prepare_fixed(task, data, seed=1, batch_size=4, part=part)
        return [x for x, _ in batches.as_numpy_iterator()]

    whole = stream((0, 1))
    np.testing.assert_array_equal(whole, stream((0, 1)))
    for batch, *parts in zip(whole, stream((0, 2)), stream((1, 2)), strict=True):
        np.testing.assert_array_equal(batch, np.concatenate(parts))
    assert not np.array_equal(whole[0] == 0, whole[1] == 0)
