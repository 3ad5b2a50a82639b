"""One step of the critic and one of the generator against formulas, for each kind of loss.

The generator makes four voxels `f = z g` of one number of noise, and the critic gives a voxel `x`
the logit `c x`; so all gradients can be written down.
"""

import numpy as np
import pytest
import tensorflow as tf

from segkit.config import config_from_dict
from segkit.layers.per_example import normal
from segkit.layers.per_example import uniform
from segkit.layers.step_context import step_context
from segkit.losses import build_loss
from segkit.training.adversarial.learner import build_adversarial_learner
from segkit.training.adversarial.tasks import Patches
from segkit.training.adversarial.tasks import build_task
from segkit.training.devices import make_strategy
from segkit.training.learner import distribute
from segkit.training.replica import example_keys
from tests.training.adversarial.games import linear_critic
from tests.training.adversarial.games import linear_generator

BATCH, FIRST, RATE, RATIO = 4, 8, 0.5, 0.2
C, G = 0.7, np.array([0.3, -0.8, 1.1, -0.2])
IMAGES = np.random.default_rng(0).normal(0.5, 1.5, (BATCH, 2, 2, 1)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Slopes of the critic's loss by the logits of real and made voxels, and of the generator's.
SLOPES = {
    "non_saturating": (lambda r: -sigmoid(-r), sigmoid, lambda f: -sigmoid(-f)),
    "hinge": (lambda r: -1.0 * (r < 1), lambda f: 1.0 * (f > -1), lambda f: -np.ones_like(f)),
    "least_squares": (lambda r: r - 1, lambda f: f, lambda f: f - 1),
    "wasserstein": (lambda r: -np.ones_like(r), np.ones_like, lambda f: -np.ones_like(f)),
}


def drawn():
    """Noise of the generator, and the share of real images in the gradient penalty."""
    with step_context(example_keys(0, tf.range(FIRST, FIRST + BATCH, dtype=tf.int64))):
        z = normal("generator_noise", None, BATCH, (1,)).numpy()
        share = uniform("gradient_penalty", None, BATCH, (1, 1, 1)).numpy()
    return z, share.reshape(BATCH, 1)


def step_of(kind, replicas, xla=False, **options):
    """Result of one step, and the weights `c` and `g` after it."""
    train = {"epochs": 1, "steps_per_epoch": 9, "batch_size": BATCH, "learning_rate": RATE}
    plain = {"optimizer": {"name": "sgd", "momentum": 0.0}, "clip_norm": 0.0, "xla": xla}
    config = config_from_dict(
        {
            "model": {"name": "dcgan"},
            "data": {"patch_size": [2, 2]},
            "loss": {"name": "adversarial"},
            "train": {**train, **plain, "schedule": "constant"},
        }
    ).train
    task = build_task("noise", Patches((2, 2, 1)))
    loss = build_loss("adversarial", kind=kind, critic_rate=RATIO, **options)
    strategy = make_strategy(f"cpu:{replicas}")

    def build():
        game = task.game(loss, linear_generator, linear_critic)
        game.generators[0].model.set_weights([G[None]])
        game.critics[0].model.set_weights([np.full((1, 1, 1, 1), C)])
        return game

    learner = build_adversarial_learner(config, strategy, build)
    step, _ = learner.make_steps(config, strategy, None)
    learner.set_rate(0, [])
    data = tf.data.Dataset.from_tensors((IMAGES, np.zeros((BATCH, 2, 2), np.int32)))
    batches = data.unbatch().batch(BATCH, drop_remainder=True)
    batch = next(iter(distribute(strategy, BATCH, lambda part: batches)))
    result = step(batch, tf.constant(FIRST, tf.int64), tf.constant(0.0))
    players = learner.game.critics[0], learner.game.generators[0]
    return result, *(player.model.get_weights()[0].ravel() for player in players)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("kind", SLOPES)
def test_a_step_moves_both_networks_as_the_formulas_say(kind, replicas):
    real, (z, _) = IMAGES.reshape(BATCH, 4), drawn()
    made = z * G
    of_real, of_made, of_generator = SLOPES[kind]
    slope = (of_real(C * real) * real + of_made(C * made) * made).mean()
    new_c = C - RATE * RATIO * slope
    # The generator plays against the critic that has just moved.
    slopes = (of_generator(new_c * made) * new_c * z).mean(axis=0) / 4
    result, c, g = step_of(kind, replicas)
    np.testing.assert_allclose(c, [new_c], rtol=1e-5)
    np.testing.assert_allclose(g, G - RATE * slopes, rtol=1e-5)
    np.testing.assert_allclose(result["gradient_norm"], np.linalg.norm(slopes), rtol=1e-5)
    np.testing.assert_allclose(result["watched"]["critic_gradient_norm"], abs(slope), rtol=1e-5)


def test_the_terms_are_those_of_the_formulas():
    real, (z, _) = IMAGES.reshape(BATCH, 4), drawn()
    result, c, _ = step_of("hinge", 2)
    expected = np.maximum(0, 1 - C * real) + np.maximum(0, 1 + C * z * G)
    np.testing.assert_allclose(result["terms"]["critic"], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(result["terms"]["adversarial"], -(c * z * G).mean(), rtol=1e-5)
    np.testing.assert_allclose(result["loss"], result["terms"]["adversarial"])
    accuracy = ((C * real > 0).mean() + (C * z * G < 0).mean()) / 2
    np.testing.assert_allclose(result["watched"]["critic_accuracy"], accuracy)


@pytest.mark.parametrize(("replicas", "xla"), [(1, False), (1, True), (2, True)])
def test_the_penalties_are_those_of_the_formulas(replicas, xla):
    # The critic's value of an image is the mean of c x over 4 voxels: its gradient there is c / 4
    # four times, of norm c / 2. So R1 is (c / 2)^2 / 2, and the penalty (c / 2 - 1)^2.
    z, _ = drawn()
    real, made = IMAGES.reshape(BATCH, 4), z * G
    plain = (made - real).mean()
    result, c, _ = step_of("wasserstein", replicas, xla, r1=3.0)
    np.testing.assert_allclose(result["terms"]["r1"], 3 * (C / 2) ** 2 / 2, rtol=1e-5)
    np.testing.assert_allclose(c, [C - RATE * RATIO * (plain + 3 * C / 4)], rtol=1e-5)
    result, c, _ = step_of("wasserstein", replicas, xla, gradient_penalty=3.0)
    np.testing.assert_allclose(result["terms"]["gradient_penalty"], 3 * (C / 2 - 1) ** 2, rtol=1e-5)
    np.testing.assert_allclose(c, [C - RATE * RATIO * (plain + 3 * (C / 2 - 1))], rtol=1e-5)
