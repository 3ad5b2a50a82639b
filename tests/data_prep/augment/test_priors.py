"""Priors follow the geometry of a patch; changes of intensity pass them by."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from data_prep.augment import INTENSITY
from data_prep.augment.apply import Keys
from data_prep.augment.apply import augment_batch
from data_prep.augment.apply import augment_record
from data_prep.augment.policy import parse_policy
from data_prep.augment.random import make_keys

PATCH = (6, 8, 10)
COLOUR = ("saturation", "hue", "stain")


def make_batch(channels):
    """Two images in [0, 1] with two priors behind their channels, and labels."""
    rng = np.random.default_rng(0)
    image = rng.random((2, *PATCH, channels + 2), np.float32)
    image[..., channels:] = image[..., channels:] > 0.7
    return image, rng.integers(0, 3, (2, *PATCH)).astype(np.int32)


def augment(policy, image, label, priors, **more):
    keys = Keys(make_keys(3, tf.range(2)), make_keys(4, tf.zeros(2, tf.int32)))
    common = {"patch": PATCH, "spacing_mm": tf.ones((2, 3)), "num_classes": 3}
    changed, label = augment_batch(
        tf.constant(image),
        tf.constant(label),
        keys,
        parse_policy(policy),
        priors=priors,
        **common,
        **more,
    )
    return changed.numpy(), label.numpy()


@pytest.mark.parametrize("name", INTENSITY)
def test_a_change_of_intensity_leaves_priors_alone_and_does_the_same_to_the_image(name):
    channels = 3 if name in COLOUR else 1
    image, label = make_batch(channels)
    changed, _ = augment([{name: {}}], image, label, priors=2)
    np.testing.assert_array_equal(changed[..., channels:], image[..., channels:])
    alone, _ = augment([{name: {}}], image[..., :channels], label, priors=0)
    np.testing.assert_array_equal(changed[..., :channels], alone)
    assert np.abs(changed - image).max() > 0


def test_a_missing_channel_stays_zero_in_front_of_priors():
    image, label = make_batch(2)
    image[0, ..., 1] = 0
    policy = [{"gaussian_noise": {"probability": 1.0}}]
    noisy, _ = augment(policy, image, label, priors=2)
    kept, _ = augment(policy, image, label, priors=2, keep_missing=True)
    assert noisy[0, ..., 1].any()
    assert not kept[0, ..., 1].any()
    noisy[0, ..., 1] = 0
    np.testing.assert_array_equal(kept, noisy)


def test_geometry_and_mixing_move_priors_with_the_image():
    image, label = make_batch(1)
    image[..., 2] = image[..., 0]
    policy = [{"flip": {}}, {"rotation": {"degrees": 40}}, {"gamma": {}}, {"cutmix": {}}]
    moved, _ = augment([step for step in policy if "gamma" not in step], image, label, priors=2)
    np.testing.assert_array_equal(moved[..., 2], moved[..., 0])
    assert np.abs(moved - image).max() > 0.5
    changed, _ = augment(policy, image, label, priors=2)
    assert np.abs(changed[..., 2] - changed[..., 0]).max() > 0.01


def test_a_record_and_a_batch_are_augmented_alike():
    image, label = make_batch(1)
    policy = parse_policy([{"flip": {}}, {"gaussian_noise": {"std": [0.5, 1.0]}}, {"gamma": {}}])
    keys = Keys(make_keys(3, tf.range(1)), make_keys(4, tf.zeros(1, tf.int32)))
    record = {
        "image": tf.constant(image[0]),
        "label": tf.constant(label[0]),
        "spacing_mm": tf.ones(3),
        "slope": tf.ones(3),
        "intercept": tf.zeros(3),
    }
    options = {"num_classes": 3, "priors": 2}
    first, _ = augment_record(record, tf.zeros(3, tf.int32), PATCH, keys, policy, **options)
    options |= {"patch": PATCH, "spacing_mm": tf.ones((1, 3))}
    second, _ = augment_batch(
        tf.constant(image[:1]), tf.constant(label[:1]), keys, policy, **options
    )
    np.testing.assert_allclose(first, second[0], atol=1e-6)
