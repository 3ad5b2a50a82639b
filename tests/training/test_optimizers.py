import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.training import OPTIMIZERS
from segkit.training.optimizers import build_optimizer

SLOPES = np.arange(1, 8)

# Weights after 1 and after 5 steps of TensorFlow Addons 0.23 from linspace(-1, 1, 7), with the
# gradient of `gradient` and learning rate 0.01. Its decay of 0.01 is not times the learning rate.
ADDONS = {
    "adamw": (
        [-0.98, -0.65000004, -0.32000002, 0.00999999, 0.3200001, 0.65000004, 0.98],
        [-0.9020521, -0.5850652, -0.26808888, 0.04883566, 0.28039226, 0.5852395, 0.90212536],
    ),
    "sgd": (
        [-0.94060004, -0.58653337, -0.2578, 0.0456, 0.3236667, 0.57640004, 0.8038],
        [-0.55927664, -0.09749675, 0.16882549, 0.2844481, 0.28793785, 0.21217424, 0.08483469],
    ),
    "lamb": (
        [-0.99333334, -0.66, -0.32666668, 0.00666667, 0.32666668, 0.66, 0.99333334],
        [-0.9669669, -0.633639, -0.3003171, 0.03297567, 0.30209553, 0.6336764, 0.9669806],
    ),
}


def gradient(weights):
    """Gradient of `sum_n n * (w_n - 0.3)^2`, which pulls the last weights hardest."""
    return 2 * SLOPES * (weights - 0.3)


def settings(**train):
    return {"learning_rate": 0.01, "clip_norm": 0.0, **train}


def path(task, steps, **train):
    """Returns the weights `(steps, 7)` after each step from linspace(-1, 1, 7)."""
    optimizer = build_optimizer(task.config(**settings(**train)).train)
    variable = keras.Variable(np.linspace(-1, 1, 7).astype(np.float32))
    optimizer.build([variable])
    found = []
    for _ in range(steps):
        optimizer.apply([gradient(variable.numpy()).astype(np.float32)], [variable])
        found.append(variable.numpy().copy())
    return np.array(found)


def slow_path(update, steps):
    """As `path`, with `update(step, gradient, state)` in NumPy, steps from 1."""
    weights, state, found = np.linspace(-1, 1, 7), {}, []
    for step in range(1, steps + 1):
        weights = weights - update(step, gradient(weights), state)
        found.append(weights)
    return np.array(found)


def averages(step, g, state, beta_1, beta_2):
    state["m"] = beta_1 * state.get("m", 0.0) + (1 - beta_1) * g
    state["v"] = beta_2 * state.get("v", 0.0) + (1 - beta_2) * g**2
    return state["m"] / (1 - beta_1**step), state["v"]


def slow_adam(beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False):
    def update(step, g, state):
        m, v = averages(step, g, state, beta_1, beta_2)
        state["most"] = np.maximum(state.get("most", 0.0), v)
        v = state["most"] if amsgrad else v
        correction = np.sqrt(1 - beta_2**step)
        return 0.01 * m * correction / (np.sqrt(v) + epsilon)

    return update


def slow_sgd(momentum=0.99, nesterov=True):
    def update(step, g, state):
        state["v"] = momentum * state.get("v", 0.0) + 0.01 * g
        return momentum * state["v"] + 0.01 * g if nesterov else state["v"]

    return update


def slow_adagrad(initial_accumulator_value=0.1, epsilon=1e-7):
    def update(step, g, state):
        state["sum"] = state.get("sum", initial_accumulator_value) + g**2
        return 0.01 * g / np.sqrt(state["sum"] + epsilon)

    return update


def slow_rmsprop(rho=0.9, momentum=0.0, epsilon=1e-7):
    def update(step, g, state):
        state["v"] = rho * state.get("v", 0.0) + (1 - rho) * g**2
        state["m"] = momentum * state.get("m", 0.0) + 0.01 * g / np.sqrt(state["v"] + epsilon)
        return state["m"]

    return update


