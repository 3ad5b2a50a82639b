import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.losses import build_loss
from segkit.losses.adversarial import KINDS
from segkit.losses.adversarial import critic_accuracy
from segkit.losses.adversarial import critic_loss
from segkit.losses.adversarial import feature_distance
from segkit.losses.adversarial import generator_loss
from segkit.losses.adversarial import mean_logits
from segkit.losses.adversarial import weighted_l1

# One example: a scale with two positions, and one with a single position.
REAL = [np.float32([[[2.0], [0.0]]]), np.float32([[[0.5]]])]
FAKE = [np.float32([[[-2.0], [1.0]]]), np.float32([[[0.25]]])]


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize(
    ("kind", "critic", "generator"),
    [
        (
            "non_saturating",
            ((softplus(-2) + softplus(0) + softplus(-2) + softplus(1)) / 2)
            + softplus(-0.5)
            + softplus(0.25),
            (softplus(2) + softplus(-1)) / 2 + softplus(-0.25),
        ),
        # Scale 0: max(0, 1 - 2) + max(0, 1 - 0) = 1 and max(0, 1 - 2) + max(0, 1 + 1) = 2.
        ("hinge", (1 + 2) / 2 + (0.5 + 1.25), (2 - 1) / 2 - 0.25),
        # Scale 0: (1 + 1) / 2 of real, (4 + 1) / 2 of made.
        ("least_squares", (1 + 2.5) / 2 + (0.25 + 0.0625) / 2, (9 + 0) / 4 + 0.5625 / 2),
        ("wasserstein", (-1 - 2) / 2 + (0.25 - 0.5), (2 - 1) / 2 - 0.25),
    ],
)
def test_losses_are_means_over_positions_and_scales(kind, critic, generator):
    np.testing.assert_allclose(critic_loss(kind, REAL, FAKE), [critic / 2], rtol=1e-5)
    np.testing.assert_allclose(generator_loss(kind, FAKE), [generator / 2], rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Real: 2 right, 0 wrong; 0.5 right. Made: -2 right, 1 wrong; 0.25 wrong.
        ("hinge", ((1 + 0) / 2 / 2 + (1 + 0) / 2 / 2 + (1 + 0) / 2) / 2),
        # Around 1/2. Real: 2 right, 0 wrong; 0.5 wrong. Made: -2 right, 1 wrong; 0.25 right.
        ("least_squares", (0.25 + 0.25 + 0.5) / 2),
        # 2 > -2, 0 < 1; 0.5 > 0.25.
        ("wasserstein", (0.5 + 1) / 2),
    ],
)
def test_the_critic_is_right_where_it_tells_real_from_made(kind, expected):
    np.testing.assert_allclose(critic_accuracy(kind, REAL, FAKE), [expected])


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_float32_per_example_also_of_float16(kind):
    real, fake = ([tf.random.normal((3, 4, 4, 1)), tf.random.normal((3, 1))] for _ in range(2))
    half = [[tf.cast(x, tf.float16) for x in scales] for scales in (real, fake)]
    for values in (critic_loss(kind, *half), generator_loss(kind, half[1])):
        assert values.dtype == tf.float32
        assert values.shape == (3,)
    np.testing.assert_allclose(critic_loss(kind, *half), critic_loss(kind, real, fake), rtol=1e-2)
    np.testing.assert_allclose(mean_logits(REAL), [(1 + 0.5) / 2])


def test_feature_distance_is_the_sum_over_layers_and_the_mean_over_scales():
    real = [[tf.zeros((1, 2, 2)), tf.zeros((1, 2))], [tf.zeros((1, 4))]]
    fake = [[tf.ones((1, 2, 2)), 3 * tf.ones((1, 2))], [tf.constant([[1.0, -1, 2, 0]])]]
    np.testing.assert_allclose(feature_distance(real, fake), [((1 + 3) + 1) / 2])


def test_nothing_is_learned_from_the_features_of_real_images():
    real, fake = tf.ones((1, 4)), tf.zeros((1, 4))
    with tf.GradientTape() as tape:
        tape.watch([real, fake])
        distance = feature_distance([[real]], [[fake]])
    gradients = tape.gradient(distance, [real, fake])
    assert gradients[0] is None
    np.testing.assert_allclose(gradients[1], -np.ones((1, 4)) / 4)


def test_l1_counts_voxels_by_their_weight():
    real = tf.zeros((2, 2, 2, 1))
    made = tf.reshape(tf.range(8, dtype=tf.float32), (2, 2, 2, 1))
    np.testing.assert_allclose(weighted_l1(real, made), [1.5, 5.5])
    weight = tf.constant([[[1.0, 0], [0, 3]], [[0, 0], [0, 0]]])[..., None]
    np.testing.assert_allclose(weighted_l1(real, made, weight), [(0 + 9) / 4, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hing"}, "Did you mean 'hinge'"),
        ({"critic_augment": ["colour"]}, "Did you mean 'color'"),
        ({"r1": -1.0}, "loss.r1 must be 0 or more, got -1.0"),
        (
            {"feature_matching": 2.0, "diversity": 2.5},
            "loss.diversity must be at most loss.feature_matching, 2.0, got 2.5",
        ),
        ({"critic_steps": 0}, "loss.critic_steps must be 1 or more"),
        ({"critic_rate": 0.0}, "loss.critic_rate must be above 0"),
        ({"feature_maching": 1.0}, "Did you mean 'feature_matching'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build_loss("adversarial", **options)


def test_labels_and_logits_alone_make_no_adversarial_loss():
    with pytest.raises(ConfigError, match="needs a config with a section task"):
        build_loss("adversarial")(tf.zeros((1, 2, 2)), tf.zeros((1, 2, 2, 2)))
