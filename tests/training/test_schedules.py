import keras
import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.training.schedules import build_schedule
from segkit.training.schedules import constant
from segkit.training.schedules import cosine
from segkit.training.schedules import exponential
from segkit.training.schedules import plateau
from segkit.training.schedules import poly
from segkit.training.schedules import step_decay
from segkit.training.schedules import triangular

# 1e-4 to 1e-2 in 10 steps and back: TensorFlow Addons 0.23's TriangularCyclicalLearningRate.
RISE = [0.0001, 0.00109, 0.00208, 0.00307, 0.00406, 0.00505, 0.00604, 0.00703, 0.00802, 0.00901]
FALL = [0.01, 0.00901, 0.00802, 0.00703, 0.00604, 0.00505, 0.00406, 0.00307, 0.00208, 0.00109]
STALLING = [0.1, 0.5, 0.5, 0.5, 0.6, 0.55, 0.6, 0.6, 0.6, 0.61, 0.2]


def shares(schedule, steps, total_steps=100, steps_per_epoch=10, scores=(), **options):
    return [schedule(n, total_steps, steps_per_epoch, scores, **options) for n in steps]


@pytest.mark.parametrize(
    ("step", "expected"),
    # nnU-Net v2's PolyLRScheduler at lr 0.01 over 1000 epochs.
    [
        (0, 0.01),
        (1, 0.009990999549834914),
        (10, 0.009909954834128341),
        (500, 0.005358867312681466),
        (999, 1.995262314968881e-05),
    ],
)
def test_poly_agrees_with_nnunet(step, expected):
    np.testing.assert_allclose(0.01 * poly(step, 1000, 250, []), expected, rtol=1e-12)


def test_the_power_of_poly_bends_it():
    # (1 - 1/2) ** 2 = 1/4; a step after the end stays at 0.
    np.testing.assert_allclose(shares(poly, (0, 50, 100, 101), power=2.0), [1, 0.25, 0, 0])


def test_cosine_passes_through_its_known_points():
    # (1 + cos(pi t)) / 2 at t = 0, 1/3, 1/2, 1 is 1, 3/4, 1/2, 0.
    points = (0, 100 / 3, 50, 100)
    np.testing.assert_allclose(shares(cosine, points), [1, 0.75, 0.5, 0], atol=1e-15)
    # With a floor of 0.2: 0.2 + 0.8 times that.
    np.testing.assert_allclose(shares(cosine, points, floor=0.2), [1, 0.8, 0.6, 0.2])


def test_constant_does_not_move():
    assert shares(constant, (0, 5, 10, 99)) == [1.0] * 4


def test_step_drops_every_so_many_epochs():
    # Two epochs of 10 steps: drops at the steps 20 and 40.
    found = shares(step_decay, (0, 19, 20, 39, 40), every=2, factor=0.5)
    assert found == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_exponential_decays_by_its_factor_per_epoch():
    # 0.81 per epoch of 10 steps: 0.9 after half an epoch.
    np.testing.assert_allclose(
        shares(exponential, (0, 5, 10, 20), decay=0.81), [1, 0.9, 0.81, 0.6561]
    )


def test_triangular_agrees_with_tensorflow_addons():
    found = shares(triangular, range(41), half_cycle=1.0, floor=0.01)
    np.testing.assert_allclose(0.01 * np.array(found), [*RISE, *FALL, *RISE, *FALL, RISE[0]])


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 2, "min_delta": 0.0},
        {"factor": 0.1, "patience": 1, "min_delta": 0.02},
        {"factor": 0.1, "patience": 2, "min_delta": 0.0, "floor": 0.05},
    ],
)
def test_plateau_agrees_with_keras(options):
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0))
    theirs = {key: value for key, value in options.items() if key != "floor"}
    callback = keras.callbacks.ReduceLROnPlateau(
        monitor="dice", mode="max", min_lr=options.get("floor", 0.0), **theirs
    )
    callback.set_model(model)
    callback.on_train_begin()
    found, expected = [], []
    for epoch, score in enumerate(STALLING):
        callback.on_epoch_end(epoch, {"dice": score})
        expected.append(float(model.optimizer.learning_rate))
        found.append(plateau(0, 100, 10, STALLING[: epoch + 1], **options))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[-1] < 1


def test_plateau_without_a_result_is_1():
    assert plateau(0, 100, 10, []) == 1.0


def test_a_schedule_scales_the_learning_rate_and_ends_with_the_last_epoch(task):
    # 2 epochs of 4 steps: cosine is at (1 + cos(pi / 2)) / 2 = 1/2 after 4 and at 0 after 8.
    rate = build_schedule(task.config(schedule="cosine", learning_rate=0.2).train)
    np.testing.assert_allclose([rate(n, []) for n in (0, 4, 8)], [0.2, 0.1, 0.0], atol=1e-16)


def test_the_length_of_an_epoch_reaches_the_schedule(task):
    # Epochs of 4 steps, a drop after each.
    schedule = {"name": "step", "every": 1, "factor": 0.5}
    rate = build_schedule(task.config(schedule=schedule, learning_rate=0.2).train)
    assert [rate(n, []) for n in (0, 3, 4, 7)] == [0.2, 0.2, 0.1, 0.1]


def test_results_reach_the_schedule(task):
    schedule = {"name": "plateau", "factor": 0.5, "patience": 1}
    rate = build_schedule(task.config(schedule=schedule, learning_rate=0.2).train)
    assert rate(3, [0.5]) == 0.2
    assert rate(3, [0.5, 0.4]) == 0.1


def test_warm_up_is_linear_and_multiplies_the_schedule(task):
    config = task.config(schedule="constant", learning_rate=0.2, warmup_steps=4).train
    rate = build_schedule(config)
    np.testing.assert_allclose(
        [rate(n, []) for n in range(6)], [0.05, 0.1, 0.15, 0.2, 0.2, 0.2], rtol=1e-15
    )
    # The schedule does not wait for it: step 2 of 8 is at (3 / 4) ** 0.9, times 3/4 of warm-up.
    rate = build_schedule(task.config(learning_rate=0.2, warmup_steps=4).train)
    np.testing.assert_allclose(rate(2, []), 0.2 * 0.75**0.9 * 0.75)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("cosin", "unknown train.schedule 'cosin'. Did you mean 'cosine'"),
        ({"name": "poly", "pover": 2}, "has no option 'pover'. Did you mean 'power'"),
        ({"name": "poly", "power": "high"}, "train.schedule.power must be float, got 'high'"),
        ({"power": 2.0}, "train.schedule.name is missing"),
        ({"name": "poly", "power": 0}, "train.schedule.power must be above 0, got 0"),
        ({"name": "cosine", "floor": 1.0}, "floor must be at least 0 and below 1, got 1.0"),
        ({"name": "step", "every": 0}, "every must be above 0"),
        ({"name": "step", "factor": 10.0}, "factor must be at least 0 and below 1"),
        ({"name": "exponential", "decay": 1.5}, "decay must be at least 0 and below 1"),
        ({"name": "triangular", "half_cycle": 0}, "half_cycle must be above 0"),
        ({"name": "triangular", "floor": -0.1}, "floor must be at least 0"),
        ({"name": "plateau", "patience": 0}, "patience must be above 0"),
        ({"name": "plateau", "factor": 1.0}, "factor must be at least 0 and below 1"),
    ],
)
def test_a_wrong_schedule_is_refused_before_the_first_step(task, schedule, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule(task.config(schedule=schedule).train)
