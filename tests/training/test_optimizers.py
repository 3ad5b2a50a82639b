import keras
import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.training import OPTIMIZERS
from segkit.training.optimizers import build_optimizer


def moved(task, gradient, steps=1, **train):
    """Returns a variable that starts at 1 after `steps` updates with a constant gradient."""
    settings = {"learning_rate": 0.1, "schedule": "constant", "clip_norm": 0.0}
    optimizer = build_optimizer(task.config(**{**settings, **train}).train, num_replicas=1)
    variable = keras.Variable(np.ones(1, np.float32))
    optimizer.build([variable])
    for _ in range(steps):
        optimizer.apply([keras.ops.full((1,), gradient)], [variable])
    return float(variable.numpy()[0])


@pytest.mark.parametrize("gradient", [0.5, 7.0])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_first_step_of_adam_is_the_learning_rate(task, name, gradient):
    # Bias correction makes m / sqrt(v) = gradient / |gradient| = 1.
    np.testing.assert_allclose(moved(task, gradient, optimizer=name), 1 - 0.1, rtol=1e-5)


def test_sgd_has_nesterov_momentum_of_99_percent(task):
    # v = -lr g; the Nesterov step is 0.99 v - lr g = -0.1 * 0.5 * 1.99.
    np.testing.assert_allclose(moved(task, 0.5, optimizer="sgd"), 1 - 0.0995, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_decoupled_from_the_gradient(task, name):
    # Without a gradient nothing moves but w -= learning_rate * weight_decay * w.
    decayed = moved(task, 0.0, optimizer=name, weight_decay=0.3)
    np.testing.assert_allclose(decayed, 1 - 0.1 * 0.3, rtol=1e-5)
    assert moved(task, 0.0, optimizer=name) == 1.0


def test_the_schedule_ends_with_the_last_step_of_the_last_epoch(task):
    # 2 epochs of 4 steps: cosine is at (1 + cos(pi / 2)) / 2 = 1/2 after 4 and at 0 after 8.
    config = task.config(schedule="cosine", learning_rate=0.2).train
    optimizer = build_optimizer(config, num_replicas=1)
    rates = []
    for step in (0, 4, 8):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0.2, 0.1, 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"optimizer": "adma"}, "Did you mean 'adam'"), ({"schedule": "cosin"}, "Did you mean 'cos")],
)
def test_an_unknown_name_is_refused(task, setting, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(task.config(**setting).train, num_replicas=1)
