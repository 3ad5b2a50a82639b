"""What the tasks inpainting and enhancement make of patches, and what they refuse."""

import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import models

from segkit.errors import ConfigError
from segkit.layers.step_context import step_context
from segkit.losses.adversarial import AdversarialLoss
from segkit.training.adversarial.tasks import Patches
from segkit.training.adversarial.tasks import build_task
from segkit.training.step import example_keys

SHAPE = (12, 16, 2)
PATCHES = Patches(SHAPE)


def noise(count=4):
    return np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32) + 1


def example(name, images, first=0, **options):
    """The `Example` of a task, of the examples from number `first` on."""
    task = build_task(name, PATCHES, **options)
    numbers = tf.range(first, first + len(images), dtype=tf.int64)
    with step_context(example_keys(3, numbers)):
        return task.example(tf.constant(images), None)


def test_what_is_known_stays_as_it_is_and_holes_are_filled():
    images = noise()
    found = example("inpainting", images, share=[0.3, 0.3])
    mask = found.inputs["mask"].numpy()
    hidden = np.broadcast_to(mask == 1, images.shape)
    assert set(np.unique(mask)) == {0, 1}
    assert 0.2 < mask.mean() < 0.4
    given = found.inputs["image"].numpy()
    np.testing.assert_array_equal(given[hidden], 0)
    np.testing.assert_array_equal(given[~hidden], images[~hidden])
    made = tf.fill(images.shape, 7.0)
    whole = found.compose(made).numpy()
    np.testing.assert_array_equal(whole[hidden], 7)
    np.testing.assert_array_equal(whole[~hidden], images[~hidden])
    for seen in (found.condition, found.weight):
        np.testing.assert_array_equal(seen, mask)
    np.testing.assert_array_equal(found.real, images)


def test_only_the_kinds_asked_for_are_drawn():
    mask = example("inpainting", noise(20), kinds=["band"]).inputs["mask"].numpy()
    assert (mask == mask[:, :, :1]).all()
    mask = example("inpainting", noise(20), kinds=["stroke"]).inputs["mask"].numpy()
    assert not (mask == mask[:, :, :1]).all()


@pytest.mark.parametrize("name", ["inpainting", "enhancement"])
def test_an_example_is_made_alike_alone_and_in_a_batch(name):
    images = noise()
    whole, alone = example(name, images), example(name, images[2:3], first=2)
    for key, tensor in alone.inputs.items():
        np.testing.assert_allclose(tensor[0], whole.inputs[key][2], atol=1e-6)
    assert not np.array_equal(whole.inputs["image"][0] - images[0], alone.inputs["image"][0])


WORSE = {
    "gaussian": [0.5, 0.5],
    "rician": [0.5, 0.5],
    "resolution": [0.5, 0.5],
    "contrast": [0.5, 0.5],
}
NONE = {"gaussian": [0, 0]}


@pytest.mark.parametrize("option", WORSE)
def test_every_degradation_makes_the_image_worse_and_asks_for_the_clean_one(option):
    images = noise()
    found = example("enhancement", images, **{**NONE, option: WORSE[option]})
    worse = found.inputs["image"].numpy()
    assert np.abs(worse - images).mean() > 0.1
    np.testing.assert_array_equal(found.real, images)
    np.testing.assert_array_equal(found.condition, worse)
    assert found.compose is None
    assert found.weight is None


def test_the_amount_is_drawn_for_each_example():
    images = np.zeros((200, 8, 8, 2), np.float32)
    task = build_task("enhancement", Patches((8, 8, 2)), gaussian=[0.1, 0.5])
    with step_context(example_keys(3, tf.range(200, dtype=tf.int64))):
        worse = task.example(tf.constant(images), None).inputs["image"].numpy()
    spread = worse.std(axis=(1, 2, 3))
    assert spread.mean() == pytest.approx(0.3, abs=0.02)
    assert spread.min() < 0.15
    assert spread.max() > 0.45


def test_a_task_for_volumes():
    task = build_task("inpainting", Patches((6, 8, 8, 1)), share=[0.25, 0.25])
    images = tf.ones((3, 6, 8, 8, 1))
    with step_context(example_keys(0, tf.range(3, dtype=tf.int64))):
        found = task.example(images, None)
    assert found.inputs["mask"].shape == (3, 6, 8, 8, 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("inpaintin", {}, "Did you mean 'inpainting'"),
        ("inpainting", {"shar": [0.1, 0.2]}, "Did you mean 'share'"),
        ("inpainting", {"share": [0.0, 0.2]}, "between 0 and 1, both excluded"),
        ("inpainting", {"share": [0.4, 0.2]}, r"got \[0.4, 0.2\]"),
        ("inpainting", {"share": [0.4]}, r"must be \[low, high\]"),
        ("inpainting", {"kinds": []}, "task.kinds is empty. Known: band, box, stroke"),
        ("inpainting", {"kinds": ["boxes"]}, "Did you mean 'box'"),
        ("enhancement", NONE, "makes nothing worse"),
        ("enhancement", {"gaussian": [-0.1, 0.2]}, "0 or more"),
        ("enhancement", {"resolution": [0.0, 1.0]}, "above 0"),
        ("enhancement", {"contrast": [0.5, 1.5]}, "between 0 and 1"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_task(name, PATCHES, **options)


def constant_generator(value):
    """A generator with inputs `image` and `mask` that makes one value everywhere."""
    image, mask = layers.Input(SHAPE, name="image"), layers.Input((*SHAPE[:-1], 1), name="mask")
    made = layers.Conv2D(2, 1, kernel_initializer="zeros", bias_initializer="zeros")(image)
    made = layers.Rescaling(1.0, offset=value)(made + 0.0 * mask)
    return models.Model({"image": image, "mask": mask}, made)


def mean_critic(channels):
    """A critic whose logit is the mean of the image; the condition does not count."""
    image = layers.Input(SHAPE, name="image")
    condition = layers.Input((*SHAPE[:-1], channels), name="condition")
    whole = layers.Concatenate()([image, 0.0 * condition])
    logits = layers.Dense(1, kernel_initializer="ones")(layers.GlobalAveragePooling2D()(whole))
    return models.Model({"image": image, "condition": condition}, {"logits_0": logits})


def test_in_the_game_the_critic_sees_the_whole_image_and_l1_counts_holes():
    task = build_task("inpainting", PATCHES, share=[0.3, 0.3])
    loss = AdversarialLoss(kind="wasserstein", l1=10.0)
    game = task.game(loss, lambda: constant_generator(3.0), mean_critic)
    images = noise()
    with step_context(example_keys(3, tf.range(4, dtype=tf.int64))):
        mask = task.example(tf.constant(images), None).inputs["mask"].numpy()
        terms, _ = game.generator_terms(tf.constant(images), None)
        made = game.sample(tf.constant(images), None)
    whole = np.where(mask == 1, 3.0, images)
    np.testing.assert_array_equal(made["fake"], whole)
    # The logit is the sum over channels of the means.
    adversarial = -whole.mean(axis=(1, 2)).sum(axis=-1)
    np.testing.assert_allclose(terms["adversarial"], adversarial, rtol=1e-4)
    missed = (np.abs(images - 3.0).mean(axis=-1) * mask[..., 0]).sum(axis=(1, 2))
    np.testing.assert_allclose(terms["l1"], 10 * missed / mask.sum(axis=(1, 2, 3)), rtol=1e-4)
