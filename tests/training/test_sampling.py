import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.training.adversarial.sampling import sample
from segkit.training.adversarial.tasks import Patches
from segkit.training.adversarial.tasks import build_task

SHAPE = (8, 8, 1)


def batches(number, size=2, targets=False):
    """Batches of numbered examples whose voxels and labels hold their number."""
    for first in range(0, number, size):
        numbers = np.arange(first, first + size)
        images = np.ones((size, *SHAPE), np.float32) * numbers.astype(np.float32).reshape(
            -1, 1, 1, 1
        )
        labels = tf.constant(images[..., 0] % 2, tf.int32)
        if targets:
            labels = {"label": labels, "target": tf.constant(numbers % 2, tf.int32)}
        cases = tf.constant([f"case{n}" for n in numbers])
        yield cases, tf.constant(images), labels


def noise_model():
    noise = keras.Input((64,), name="noise")
    return keras.Model({"noise": noise}, keras.layers.Reshape(SHAPE)(noise))


def test_noise_belongs_to_the_number_of_an_example_and_the_seed():
    task = build_task("noise", Patches(SHAPE))
    found = sample(task, noise_model(), batches(8), count=5, seed=1)
    assert found.cases == [f"case{n}" for n in range(5)]
    assert found.made.shape == found.real.shape == (5, *SHAPE)
    assert found.labels.shape == (5, 8, 8)
    assert found.given is None
    assert found.mask is None
    assert len(np.unique(found.made)) > 300
    other = sample(task, noise_model(), batches(8, size=4), count=5, seed=1)
    np.testing.assert_array_equal(other.made, found.made)
    np.testing.assert_array_equal(other.real[:, 0, 0, 0], np.arange(5))
    assert not np.allclose(
        sample(task, noise_model(), batches(8), count=5, seed=2).made, found.made
    )


def test_a_generator_of_classes_is_given_them():
    label = keras.Input((), dtype="int32", name="class")
    noise = keras.Input((4,), name="noise")
    made = keras.layers.Reshape(SHAPE)(keras.layers.Embedding(2, 64, name="e")(label))
    model = keras.Model({"class": label, "noise": noise}, made)
    model.get_layer("e").set_weights([np.arange(2.0)[:, None] * np.ones((2, 64))])
    task = build_task("noise", Patches(SHAPE))
    found = sample(task, model, batches(4, targets=True), count=4, seed=0)
    np.testing.assert_array_equal(found.made[:, 0, 0, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(found.labels[:, 0, 0], [0, 1, 0, 1])


def test_what_is_known_stays_around_filled_holes():
    image, mask = keras.Input(SHAPE, name="image"), keras.Input(SHAPE, name="mask")
    model = keras.Model({"image": image, "mask": mask}, keras.layers.Rescaling(0.0, -7.0)(image))
    task = build_task("inpainting", Patches(SHAPE))
    found = sample(task, model, batches(6), count=6, seed=0)
    holes = found.mask > 0
    assert 0.05 < holes.mean() < 0.45
    np.testing.assert_array_equal(found.made[holes], -7)
    np.testing.assert_array_equal(found.made[~holes], found.real[~holes])
    np.testing.assert_array_equal(found.given, np.where(holes, 0, found.real))


@pytest.mark.parametrize(("name", "changed"), [("style", False), ("enhancement", True)])
def test_what_a_generator_was_given_comes_back(name, changed):
    image = keras.Input(SHAPE, name="image")
    model = keras.Model({"image": image}, keras.layers.Rescaling(1.0, 1.0)(image))
    found = sample(build_task(name, Patches(SHAPE)), model, batches(4), count=4, seed=0)
    np.testing.assert_allclose(found.made, found.given + 1, atol=1e-6)
    assert np.allclose(found.given, found.real) is not changed
