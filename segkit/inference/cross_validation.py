"""Out-of-fold scores: each case scored once, by the fold that did not train on it."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from segkit.errors import DataError
from segkit.inference.overlay import COLOURS
from segkit.inference.scores import SCORES
from segkit.inference.scores import mean_scores

POLICY = (
    "Each case was scored once, by the fold that did not train on it; no patient is in two folds. "
    "Its model was chosen on patches of that fold. A class absent from truth and prediction has "
    "no score: it is left out of the means and counted under 'absent'. Intervals: 95 % percentile "
    "bootstrap over cases, 2000 resamples, seed 0. sd: standard deviation between the means of "
    "the folds, n - 1 in the denominator."
)


def merge_folds(evaluations):
    """Merges the evaluations of folds.

    Args:
        evaluations: Mapping fold number -> folder that tools/evaluate.py wrote for it.

    Returns:
        Dict as `results.json`: `cases`, `classes` and `mean_foreground_...` over all cases, where
        there are regions also `regions` and `mean_region_...`, with an interval and a standard
        deviation `..._sd` between folds for each score; the same without deviation under
        `per_fold`; `per_case` with fold and scores. `None` where
        undefined.

    Raises:
        DataError: If the folds do not have the same classes and regions, or share a case.
    """
    reports = {fold: _read_report(folder) for fold, folder in sorted(evaluations.items())}
    classes, regions = _same(reports, "classes", "value"), _same(reports, "regions", "classes")
    cases = {}
    for fold, report in reports.items():
        for case, scores in report["per_case"].items():
            if case in cases:
                raise DataError(
                    f"case {case} was scored by fold{cases[case]['fold']} and fold{fold}: the "
                    "folds were trained on different splits. Train them again in a new folder."
                )
            cases[case] = {"fold": fold, **scores}
    per_fold = {
        f"fold{fold}": _summary([c for c in cases.values() if c["fold"] == fold], classes, regions)
        for fold in reports
    }
    whole = _summary(list(cases.values()), classes, regions)
    _add_deviations(whole, list(per_fold.values()))
    header = {"folds": list(reports), "policy": POLICY}
    return {**header, **whole, "per_fold": per_fold, "per_case": cases}


def merge_cases(evaluations):
    """Returns the text of one `cases.csv` out of those of the folds, with a column `fold`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for index, (fold, folder) in enumerate(sorted(evaluations.items())):
        with open(Path(folder) / "cases.csv", newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if index == 0:
            writer.writerow(["fold", *header])
        writer.writerows([fold, *row] for row in rows)
    return text.getvalue()


def fold_table(report):
    """Returns Dice and IoU per class, region and fold; over all cases, interval and deviation."""
    names = [name for name, _, _ in _rows(report)]
    width = max(map(len, names))
    folds = "".join(f"{name:>8}" for name in report["per_fold"])
    lines = []
    for score, title in {"dice": "Dice", "iou": "IoU"}.items():
        lines.append(f"{title:{width}}{folds}     all   95 % interval      sd")
        for index, (name, entry, prefix) in enumerate(_rows(report)):
            values = [_rows(fold)[index][1][prefix + score] for fold in report["per_fold"].values()]
            low, high = map(_shown, entry[f"{prefix}{score}_interval"])
            cells = "".join(f"{_shown(v):>8}" for v in [*values, entry[prefix + score]])
            sd = _shown(entry[f"{prefix}{score}_sd"])
            lines.append(f"{name:{width}}{cells}   {low} - {high}   {sd}")
        lines.append("")
    counts = "".join(f"{fold['cases']:>8}" for fold in report["per_fold"].values())
    lines.append(f"{'cases':{width}}{counts}{report['cases']:>8}")
    return "\n".join(lines)


def save_summary(path, report):
    """Draws the Dice of every case per foreground class and fold, with the mean of each fold."""
    names = [entry["name"] for entry in report["classes"]][1:]
    folds, rng = report["folds"], np.random.default_rng(0)
    size = (float(np.clip(1.5 + 1.6 * len(names), 4, 24)), 4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    step = 0.8 / len(folds)
    for order, fold in enumerate(folds):
        colour = COLOURS[order % len(COLOURS)]
        for index in range(len(names)):
            dice = [c["dice"][index + 1] for c in report["per_case"].values() if c["fold"] == fold]
            dice = [value for value in dice if value is not None]
            centre = index + (order - (len(folds) - 1) / 2) * step
            places = centre + rng.uniform(-0.25, 0.25, len(dice)) * step
            axes.scatter(places, dice, s=12, color=colour, alpha=0.7, linewidths=0, zorder=3)
            if dice:
                axes.hlines(np.mean(dice), centre - step / 2.5, centre + step / 2.5, color="0.2")
        axes.scatter([], [], s=20, color=colour, label=f"fold{fold}")
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylabel("Dice of a case; line: mean of a fold")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)


def _read_report(folder):
    path = Path(folder) / "results.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. Delete it and repeat the command.") from None


def _same(reports, what, key):
    """Returns name and `key` of the classes or regions, which all folds must have in common."""
    found = {
        fold: [{"name": entry["name"], key: entry[key]} for entry in report.get(what, [])]
        for fold, report in reports.items()
    }
    first = min(found)
    for fold, entries in found.items():
        if entries != found[first]:
            raise DataError(f"fold{first} and fold{fold} have different {what}. Train them again.")
    return found[first]


def _summary(cases, classes, regions):
    """Means and intervals over cases, in the form of an evaluation's results.json."""
    summary = {"cases": len(cases), "classes": [dict(entry) for entry in classes]}
    if regions:
        summary["regions"] = [dict(entry) for entry in regions]
    for name in SCORES:
        results = [mean_scores(np.array([case[name] for case in cases], dtype=float))]
        if regions:  # mean_scores takes the background first, which is no region
            scores = [[None, *case["regions"][name]] for case in cases]
            means, intervals = mean_scores(np.array(scores, dtype=float))
            results.append((means[1:], intervals[1:]))
        means, intervals = (np.concatenate(values) for values in zip(*results, strict=True))
        for index, (_, entry, prefix) in enumerate(_rows(summary)):
            entry[prefix + name] = _number(means[index])
            entry[f"{prefix}{name}_interval"] = [_number(n) for n in intervals[index]]
    for index, entry in enumerate(summary["classes"]):
        entry["absent"] = sum(case["dice"][index] is None for case in cases)
    for index, entry in enumerate(summary.get("regions", [])):
        entry["absent"] = sum(case["regions"]["dice"][index] is None for case in cases)
    return summary


def _add_deviations(whole, folds):
    for name in SCORES:
        for index, (_, entry, prefix) in enumerate(_rows(whole)):
            values = [_rows(fold)[index][1][prefix + name] for fold in folds]
            values = [value for value in values if value is not None]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            entry[f"{prefix}{name}_sd"] = deviation


def _rows(summary):
    """Of each class and region, and of their means: name, the dict of its scores, key prefix."""
    rows = [(entry["name"], entry, "") for entry in summary["classes"]]
    rows.append(("mean foreground", summary, "mean_foreground_"))
    if "regions" in summary:
        rows += [(entry["name"], entry, "") for entry in summary["regions"]]
        rows.append(("mean regions", summary, "mean_region_"))
    return rows


def _number(value):
    return None if np.isnan(value) else float(value)


def _shown(value):
    return "  -  " if value is None else f"{value:.3f}"
