"""The scores of an evaluation: means and intervals over cases, and those of each case."""

import numpy as np

from segkit.inference.scores import SCORES
from segkit.inference.scores import mean_scores


def summarise(results, outputs, header):
    """Returns the report: means and intervals per class and region, and scores of each case."""
    classes = [dict(entry) for entry in outputs.classes]
    report = {**header, "cases": len(results), "classes": classes}
    counts = np.stack([result["counts"] for result in results])
    report |= _add_scores(counts, classes, "mean_foreground_")
    per_case = _scores_per_case(counts)
    if outputs.regions:
        report["regions"] = [
            {"name": name, "classes": list(region)} for name, region in outputs.regions.items()
        ]
        counts = np.stack([result["region_counts"] for result in results])
        report |= _add_scores(counts, [{}, *report["regions"]], "mean_region_")
        for scores, regions in zip(per_case, _scores_per_case(counts[:, 1:]), strict=True):
            scores["regions"] = regions
    report["per_case"] = {r["case"]: scores for r, scores in zip(results, per_case, strict=True)}
    if "case_class" in results[0]:
        for result in results:
            report["per_case"][result["case"]]["case_class"] = result["case_class"]
        known = [r["case_class"] for r in results if r["case_class"]["target"] is not None]
        hits = sum(found["predicted"] == found["target"] for found in known)
        report["case_accuracy"] = hits / len(known) if known else None
    return report


def _add_scores(counts, entries, prefix):
    """Adds means over cases to `entries`, background first; returns those of the foreground."""
    overall = {}
    for name, function in SCORES.items():
        scores = function(counts)
        means, intervals = mean_scores(scores)
        for index, entry in enumerate([*entries, overall]):
            key = f"{prefix}{name}" if entry is overall else name
            entry[key] = _number(means[index])
            entry[f"{key}_interval"] = [_number(n) for n in intervals[index]]
        if name == "dice":
            for entry, column in zip(entries, scores.T, strict=True):
                entry["absent"] = int(np.isnan(column).sum())
    return overall


def _scores_per_case(counts):
    """Returns for each case its scores by name, a number per class or region."""
    return [
        {name: [_number(v) for v in function(case)] for name, function in SCORES.items()}
        for case in counts
    ]


def _number(value):
    """Returns a float that JSON can hold: `None` for NaN."""
    return None if np.isnan(value) else float(value)
