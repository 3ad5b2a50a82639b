"""Batch normalization over groups of examples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ShapeError
from segkit.layers.batch_norm import BatchNormalization
from segkit.layers.step_context import step_context

IMAGES = np.random.default_rng(0).normal(3, 2, (8, 4, 5, 3)).astype(np.float32)
KEYS = np.zeros((8, 2), np.uint32)


def test_groups_of_the_whole_batch_are_keras_batch_normalization():
    ours, theirs = BatchNormalization(8), keras.layers.BatchNormalization(epsilon=1e-5)
    np.testing.assert_allclose(
        ours(IMAGES, training=True), theirs(IMAGES, training=True), atol=1e-5
    )
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5)
    np.testing.assert_allclose(ours(IMAGES), theirs(IMAGES), rtol=1e-4)


def test_each_group_has_mean_0_and_variance_1_and_knows_nothing_of_the_others():
    layer = BatchNormalization(2)
    found = layer(IMAGES, training=True).numpy()
    for group in np.split(found, 4):
        np.testing.assert_allclose(group.mean(axis=(0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(group.var(axis=(0, 1, 2)), 1, rtol=1e-4)
    np.testing.assert_allclose(layer(IMAGES[2:4], training=True), found[2:4], atol=1e-6)


def test_running_statistics_move_by_the_mean_over_groups():
    layer = BatchNormalization(4, momentum=0.9)
    layer(IMAGES, training=True)
    halves = np.split(IMAGES.astype(np.float64), 2)
    mean = np.mean([half.mean(axis=(0, 1, 2)) for half in halves], axis=0)
    variance = np.mean([half.var(axis=(0, 1, 2)) for half in halves], axis=0)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance, rtol=1e-5)


def test_within_a_step_statistics_are_handed_over_instead_of_assigned():
    layer, other = BatchNormalization(4), BatchNormalization(4)
    other(IMAGES, training=True)
    layer.build(IMAGES.shape)
    with step_context(KEYS) as context:
        layer(IMAGES, training=True)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))
    for name in ("moving_mean", "moving_variance"):
        update = context.updates[getattr(layer, name).path]
        np.testing.assert_array_equal(update, getattr(other, name))


def test_a_batch_that_is_not_whole_groups_is_refused():
    with pytest.raises(ShapeError, match="groups of 3 examples, got 8"):
        BatchNormalization(3)(IMAGES, training=True)
    BatchNormalization(3)(IMAGES, training=False)  # inference takes any number


def test_float16_images_far_from_zero_are_normalized_in_float32():
    layer = BatchNormalization(2, dtype="mixed_float16")
    found = layer(1000 + IMAGES, training=True)
    assert found.dtype == tf.float16
    np.testing.assert_allclose(np.float32(found).std(), 1, rtol=0.2)


def test_a_model_with_it_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((4, 5, 3))
    model = keras.Model(inputs, BatchNormalization(4, momentum=0.5, epsilon=1e-3)(inputs))
    model(IMAGES, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    assert loaded.layers[-1].group_size == 4
