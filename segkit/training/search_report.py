"""What a search over settings has found: table, CSV and picture of its trials; no TensorFlow."""

import csv
import io
from collections import Counter

import numpy as np
import yaml
from matplotlib.figure import Figure

from segkit.training.search import as_text


def best_epoch(trial):
    """Returns `(epoch, Dice)` of the best epoch of a trial, `(None, None)` before its first.

    Args:
        trial: `optuna.trial.FrozenTrial` that holds the validation Dice of each epoch.
    """
    return max(trial.intermediate_values.items(), key=lambda row: row[1], default=(None, None))


def ranked(trials):
    """Returns the trials that trained to their end, best first, the earlier one on a tie."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))


def trials_csv(trials, parameters):
    """Returns the text of `trials.csv`: one row per trial that has ended."""
    text, keys = io.StringIO(), [parameter.key for parameter in parameters]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "dice", "best_epoch", "epochs", *keys, "error"])
    for trial in trials:
        epoch, dice = best_epoch(trial)
        values = [_value(trial, key) for key in keys]
        counts = [dice, epoch, len(trial.intermediate_values)]
        error = trial.user_attrs.get("error")
        writer.writerow([trial.number, trial.state.name.lower(), *counts, *values, error])
    return text.getvalue()


def best_table(trials, parameters, *, rows=10):
    """Returns the best trials as text, and how many there are of each kind."""
    keys = [parameter.key for parameter in parameters]
    cells = [["trial", "Dice", "epoch", *keys]]
    for trial in ranked(trials)[:rows]:
        values = [_short(_value(trial, key)) for key in keys]
        cells.append([str(trial.number), f"{trial.value:.4f}", str(best_epoch(trial)[0]), *values])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in cells]
    counts = Counter(trial.state.name.lower() for trial in trials)
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return "\n".join([*lines, "", f"{len(trials)} trials: {kinds}"])


def save_search(path, trials, parameters):
    """Draws the best Dice of each trial against each parameter; pruned trials are hollow."""
    drawn = [trial for trial in trials if trial.intermediate_values]
    best = ranked(trials)[:1]
    figure = Figure(figsize=(3.2 * len(parameters) + 0.6, 3.6), layout="constrained")
    panels = figure.subplots(1, len(parameters), sharey=True, squeeze=False)[0]
    for axes, parameter in zip(panels, parameters, strict=True):
        for group, style in (
            ([t for t in drawn if t.state.name == "COMPLETE"], {"color": "#0072b2"}),
            (
                [t for t in drawn if t.state.name != "COMPLETE"],
                {"facecolors": "none", "edgecolors": "0.5"},
            ),
            (best, {"color": "#d55e00", "marker": "*", "s": 120}),
        ):
            places = [_place(trial, parameter) for trial in group]
            axes.scatter(places, [best_epoch(trial)[1] for trial in group], **style)
        axes.set_xlabel(parameter.key)
        axes.grid(alpha=0.3)
        _scale(axes, parameter)
    panels[0].set_ylabel("best validation Dice")
    figure.savefig(path, dpi=120)


def _value(trial, key):
    """The value as YAML text; empty where the trial was ended before it was drawn."""
    value = trial.params.get(key)
    return value if isinstance(value, str) else "" if value is None else as_text(value)


def _short(text):
    value = yaml.safe_load(text) if text else None
    return f"{value:.4g}" if isinstance(value, float) else text


def _place(trial, parameter):
    """Where a trial stands on the axis; choices stand side by side, apart where they repeat."""
    if parameter.kind != "choice":
        return trial.params[parameter.key]
    index = list(map(as_text, parameter.values)).index(trial.params[parameter.key])
    return index + np.random.default_rng(trial.number).uniform(-0.15, 0.15)


def _scale(axes, parameter):
    """Shows the whole range that was searched."""
    if parameter.kind == "choice":
        texts = list(map(as_text, parameter.values))
        axes.set_xticks(range(len(texts)), [text[:20] for text in texts])
        axes.set_xlim(-0.5, len(texts) - 0.5)
        return
    low, high = parameter.values
    if parameter.kind == "log":
        axes.set_xscale("log")
        margin = (high / low) ** 0.04
        axes.set_xlim(low / margin, high * margin)
        axes.tick_params(axis="x", which="minor", labelbottom=high / low < 10)
    else:
        margin = (high - low) * 0.04
        axes.set_xlim(low - margin, high + margin)
