"""Labels and logits for the tests of losses."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def draw():
    """Function that draws labels and logits: `draw((3, 4, 5), classes=3, seed=0)`."""
    return _draw


@pytest.fixture
def logits_of():
    """Function to logits of two classes from the probability of the second one."""
    return _logits_of


@pytest.fixture
def gradient_of():
    """Function to the gradient of the summed loss: `gradient_of(loss, labels, logits)`."""
    return _gradient_of


def _draw(shape=(3, 4, 5), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, shape), rng.normal(size=(*shape, classes)).astype("float32")


def _logits_of(probs):
    probs = np.asarray(probs, "float64")
    return np.log(np.stack([1 - probs, probs], -1) + 1e-30).astype("float32")


def _gradient_of(loss, labels, logits):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(labels, logits)
    return tape.gradient(value, logits).numpy()
