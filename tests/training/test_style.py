"""The game of style transfer: its terms by hand, for generators and critics of one line."""

import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import models

from segkit.config import config_from_dict
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.layers.step_context import step_context
from segkit.losses.adversarial import AdversarialLoss
from segkit.training.adversarial.style import Segmenter
from segkit.training.adversarial.style import StyleGame
from segkit.training.adversarial.tasks import Patches
from segkit.training.adversarial.tasks import build_task
from segkit.training.run import create_run
from segkit.training.step import example_keys

SHAPE = (8, 10, 1)


def line(factor, offset):
    """A generator that makes `factor * image + offset`, with weights to learn."""
    image = layers.Input(SHAPE, name="image")
    conv = layers.Conv2D(1, 1)
    model = models.Model({"image": image}, conv(image))
    conv.set_weights([np.full((1, 1, 1, 1), factor, np.float32), np.full(1, offset, np.float32)])
    return model


def mean_critic(factor):
    """A critic whose logit is `factor` times the mean of the image."""
    image = layers.Input(SHAPE, name="image")
    dense = layers.Dense(1)
    model = models.Model(
        {"image": image}, {"logits_0": dense(layers.GlobalAveragePooling2D()(image))}
    )
    dense.set_weights([np.full((1, 1), factor, np.float32), np.zeros(1, np.float32)])
    return model


def thresholder(threshold=0.0, slope=100.0):
    """A segmenter whose class is 1 where the image exceeds the threshold."""
    image = layers.Input(SHAPE, name="image")
    conv = layers.Conv2D(2, 1, name="logits")
    model = models.Model(image, conv(image))
    kernel = np.zeros((1, 1, 1, 2), np.float32)
    kernel[..., 1] = slope
    conv.set_weights([kernel, np.array([0, -slope * threshold], np.float32)])
    return model


def images(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(1, 1, (3, *SHAPE)).astype(np.float32),
        "style": rng.normal(-2, 2, (3, *SHAPE)).astype(np.float32),
    }


def game_of(loss, forth=(2.0, 1.0), back=(0.5, 0.0), segmenter=None):
    generators = [line(*forth), line(*back)]
    return StyleGame(loss, generators, [mean_critic(1.0), mean_critic(3.0)], segmenter)


def called(method, batch, labels=None, **options):
    with step_context(example_keys(0, tf.range(3, dtype=tf.int64))):
        terms, watched = method(tf.nest.map_structure(tf.constant, batch), labels, **options)
    return {k: v.numpy() for k, v in terms.items()}, {k: v.numpy() for k, v in watched.items()}


def mean(array):
    return array.mean(axis=(1, 2, 3))


def test_the_terms_of_the_generators_are_those_by_hand():
    batch = images()
    a, b = batch["image"], batch["style"]
    loss = AdversarialLoss(kind="wasserstein", cycle=10.0, identity=5.0)
    terms, _ = called(game_of(loss).generator_terms, batch)
    # Forth makes 2 a + 1, which critic 1 sees; back makes b / 2, which critic 3 sees.
    np.testing.assert_allclose(
        terms["adversarial"], -mean(2 * a + 1) - 3 * mean(b / 2), rtol=1e-4, atol=1e-5
    )
    # There and back again: a + 1/2, and b + 1: distances 1/2 and 1.
    np.testing.assert_allclose(terms["cycle"], 10 * 1.5, rtol=1e-5)
    expected = 5 * (mean(np.abs(b + 1)) + mean(np.abs(a / 2)))
    np.testing.assert_allclose(terms["identity"], expected, rtol=1e-4)
    assert set(terms) == {"adversarial", "cycle", "identity"}


def test_generators_that_undo_each_other_have_no_cycle_loss():
    loss = AdversarialLoss(cycle=10.0, identity=5.0)
    terms, _ = called(game_of(loss, (2.0, 1.0), (0.5, -0.5)).generator_terms, images())
    np.testing.assert_allclose(terms["cycle"], 0, atol=1e-5)
    terms, _ = called(game_of(loss, (1.0, 0.0), (1.0, 0.0)).generator_terms, images())
    np.testing.assert_allclose(terms["identity"], 0, atol=1e-6)


