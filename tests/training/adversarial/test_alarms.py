import math

import pytest

from segkit.training.adversarial.alarms import PATIENCE
from segkit.training.adversarial.alarms import alarms

HEALTHY = {
    "train_loss": 1.0,
    "train_loss/critic": 1.3,
    "gradient_norm": 2.0,
    "train_critic_gradient_norm": 1.0,
    "train_critic_accuracy": 0.75,
    "validation_realism/spread": 0.8,
}


def history(epochs, **last):
    """Rows as `history.csv` holds them; those of the last epochs with other values."""
    rows = [{**HEALTHY, "epoch": n, "train_loss": 1 + 0.3 * math.sin(n)} for n in range(epochs)]
    for column, (value, count) in last.items():
        for row in rows[-count:]:
            row[column] = value
    return [{k: str(v) for k, v in row.items()} for row in rows]


def test_healthy_numbers_raise_no_alarm():
    for epochs in range(1, 20):
        assert alarms(history(epochs)) == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("validation_realism/spread", 0.02, "mode collapse: the spread of the made images"),
        ("train_critic_accuracy", 0.995, "the critic wins"),
        ("train_critic_accuracy", 0.505, "the critic guesses"),
    ],
)
def test_an_alarm_is_raised_once_after_enough_epochs(column, value, message):
    for count in range(1, PATIENCE):
        assert alarms(history(12, **{column: (value, count)})) == []
    (line,) = alarms(history(12, **{column: (value, PATIENCE)}))
    assert line.startswith(message)
    assert alarms(history(12, **{column: (value, PATIENCE + 1)})) == []


def test_a_critic_that_guesses_while_its_loss_moves_raises_none():
    rows = history(12, **{"train_critic_accuracy": (0.5, PATIENCE)})
    for number, row in enumerate(rows):
        row["train_loss/critic"] = str(1.5 - 0.05 * number)
    assert alarms(rows) == []


@pytest.mark.parametrize(
    "column", ["train_loss", "train_loss/critic", "gradient_norm", "train_critic_gradient_norm"]
)
def test_what_grows_far_above_its_median_diverges(column):
    (line,) = alarms(history(12, **{column: (-60.0, 1)}))
    assert line.startswith(f"divergence: {column} is 60, and its median was")
    assert alarms(history(12, **{column: (15.0, 1)})) == []
    assert alarms(history(12, **{column: (math.inf, 1)})) == []  # a skipped step in float16


def test_a_task_without_a_spread_has_no_alarm_about_it():
    rows = history(12, **{"validation_realism/spread": (0.0, PATIENCE)})
    for row in rows:
        del row["validation_realism/spread"]
    assert alarms(rows) == []
