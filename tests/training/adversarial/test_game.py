"""What a game makes of a task, and which parts do not go together."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from segkit.errors import ConfigError
from segkit.layers.per_example import normal
from segkit.layers.step_context import step_context
from segkit.losses import build_loss
from segkit.training.adversarial.game import Game
from segkit.training.adversarial.game import Player
from segkit.training.adversarial.game import features_of
from segkit.training.adversarial.tasks import Example
from segkit.training.adversarial.tasks import Patches
from segkit.training.adversarial.tasks import Task
from segkit.training.adversarial.tasks import build_task
from segkit.training.replica import example_keys
from tests.training.adversarial.games import linear_critic
from tests.training.adversarial.games import linear_generator

SHAPE = (2, 2, 1)


def context(count=3, seed=0):
    return step_context(example_keys(seed, tf.range(count, dtype=tf.int64)))


def image_generator():
    image = keras.Input(SHAPE, name="image")
    return keras.Model({"image": image}, layers.Conv2D(1, 1, name="g")(image), name="restorer")


def critic_with(**inputs):
    """A critic that adds the mean of all it sees."""
    image = {"image": keras.Input(SHAPE, name="image")}
    found = image | {name: keras.Input(shape, name=name) for name, shape in inputs.items()}
    logits = sum(keras.ops.mean(x, axis=-1, keepdims=True) for x in found.values())
    return keras.Model(found, {"logits_0": logits})


def test_labels_become_the_input_and_the_condition():
    task = build_task("labels", Patches(SHAPE, 3))
    labels = tf.constant([[[0, 1], [2, 1]]])
    example = task.example(tf.zeros((1, *SHAPE)), labels)
    np.testing.assert_array_equal(example.inputs["label"], labels)
    np.testing.assert_array_equal(example.condition, np.eye(3)[labels.numpy()])
    assert task.condition_channels == 3
    beside = task.example(tf.zeros((1, *SHAPE)), {"label": labels, "target": tf.constant([4])})
    np.testing.assert_array_equal(beside.ids, [4])
    np.testing.assert_array_equal(beside.shown[..., 0], labels)


def test_labels_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="task 'labels' makes images from label maps, and the"):
        build_task("labels", Patches(SHAPE, 0))
    with pytest.raises(ConfigError, match="Did you mean 'noise'"):
        build_task("noises", Patches(SHAPE))


def test_noise_belongs_to_the_example_and_is_the_same_for_both_sides():
    task, loss = build_task("noise", Patches(SHAPE)), build_loss("adversarial", kind="wasserstein")
    game = Game(task, loss, linear_generator(), linear_critic())
    images = tf.zeros((3, *SHAPE))
    with context():
        made = game.sample(images, None)["fake"].numpy()
        terms, watched = game.critic_terms(images, None)
        own, _ = game.generator_terms(images, None)
    with context(2):
        np.testing.assert_array_equal(game.sample(images[:2], None)["fake"], made[:2])
    with context(seed=1):
        assert not np.allclose(game.sample(images, None)["fake"], made)
    assert not np.allclose(made[0] / made[1], 1)
    np.testing.assert_allclose(terms["critic"], watched["critic_fake"] - 0.0, rtol=1e-5)
    np.testing.assert_allclose(own["adversarial"], -watched["critic_fake"], rtol=1e-5)


class Holes(Task):
    """Restores the left half of images; the critic sees which half that is."""

    paired, metric, gives, condition_channels = True, "psnr", ("image",), 1

    def example(self, images, labels):
        hole = tf.constant([[[1.0], [0.0]], [[1.0], [0.0]]])[None] + 0.0 * images
        return Example(
            {"image": images * (1 - hole)},
            images,
            condition=hole,
            weight=hole,
            compose=lambda made: hole * made + (1 - hole) * images,
            shown=images * (1 - hole),
        )


def test_what_was_made_is_composed_weighed_and_judged_beside_its_condition():
    loss = build_loss("adversarial", kind="wasserstein", l1=2.0)
    game = Game(Holes(Patches(SHAPE)), loss, image_generator(), critic_with(condition=SHAPE))
    game.generators[0].model.set_weights([np.ones((1, 1, 1, 1)), np.full((1,), 5.0)])
    images = tf.reshape(tf.range(12, dtype=tf.float32), (3, *SHAPE))
    with context():
        sample = game.sample(images, None)
        terms, watched = game.critic_terms(images, None)
        own, _ = game.generator_terms(images, None)
    known = images.numpy()[:, :, 1]
    np.testing.assert_array_equal(sample["fake"][:, :, 1], known)
    np.testing.assert_array_equal(sample["fake"][:, :, 0], np.full((3, 2, 1), 5.0))
    # Half of the voxels have the condition 1.
    np.testing.assert_allclose(watched["critic_real"], images.numpy().mean((1, 2, 3)) + 0.5)
    truth = images.numpy()[:, :, 0]
    np.testing.assert_allclose(own["l1"], 2 * np.abs(5 - truth).mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(
        terms["critic"], watched["critic_fake"] - watched["critic_real"], rtol=1e-5
    )


class Paired(Task):
    """Images from noise that are compared with real ones."""

    paired = True


def critic_of_voxels():
    """A critic whose only features are twice the voxels."""
    image = keras.Input(SHAPE, name="image")
    return keras.Model({"image": image}, {"logits_0": image, "features_0_0": 2.0 * image})


def test_images_of_other_noise_are_driven_apart():
    loss = build_loss("adversarial", feature_matching=4.0, diversity=3.0)
    game = Game(Paired(Patches(SHAPE)), loss, linear_generator(), critic_of_voxels())
    g = np.array([0.3, -0.8, 1.1, -0.2])
    game.generators[0].model.set_weights([g[None]])
    with context():
        terms, _ = game.generator_terms(tf.zeros((3, *SHAPE)), None)
        z, other = (normal(f"generator_{n}", None, 3, (1,)) for n in ("noise", "other_noise"))
    distance = np.abs(2 * (z - other) * g).mean(1)
    np.testing.assert_allclose(terms["diversity"], -3 * distance, rtol=1e-5)
    assert (distance > 0).all()


def test_with_diversity_images_vary_as_real_ones_do_and_without_they_do_not():
    # Of normal voxels with deviation 1 the slope by the generator's deviation g, both weights 1:
    # feature matching 2 sqrt(2 / pi) g / sqrt(1 + g^2), diversity -2 / sqrt(pi).
    count = 20_000
    real = tf.random.stateless_normal((count, *SHAPE), seed=(1, 2))

    def slope(g, diversity):
        loss = build_loss("adversarial", feature_matching=1.0, diversity=diversity)
        game = Game(Paired(Patches(SHAPE)), loss, linear_generator(), critic_of_voxels())
        model = game.generators[0].model
        model.set_weights([np.full((1, 4), g)])
        with context(count), tf.GradientTape() as tape:
            terms, _ = game.generator_terms(real, None)
            compared = sum(tf.reduce_mean(v) for k, v in terms.items() if k != "adversarial")
        return tape.gradient(compared, model.trainable_weights[0].value).numpy().sum()

    for g in (0.5, 1.0, 2.0):
        matching = 2 * np.sqrt(2 / np.pi) * g / np.sqrt(1 + g**2)
        assert slope(g, 0.0) == pytest.approx(matching, abs=0.03)
        assert slope(g, 1.0) == pytest.approx(matching - 2 / np.sqrt(np.pi), abs=0.03)
    assert slope(0.5, 1.0) < 0 < slope(2.0, 1.0)
    assert slope(1.0, 1.0) == pytest.approx(0, abs=0.03)


def test_a_class_reaches_generator_and_critic():
    number = keras.Input((), dtype="int32", name="class")
    made = layers.Reshape(SHAPE)(layers.Embedding(5, 4, name="e")(number))
    generator = keras.Model({"class": number}, made, name="dcgan")
    critic = critic_with()
    game = Game(build_task("noise", Patches(SHAPE)), build_loss("adversarial"), generator, critic)
    labels = {"label": tf.zeros((3, 2, 2), tf.int32), "target": tf.constant([0, 4, 4])}
    with context():
        fake = game.sample(tf.zeros((3, *SHAPE)), labels)["fake"].numpy()
    np.testing.assert_array_equal(fake[1], fake[2])
    assert not np.array_equal(fake[0], fake[1])


def test_updates_of_networks_whose_layers_have_the_same_names_stay_apart():
    from segkit.layers.batch_norm import BatchNormalization

    def network():
        image = keras.Input(SHAPE, name="image")
        return keras.Model({"image": image}, BatchNormalization(name="norm")(image))

    one, other = (Player(name, network()) for name in ("one", "other"))
    images = tf.random.normal((4, *SHAPE))
    with context(4) as step:
        one({"image": images}, training=True)
        one({"image": images + 9.0}, training=True)  # the first call counts
        other({"image": images + 5.0}, training=True)
    mean = {path.split("/")[0]: v for path, v in step.updates.items() if path.endswith("_mean")}
    assert mean.keys() == {"one", "other"}
    np.testing.assert_allclose(mean["one"], 0.01 * images.numpy().mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(mean["other"] - mean["one"], [0.05], rtol=1e-3)


def test_features_are_told_apart_by_scale():
    outputs = {"logits_0": 0, "features_0_0": 1, "features_0_1": 2, "features_10_0": 3}
    assert features_of(outputs) == [[1, 2], [3]]


def test_a_generator_without_noise_has_no_diversity():
    loss = build_loss("adversarial", feature_matching=1.0, diversity=1.0)
    critic = critic_with(condition=SHAPE)
    with pytest.raises(ConfigError, match=r"has l1, feature_matching, r1.*Set loss.diversity=0"):
        Game(Holes(Patches(SHAPE)), loss, image_generator(), critic)


@pytest.mark.parametrize(
    ("task", "generator", "loss", "message"),
    [
        ("labels", linear_generator, {}, "takes noise, and the task gives label"),
        ("noise", image_generator, {}, "takes image, and the task gives noise only"),
        ("noise", linear_generator, {"l1": 1.0}, "loss.l1 is 1.0, but the task has no such term"),
        ("noise", linear_generator, {"feature_matching": 1.0, "diversity": 1.0}, "no such term"),
        (
            "noise",
            linear_generator,
            {"cycle": 1.0},
            "it has r1, gradient_penalty. Set loss.cycle=0",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(task, generator, loss, message):
    parts = build_task(task, Patches(SHAPE, 2)), build_loss("adversarial", **loss)
    with pytest.raises(ConfigError, match=message):
        Game(*parts, generator(), linear_critic())