def test_the_terms_of_the_critics_are_those_by_hand():
    batch = images()
    a, b = batch["image"], batch["style"]
    loss = AdversarialLoss(kind="wasserstein", r1=2.0, gradient_penalty=10.0)
    terms, watched = called(game_of(loss).critic_terms, batch)
    of_style = mean(2 * a + 1) - mean(b)
    of_source = 3 * mean(b / 2) - 3 * mean(a)
    np.testing.assert_allclose(terms["critic"], of_style + of_source, rtol=1e-4)
    # The gradient of factor * mean is factor / 80 in each voxel: squared norm factor^2 / 80.
    np.testing.assert_allclose(terms["r1"], 2 * (1 + 9) / 80 / 2, rtol=1e-4)
    penalty = sum((factor / np.sqrt(80) - 1) ** 2 for factor in (1, 3))
    np.testing.assert_allclose(terms["gradient_penalty"], 10 * penalty, rtol=1e-4)
    right = (mean(b) > mean(2 * a + 1)).astype(float) + (mean(a) > mean(b / 2))
    np.testing.assert_allclose(watched["critic_accuracy"], right / 2)
    held_out, _ = called(game_of(loss).critic_terms, batch, training=False)
    assert set(held_out) == {"critic"}


def test_critics_see_augmented_images_in_training_only():
    batch = images()
    plain = game_of(AdversarialLoss(kind="wasserstein"))
    augmented = game_of(AdversarialLoss(kind="wasserstein", critic_augment=["cutout"]))
    expected = called(plain.critic_terms, batch)[0]["critic"]
    assert np.abs(called(augmented.critic_terms, batch)[0]["critic"] - expected).max() > 0.01
    held_out = called(augmented.critic_terms, batch, training=False)[0]["critic"]
    np.testing.assert_array_equal(held_out, expected)


def test_the_consistency_is_0_for_a_translator_that_keeps_the_segmenter_right():
    batch = images()
    labels = (batch["image"][..., 0] > 0).astype(np.int32)
    far = np.where(labels[..., None] == 1, 1.0, -1.0).astype(np.float32)
    batch["image"] = far  # clear of the threshold
    loss = AdversarialLoss(kind="wasserstein", consistency=1.0)

    def consistency(forth, given):
        game = game_of(loss, forth, segmenter=Segmenter(thresholder()))
        return called(game.generator_terms, batch, given)[0]["consistency"]

    np.testing.assert_allclose(consistency((2.0, 0.5), labels), 0, atol=1e-6)
    # Turned around, each voxel has the wrong class by 100 logits.
    np.testing.assert_allclose(consistency((-1.0, 0.0), {"label": labels}), 100, rtol=1e-4)


def test_the_segmenter_learns_nothing_and_the_translator_learns_from_it():
    batch, segmenter = images(), thresholder(slope=1.0)
    labels = (batch["image"][..., 0] > 2).astype(np.int32)
    loss = AdversarialLoss(kind="wasserstein", consistency=1.0)
    game = game_of(loss, segmenter=Segmenter(segmenter))
    with tf.GradientTape() as tape, step_context(example_keys(0, tf.range(3, dtype=tf.int64))):
        terms, _ = game.generator_terms(batch, labels)
        total = tf.reduce_sum(terms["consistency"])
    assert segmenter.trainable_variables == []
    forth, back = game.generators
    gradients = tape.gradient(total, [v.value for v in forth.model.trainable_variables])
    assert all(tf.reduce_any(g != 0) for g in gradients)
    assert len(back.model.trainable_variables) == 2


def test_a_sample_is_the_source_in_the_style_beside_a_real_image_of_it():
    batch = images()
    with step_context(example_keys(0, tf.range(3, dtype=tf.int64))):
        found = game_of(AdversarialLoss()).sample(batch, None)
    np.testing.assert_allclose(found["fake"], 2 * batch["image"] + 1, rtol=1e-5)
    np.testing.assert_array_equal(found["real"], batch["style"])
    np.testing.assert_array_equal(found["condition"], batch["image"])


