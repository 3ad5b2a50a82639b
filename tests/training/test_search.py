import csv
import io

import optuna
import pytest

from segkit.errors import ConfigError
from segkit.training.search import as_text
from segkit.training.search import parse_search
from segkit.training.search import suggest
from segkit.training.search_report import best_table
from segkit.training.search_report import trials_csv


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("train.learning_rate=log(0.0001, 0.01)", "log", (0.0001, 0.01)),
        ("train.learning_rate=log(1e-5, 1)", "log", (1e-5, 1.0)),
        (" loss.alpha = float(0, 1) ", "float", (0.0, 1.0)),
        ("train.batch_size=int(2, 16)", "int", (2, 16)),
        ("model.filters=choice(8, 16, 32)", "choice", (8, 16, 32)),
        ("data.patch_size=choice([32, 32], [64, 64])", "choice", ([32, 32], [64, 64])),
        ("augment.policy=choice(none, 'a, b', mine.yaml)", "choice", ("none", "a, b", "mine.yaml")),
    ],
)
def test_a_search_is_read(text, kind, values):
    (parameter,) = parse_search([text])
    assert parameter.key == text.partition("=")[0].strip()
    assert (parameter.kind, parameter.values) == (kind, values)
    assert [type(v) for v in parameter.values] == [type(v) for v in values]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.learning_rate", "takes section.key=kind"),
        ("train=log(1, 2)", "takes section.key=kind"),
        ("a.b=log(1, 2", "takes section.key=kind"),
        ("a.b=lgo(1, 2)", "no kind 'lgo'. Did you mean 'log'?"),
        ("a.b=log(1)", "lowest and the highest value, got 1"),
        ("a.b=log(0, 1)", "log takes values above 0, got 0"),
        ("a.b=float(2, 1)", "lowest value must be below the highest, got 2.0 and 1.0"),
        ("a.b=float(.nan, 1)", "must be below"),
        ("a.b=float(x, 1)", "a bound must be float, got 'x'"),
        ("a.b=float(true, 2)", "a bound must be float, got True"),
        ("a.b=int(1, 2.5)", "a bound must be int, got 2.5"),
        ("a.b=choice(1)", "two or more different values, got 1."),
        ("a.b=choice(1, 2, 1)", "two or more different values, got 1, 2, 1."),
        ("a.b=choice([1)", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_search_is_named(text, message):
    with pytest.raises(ConfigError) as error:
        parse_search([text])
    assert message in str(error.value)


def test_a_key_is_searched_once():
    with pytest.raises(ConfigError, match="names a.b twice"):
        parse_search(["a.b=int(1, 2)", "a.c=int(1, 2)", "a.b=int(3, 4)"])


@pytest.mark.parametrize("value", [1e-5, 3, 0.1, True, None, "yes", "1", "a, b", [1, [2.5, "x"]]])
def test_text_of_a_value_reads_back_equal(value):
    import yaml

    text = as_text(value)
    assert "\n" not in text
    found = yaml.safe_load(text)
    assert found == value
    assert type(found) is type(value)


SPACE = (
    "a.log=log(0.001, 10)",
    "a.float=float(2, 4)",
    "a.int=int(1, 3)",
    "a.choice=choice(4, [5, 6], x)",
)


@pytest.fixture(scope="module")
def study():
    """40 random trials: Dice grows with `a.float`; one was pruned and one failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    states = {3: optuna.trial.TrialState.PRUNED, 5: optuna.trial.TrialState.FAIL}
    for number in range(40):
        trial = study.ask()
        values = suggest(trial, parse_search(SPACE))
        assert values["a.choice"] in (4, [5, 6], "x")
        trial.report(values["a.float"] / 4, 1)
        trial.report(values["a.float"] / 8, 2)
        if number in states:
            trial.set_user_attr("error", "it broke, badly")
            study.tell(trial, state=states[number])
        else:
            study.tell(trial, values["a.float"] / 4)
    return study


def test_values_come_from_their_range_and_scale(study):
    draws = {key: [t.params[key] for t in study.trials] for key in study.trials[0].params}
    assert all(0.001 <= v <= 10 for v in draws["a.log"])
    # Half of a logarithmic range lies below its geometric mean, .1; of a uniform one 1 %.
    assert 10 <= sum(v < 0.1 for v in draws["a.log"]) <= 30
    assert all(2 <= v <= 4 for v in draws["a.float"])
    assert set(draws["a.int"]) == {1, 2, 3}
    assert set(draws["a.choice"]) == {"4", "[5, 6]", "x"}


def test_the_table_shows_the_best_trials_and_counts_all(study):
    lines = best_table(study.trials, parse_search(SPACE), rows=3).splitlines()
    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    best = sorted(complete, key=lambda t: -t.params["a.float"])[:3]
    assert [line.split()[0] for line in lines[1:4]] == [str(t.number) for t in best]
    assert lines[1].split()[1:3] == [f"{best[0].params['a.float'] / 4:.4f}", "1"]
    assert lines[-1] == "40 trials: 38 complete, 1 fail, 1 pruned"


def test_the_csv_has_every_trial_with_its_best_epoch(study):
    rows = list(csv.DictReader(io.StringIO(trials_csv(study.trials, parse_search(SPACE)))))
    assert [row["state"] for row in rows[2:6]] == ["complete", "pruned", "complete", "fail"]
    assert rows[5]["error"] == "it broke, badly"
    for row, trial in zip(rows, study.trials, strict=True):
        assert float(row["a.log"]) == trial.params["a.log"]
        assert float(row["dice"]) == trial.params["a.float"] / 4
        assert (row["best_epoch"], row["epochs"]) == ("1", "2")


def test_a_trial_that_was_cut_off_before_its_draw_is_no_obstacle():
    (text,) = trials_csv(
        [optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)], parse_search(SPACE)
    ).splitlines()[1:]
    assert text == "-1,fail,,,0,,,,,"