SLOW = {
    "adagrad": (slow_adagrad, {"initial_accumulator_value": 5.0, "epsilon": 2.0}),
    "adam": (slow_adam, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1}),
    "rmsprop": (slow_rmsprop, {"rho": 0.5, "momentum": 0.8, "epsilon": 0.1}),
    "sgd": (slow_sgd, {"momentum": 0.5, "nesterov": False}),
}


@pytest.mark.parametrize("name", SLOW)
def test_every_option_does_what_its_formula_says(task, name):
    slow, options = SLOW[name]
    default = path(task, 12, optimizer=name)
    np.testing.assert_allclose(default, slow_path(slow(), 12), atol=2e-6)
    for key, value in options.items():
        found = path(task, 12, optimizer={"name": name, key: value})
        np.testing.assert_allclose(found, slow_path(slow(**{key: value}), 12), atol=2e-6)
        assert np.abs(found - default).max() > 1e-4, key


def test_amsgrad_remembers_the_largest_second_moment(task):
    # A short memory lets the second moment fall as the gradient does.
    options = {"name": "adam", "beta_2": 0.5, "amsgrad": True}
    found = path(task, 30, optimizer=options)
    np.testing.assert_allclose(found, slow_path(slow_adam(beta_2=0.5, amsgrad=True), 30), atol=2e-6)
    assert np.abs(found - path(task, 30, optimizer={**options, "amsgrad": False})).max() > 1e-3


@pytest.mark.parametrize(
    ("optimizer", "weight_decay", "tolerance"),
    # LAMB's is below what an epsilon of 1e-7 would change, 9e-8.
    [("adamw", 1.0, 5e-7), ({"name": "sgd", "momentum": 0.9}, 1.0, 1e-7), ("lamb", 0.0, 3e-8)],
)
def test_weights_agree_with_tensorflow_addons(task, optimizer, weight_decay, tolerance):
    # weight_decay 1 times the learning rate of 0.01 is Addons' 0.01.
    found = path(task, 5, optimizer=optimizer, weight_decay=weight_decay)
    first, last = ADDONS[optimizer if isinstance(optimizer, str) else optimizer["name"]]
    np.testing.assert_allclose(found[[0, 4]], [first, last], rtol=0, atol=tolerance)


def slow_lamb(steps, weight_decay, *, inside, beta_1=0.9, beta_2=0.999, epsilon=1e-6):
    """LAMB with its weight decay inside the trust ratio, as in the paper, or decoupled."""
    weights, state, found = np.linspace(-1, 1, 7), {}, []
    for step in range(1, steps + 1):
        g = gradient(weights)
        weights = weights if inside else weights * (1 - 0.01 * weight_decay)
        m, v = averages(step, g, state, beta_1, beta_2)
        update = m / (np.sqrt(v / (1 - beta_2**step)) + epsilon)
        update = update + weight_decay * weights if inside else update
        ratio = np.linalg.norm(weights) / np.linalg.norm(update)
        weights = weights - 0.01 * ratio * update
        found.append(weights)
    return np.array(found)


@pytest.mark.parametrize("options", [{}, {"beta_1": 0.5}, {"beta_2": 0.9}, {"epsilon": 1.0}])
def test_lamb_follows_the_paper_without_weight_decay(task, options):
    found = path(task, 5, optimizer={"name": "lamb", **options})
    np.testing.assert_allclose(found, slow_lamb(5, 0.0, inside=True, **options), atol=1e-6)
    if options:
        assert np.abs(found - path(task, 5, optimizer="lamb")).max() > 1e-4


def test_lamb_departs_from_the_paper_in_weight_decay_by_as_much_as_documented(task):
    found = path(task, 5, optimizer="lamb", weight_decay=0.1)
    np.testing.assert_allclose(found, slow_lamb(5, 0.1, inside=False), atol=1e-6)
    departure = np.abs(found[-1] - slow_lamb(5, 0.1, inside=True)[-1]).max()
    np.testing.assert_allclose(departure, 0.0036, atol=5e-5)