def test_both_networks_of_a_kind_are_built_and_told_apart():
    made = []

    def build(model):
        made.append(model)
        return model

    task = build_task("style", Patches(SHAPE))
    game = task.game(
        AdversarialLoss(), lambda: build(line(1.0, 0.0)), lambda channels: build(mean_critic(1.0))
    )
    assert [p.model for p in (*game.generators, *game.critics)] == made
    assert len({p.name for p in (*game.generators, *game.critics)}) == 4


@pytest.fixture(scope="module")
def segmenter_run(tmp_path_factory):
    """A run whose network is `thresholder`."""
    folder = tmp_path_factory.mktemp("segmenter") / "run"
    config = {
        "model": {"name": "unet"},
        "data": {"patch_size": list(SHAPE[:-1])},
        "loss": {"name": "ce_dice"},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    manifest = {
        "channels": ["MRI"],
        "classes": [{"name": "background", "value": 0}, {"name": "bright", "value": 1}],
        "preprocess": {"spacing_mm": None},
    }
    create_run(folder, config_from_dict(config), manifest)
    thresholder().save(folder / "model.keras")
    return folder


def test_a_segmenter_comes_from_its_run(segmenter_run):
    task = build_task("style", Patches(SHAPE, num_classes=2), segmenter=str(segmenter_run))
    assert task.labelled
    loss = AdversarialLoss(consistency=2.0)
    game = task.game(loss, lambda: line(1.0, 0.0), lambda channels: mean_critic(1.0))
    batch = images()
    batch["image"] = np.sign(batch["image"])
    labels = (batch["image"][..., 0] > 0).astype(np.int32)
    terms, _ = called(game.generator_terms, batch, labels)
    np.testing.assert_allclose(terms["consistency"], 0, atol=1e-6)
    terms, _ = called(game.generator_terms, batch, 1 - labels)
    np.testing.assert_allclose(terms["consistency"], 200, rtol=1e-4)


def test_what_does_not_go_together_is_refused(segmenter_run, tmp_path):
    def game(patches, segmenter, shape_of=line, **weights):
        task = build_task("style", patches, segmenter=segmenter)
        loss = AdversarialLoss(**weights)
        return task.game(loss, lambda: shape_of(1.0, 0.0), lambda channels: mean_critic(1.0))

    run, labelled = str(segmenter_run), Patches(SHAPE, num_classes=2)
    with pytest.raises(ConfigError, match="consistency and task.segmenter go together"):
        game(labelled, None, consistency=1.0)
    with pytest.raises(ConfigError, match="consistency and task.segmenter go together"):
        game(labelled, run)
    with pytest.raises(ConfigError, match="data.path has none"):
        game(Patches(SHAPE), run, consistency=1.0)
    with pytest.raises(ConfigError, match="tells 2 classes or regions apart, the data set has 3"):
        game(Patches(SHAPE, num_classes=3), run, consistency=1.0)
    with pytest.raises(ShapeError, match=r"takes patches of \(8, 10, 1\), and they are"):
        game(Patches((8, 8, 1), num_classes=2), run, consistency=1.0)
    with pytest.raises(DataError, match="is not a trained run"):
        game(labelled, str(tmp_path), consistency=1.0)
    with pytest.raises(ConfigError, match=r"Set loss.feature_matching=0"):
        game(labelled, None, feature_matching=1.0)
    with pytest.raises(ConfigError, match=r"Set loss.l1=0"):
        game(labelled, None, l1=1.0)
    with pytest.raises(ConfigError, match="Choose two that go together"):
        game(labelled, None, shape_of=lambda *_: of_noise())


def of_noise():
    noise = layers.Input((4,), name="noise")
    return models.Model({"noise": noise}, layers.Reshape(SHAPE)(layers.Dense(80)(noise)))
