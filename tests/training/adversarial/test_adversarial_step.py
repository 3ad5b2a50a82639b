from functools import cache

import keras
import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.training.adversarial.learner import build_adversarial_learner
from segkit.training.devices import make_strategy
from tests.training.adversarial.games import builder
from tests.training.adversarial.games import config_of
from tests.training.adversarial.games import flat
from tests.training.adversarial.games import play
from tests.training.adversarial.games import weights

AUGMENT = ["color", "translation", "cutout"]
# Everything that draws random numbers, has statistics of its own, or adds up over the batch.
FULL = {
    "spade": {"feature_matching": 2.0, "diversity": 1.0, "l1": 1.0, "r1": 1.0}
    | {"critic_augment": AUGMENT},
    "dcgan": {"kind": "wasserstein", "gradient_penalty": 10.0, "critic_steps": 2},
}
CRITIC = {"spade": "patch", "dcgan": "global"}
AVERAGED = {"averaging": {"name": "ema", "decay": 0.5}, "clip_norm": 1.0}


def found(model, replicas, **train):
    """All numbers of three steps and of validation, and the weights."""
    config = config_of(model, FULL[model], **AVERAGED, **train)
    parts = play(make_strategy(f"cpu:{replicas}"), config, steps=3, critic=CRITIC[model])
    learner, results, held_out = parts
    numbers = {f"train {k}": v for k, v in flat(results).items()}
    numbers |= {f"validation {k}": v for k, v in flat(held_out).items()}
    return numbers | weights(learner)


@cache
def alone(model):
    """The reference: one replica, without XLA."""
    return found(model, 1)


def assert_alike(numbers, expected, tolerance):
    assert numbers.keys() == expected.keys()
    for name, value in expected.items():
        limit = tolerance * max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(numbers[name], value, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize(
    ("replicas", "settings"),
    [
        (2, {}),
        pytest.param(1, {"xla": True}, marks=pytest.mark.slow),
        pytest.param(2, {"xla": True}, marks=pytest.mark.slow),
        pytest.param(1, {"xla": "step"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("model", FULL)
def test_replicas_and_xla_change_nothing(model, replicas, settings):
    assert_alike(found(model, replicas, **settings), alone(model), 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", FULL)
def test_parts_one_after_the_other_change_nothing(model):
    assert_alike(found(model, 2, accumulation_steps=2), alone(model), 2e-3)


def test_the_generator_has_a_turn_every_so_many_steps():
    norms = alone("dcgan")["train gradient_norm"]
    assert (norms > 0).tolist() == [False, True, False]
    assert (alone("spade")["train gradient_norm"] > 0).all()
    assert (alone("dcgan")["train critic_gradient_norm"] > 0).all()
    assert len(alone("dcgan")["train adversarial"]) == 3


def test_every_term_is_there_and_the_loss_is_the_generators():
    numbers = alone("spade")
    terms = ("adversarial", "feature_matching", "diversity", "l1")
    own = [numbers[f"train {name}"] for name in terms]
    np.testing.assert_allclose(numbers["train loss"], sum(own), rtol=1e-5)
    assert (numbers["train critic"] > 0).all()
    assert (numbers["train r1"] > 0).all()
    assert (alone("dcgan")["train gradient_penalty"] > 0).all()
    assert "validation r1" not in numbers
    assert 0 <= numbers["validation critic_accuracy"].mean() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("model", FULL)
def test_mixed_precision_follows_float32(model, precision):
    numbers = found(model, 2, precision=precision)
    assert keras.config.dtype_policy().name == "float32"
    for name in ("train loss", "train critic", "validation loss", "generators", "critics"):
        assert np.isfinite(numbers[name]).all()
    np.testing.assert_allclose(
        numbers["train critic"][0], alone(model)["train critic"][0], rtol=0.1
    )


def test_the_critic_learns_to_tell_real_from_made():
    # So slow a generator stands nearly still.
    settings = {"learning_rate": 1e-4, "schedule": "constant"}
    config = config_of("spade", {"critic_rate": 100.0}, **settings)
    _, results, _ = play(make_strategy("cpu:1"), config, steps=40)
    accuracy = flat(results)["critic_accuracy"]
    assert accuracy[-5:].mean() > accuracy[:5].mean() + 0.1


def test_the_average_is_of_the_generator_alone():
    config = config_of("spade", **AVERAGED)
    learner, _, _ = play(make_strategy("cpu:1"), config, steps=3)
    model = learner.model
    last = model.get_weights()
    critic = learner.game.critics[0].model.get_weights()
    with learner.averaged():
        assert any(not np.array_equal(a, b) for a, b in zip(last, model.get_weights(), strict=True))
        for old, new in zip(critic, learner.game.critics[0].model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    for old, new in zip(last, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_variables_are_those_of_both_sides():
    config = config_of("spade", **AVERAGED)
    _, build = builder(config)
    learner = build_adversarial_learner(config.train, make_strategy("cpu:1"), build)
    parts = {name.partition("/")[0] for name in learner.variables}
    networks = {"model_generator", "model_critic"}
    assert parts == networks | {"optimizer_generator", "optimizer_critic", "average"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2": 0.1}, "train.l2 is 0.1, which a generator and its critic do not take"),
        ({"freeze": ["up*"]}, r"Set train.freeze=\[\]"),
        ({"remat": True}, "Set train.remat=false"),
        ({"batch_size": 5}, "does not divide by 2 replicas"),
    ],
)
def test_settings_of_single_networks_are_refused(settings, message):
    config = config_of("spade", **settings)
    _, build = builder(config)
    with pytest.raises(ConfigError, match=message):
        build_adversarial_learner(config.train, make_strategy("cpu:2"), build)
