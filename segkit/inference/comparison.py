"""Is an ensemble better than its members? Scores of both on the same cases, in pairs."""

import numpy as np

from segkit.errors import DataError
from segkit.inference.scores import bootstrap_means
from segkit.inference.scores import mean_scores
from segkit.inference.scores import percentile_interval

POLICY = (
    "Mean foreground Dice of whole cases. 'mean member' is the mean of the members' scores, what "
    "one of them taken at random is worth. Intervals: 95 % percentile bootstrap over cases, 2000 "
    "resamples, seed 0; the difference is taken within each resample."
)


def compare(members, ensemble):
    """Compares an ensemble with the mean of its members.

    Args:
        members: Mapping name -> report of tools/evaluate.py.
        ensemble: Report on the same cases.

    Returns:
        Dict with `members`, `mean_member`, `ensemble` and `difference`, each `{"dice": mean
        foreground Dice, "interval": [low, high]}`, `None` where undefined.

    Raises:
        DataError: If they were scored on different cases.
    """
    rows = {name: _scores(report, ensemble, name) for name, report in members.items()}
    whole = _scores(ensemble, ensemble, "ensemble")
    means = {name: mean_scores(scores)[0][-1] for name, scores in rows.items()}
    draws = {name: bootstrap_means(scores)[:, -1] for name, scores in rows.items()}
    mean, mean_draws = np.mean(list(means.values())), np.mean(list(draws.values()), axis=0)
    best, best_draws = mean_scores(whole)[0][-1], bootstrap_means(whole)[:, -1]
    several = len(whole) > 1
    return {
        "policy": POLICY,
        "cases": len(whole),
        "members": {name: _entry(means[name], draws[name], several) for name in members},
        "mean_member": _entry(mean, mean_draws, several),
        "ensemble": _entry(best, best_draws, several),
        "difference": _entry(best - mean, best_draws - mean_draws, several),
    }


def comparison_table(result):
    """Returns the result of `compare` as text."""
    rows = {
        **result["members"],
        "mean member": result["mean_member"],
        "ensemble": result["ensemble"],
        "ensemble - mean member": result["difference"],
    }
    width = max(map(len, rows))
    lines = [f"{'mean foreground':{width}}    Dice   95 % interval"]
    for name, entry in rows.items():
        sign = "+" if name == "ensemble - mean member" else " "
        low, high = (_shown(value, sign) for value in entry["interval"])
        lines.append(f"{name:{width}}  {_shown(entry['dice'], sign)}  {low} - {high}")
    return "\n".join(lines)


def _scores(report, ensemble, name):
    cases = list(ensemble["per_case"])
    if set(report["per_case"]) != set(cases):
        raise DataError(
            f"{name} was scored on other cases than the ensemble. Evaluate it again, on the same "
            "data."
        )
    return np.array([report["per_case"][case]["dice"] for case in cases], dtype=float)


def _entry(value, draws, several):
    interval = percentile_interval(draws) if several else (np.nan, np.nan)
    return {"dice": _number(value), "interval": [_number(n) for n in interval]}


def _number(value):
    return None if np.isnan(value) else float(value)


def _shown(value, sign):
    return "   -  " if value is None else f"{value:{sign}.3f}"