def test_lamb_moves_weights_that_start_at_zero(task):
    # The trust ratio of a bias at 0 is 1, so it moves by learning_rate * m / sqrt(v).
    optimizer = build_optimizer(task.config(**settings(optimizer="lamb")).train)
    bias = keras.Variable(np.zeros(1, np.float32))
    optimizer.build([bias])
    optimizer.apply([np.float32([5.0])], [bias])
    np.testing.assert_allclose(bias.numpy(), [-0.01], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_decoupled_from_the_gradient(task, name):
    # Without a gradient nothing moves but w -= learning_rate * weight_decay * w.
    for weight_decay, expected in ((0.3, 1 - 0.1 * 0.3), (0.0, 1.0)):
        config = task.config(optimizer=name, learning_rate=0.1, weight_decay=weight_decay)
        optimizer = build_optimizer(config.train)
        variable = keras.Variable(np.ones(1, np.float32))
        optimizer.build([variable])
        optimizer.apply([np.zeros(1, np.float32)], [variable])
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


def replicated_path(task, replicas, rates, **train):
    """As `path`, one traced step per learning rate, on replicas that share the gradient."""
    strategy, config = task.strategy(replicas), task.config(**train).train
    with strategy.scope():
        optimizer = build_optimizer(config)
        variable = keras.Variable(np.linspace(-1, 1, 7).astype(np.float32))
        optimizer.build([variable])

    def apply():
        scale = optimizer.scale_loss(tf.ones(()))
        slope = gradient(np.ones(7)).astype(np.float32)
        optimizer.apply([slope * scale], [variable])

    step, found = tf.function(lambda: strategy.run(apply)), []
    for rate in rates:
        optimizer.learning_rate = rate
        step()
        found.append(variable.numpy())
    return np.array(found)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_replicas_move_as_one_at_the_learning_rate_assigned_last(task, name, precision):
    train = {"optimizer": name, "precision": precision, "weight_decay": 0.1, "clip_norm": 0.0}
    one, two = (replicated_path(task, n, (0.0, 0.02), **train) for n in (1, 2))
    np.testing.assert_allclose(two, one, rtol=1e-6)
    np.testing.assert_array_equal(one[0], np.linspace(-1, 1, 7, dtype=np.float32))
    assert np.abs(one[1] - one[0]).max() > 0.001


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adma", "unknown train.optimizer 'adma'. Did you mean 'adam'"),
        ({"name": "sgd", "momentun": 0.9}, "'sgd' has no option 'momentun'. Did you mean 'mom"),
        ({"name": "sgd", "nesterov": 1}, "train.optimizer.nesterov must be bool, got 1"),
        ({"momentum": 0.9}, "train.optimizer.name is missing"),
        ({"name": "sgd", "momentum": 1}, "train.optimizer.momentum must be at least 0 and below 1"),
        ({"name": "adam", "beta_2": 1.0}, "train.optimizer.beta_2 must be at least 0 and below 1"),
        ({"name": "adamw", "beta_1": -0.1}, "train.optimizer.beta_1 must be at least 0"),
        ({"name": "adam", "epsilon": 0}, "train.optimizer.epsilon must be above 0, got 0"),
        ({"name": "adagrad", "epsilon": 0}, "epsilon must be above 0"),
        ({"name": "adagrad", "initial_accumulator_value": -1}, "value must be above 0, got -1"),
        ({"name": "rmsprop", "rho": 1.5}, "rho must be at least 0 and below 1"),
        ({"name": "rmsprop", "momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"name": "lamb", "beta_1": 1.0}, "beta_1 must be at least 0 and below 1"),
        ({"name": "lamb", "epsilon": 0.0}, "epsilon must be above 0"),
    ],
)
def test_a_wrong_optimizer_is_refused(task, optimizer, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(task.config(optimizer=optimizer).train)


def test_a_whole_number_will_do_as_momentum_or_learning_rate(task):
    config = task.config(optimizer={"name": "sgd", "momentum": 0}, learning_rate=1, clip_norm=0)
    assert float(build_optimizer(config.train).learning_rate) == 1.0
