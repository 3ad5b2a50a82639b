import pytest

from benchmarks import runs
from benchmarks.cpu_budget import Spent
from benchmarks.cpu_budget import train_for


@pytest.fixture
def trainings(monkeypatch):
    """Arguments of all trainings, each of which takes 10 seconds, and 2 for each step.

    What is set in the second dict changes that: `at`, the steps at which one is stopped; `step`.
    """
    calls, changed = [], {}

    def tool(name, *arguments):
        settings = dict(a.split("=") for a in arguments if "=" in str(a))
        epochs, steps = (int(settings[f"train.{k}"]) for k in ("epochs", "steps_per_epoch"))
        calls.append((arguments, epochs * steps))
        run = arguments[arguments.index("--run") + 1]
        run.mkdir(parents=True)  # there is none: it began anew
        (run / "config.yaml").write_text(f"train: {{epochs: {epochs}}}")
        done = epochs - (steps == changed.get("at"))
        (run / "history.csv").write_text("\n".join(["epoch", *map(str, range(done))]))
        return 10.0 + changed.get("step", 2) * epochs * steps

    monkeypatch.setattr(runs, "tool", tool)
    return calls, changed


def test_the_steps_fill_the_budget_beside_start_up_and_validation(trainings, tmp_path):
    calls, _ = trainings
    what = ("--model", "unet"), ["data.fold=1"]
    # A step takes 2 s, start-up 10 s, and 19 further validations of 16 batches 19 * 16 * 2 / 3 s.
    # Of 600 s 387 are left for steps: 9.7 in each of 20 epochs.
    assert train_for(10, tmp_path / "unet", *what) == Spent(200, 2.0, 410.0)
    assert [steps for _, steps in calls] == [5, 20, 200]
    arguments = calls[-1][0]
    assert arguments[:4] == ("--run", tmp_path / "unet" / "run", "--model", "unet")
    assert "data.fold=1" in arguments
    assert train_for(10, tmp_path / "unet", *what) == Spent(200, 2.0, 410.0)
    assert len(calls) == 3  # what is finished is not done again


def test_fast_steps_are_measured_in_a_longer_training(trainings, tmp_path):
    calls, changed = trainings
    changed["step"] = 0.01
    # 5 steps take 10.05 s, 20 take 10.2, 80 take 10.8 and 320 take 13.2: more than a quarter more.
    spent = train_for(1, tmp_path, ("--model", "unet"), [])
    assert [steps for _, steps in calls] == [5, 20, 80, 320, spent.steps]
    assert spent.step_seconds == pytest.approx(0.01)
    # 60 s but 10 and 19 * 16 * 0.01 / 3 leave 48.99: 244.9 steps in each of 20 epochs.
    assert spent.steps == 20 * 245


def test_a_training_that_was_stopped_begins_anew(trainings, tmp_path):
    calls, changed = trainings
    changed["at"] = 10
    with pytest.raises(SystemExit, match="was stopped"):
        train_for(10, tmp_path, ("--model", "unet"), [])
    del changed["at"]
    assert train_for(10, tmp_path, ("--model", "unet"), []).steps == 200
    assert [steps for _, steps in calls] == [5, 20, 200, 200]
