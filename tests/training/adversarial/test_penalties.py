"""Penalties against values by hand and against finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.per_example import uniform
from segkit.layers.step_context import step_context
from segkit.training.adversarial.penalties import gradient_penalty
from segkit.training.adversarial.penalties import r1
from segkit.training.adversarial.penalties import squared_norm
from segkit.training.replica import example_keys

STEP = 1e-2


def keys():
    return example_keys(0, tf.range(2, dtype=tf.int64))


@pytest.fixture
def critic():
    """A smooth critic of images 4 x 4 with one value each."""
    layers = [
        keras.Input((4, 4, 1)),
        keras.layers.Conv2D(3, 3, activation="tanh", padding="same"),
        keras.layers.Conv2D(1, 3, activation="tanh"),
        keras.layers.Flatten(),
        keras.layers.Dense(1),
    ]
    return keras.Sequential(layers)


@pytest.fixture
def images():
    return tf.random.normal((2, 4, 4, 1), seed=1), tf.random.normal((2, 4, 4, 1), seed=2)


def slopes(value, images):
    """Gradient of `value` at each image, by central differences."""
    images = np.asarray(images)
    found = np.zeros_like(images)
    for place in np.ndindex(images.shape[1:]):
        move = np.zeros_like(images)
        move[(slice(None), *place)] = STEP
        found[(slice(None), *place)] = (value(images + move) - value(images - move)) / (2 * STEP)
    return found


def test_r1_of_a_linear_critic_is_half_the_squared_norm_of_its_weights(images):
    weights = np.arange(16.0).reshape(4, 4, 1).astype(np.float32)
    found = r1(lambda x: tf.reduce_sum(x * weights, axis=[1, 2, 3]), images[0])
    np.testing.assert_allclose(found, [(weights**2).sum() / 2] * 2, rtol=1e-6)


def test_the_gradient_penalty_of_a_linear_critic_is_the_squared_distance_of_its_norm_from_1(images):
    weights = np.full((4, 4, 1), 0.5, np.float32)  # of norm 2
    with step_context(keys()):
        found = gradient_penalty(lambda x: tf.reduce_sum(x * weights, axis=[1, 2, 3]), *images)
    np.testing.assert_allclose(found, [1.0, 1.0], rtol=1e-5)


def test_r1_is_that_of_finite_differences(critic, images):
    def value(x):
        return critic(x)[:, 0]

    expected = (slopes(lambda x: value(x).numpy(), images[0]) ** 2).sum((1, 2, 3)) / 2
    np.testing.assert_allclose(r1(value, images[0]), expected, rtol=1e-3)


def test_the_gradient_penalty_is_that_of_finite_differences_between_the_images(critic, images):
    def value(x):
        return critic(x)[:, 0]

    with step_context(keys()):
        found = gradient_penalty(value, *images)
        share = uniform("gradient_penalty", None, 2, (1, 1, 1)).numpy()
    assert share[0] != share[1]
    between = share * images[0] + (1 - share) * images[1]
    norms = np.sqrt((slopes(lambda x: value(x).numpy(), between) ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(found, (norms - 1) ** 2, rtol=1e-3)


@pytest.mark.parametrize("xla", [False, True])
def test_the_weights_learn_from_a_penalty_as_finite_differences_say(critic, images, xla):
    kernel = critic.layers[0].kernel

    @tf.function(jit_compile=xla)
    def learn():
        with tf.GradientTape() as tape:
            penalty = tf.reduce_sum(squared_norm(lambda x: critic(x)[:, 0], images[0]))
        return tape.gradient(penalty, kernel.value)

    found, place = learn().numpy(), (1, 1, 0, 2)
    start, values = kernel.numpy(), []
    for sign in (1, -1):
        moved = start.copy()
        moved[place] += sign * STEP
        kernel.assign(moved)
        values.append(float(tf.reduce_sum(squared_norm(lambda x: critic(x)[:, 0], images[0]))))
    kernel.assign(start)
    np.testing.assert_allclose(found[place], (values[0] - values[1]) / (2 * STEP), rtol=1e-2)


def test_a_critic_without_a_slope_has_a_finite_penalty(images):
    with step_context(keys()), tf.GradientTape() as tape:
        weight = tf.constant(0.0)
        tape.watch(weight)
        found = gradient_penalty(lambda x: weight * tf.reduce_sum(x, axis=[1, 2, 3]), *images)
    np.testing.assert_allclose(found, [1.0, 1.0], rtol=1e-5)
    assert np.isfinite(tape.gradient(found, weight))
