"""What is shown of the objects found: tables, results.json, a row per case, pictures."""

import csv
import json

from segkit.errors import DataError
from segkit.inference.instance_overlay import save_comparison

COLUMNS = (
    ("mask_ap", "mask AP"),
    ("mask_ap50", "AP50"),
    ("box_ap", "box AP"),
    ("dsb2018", "DSB2018"),
    ("dsb2018_50", "at 0.5"),
    ("pq", "PQ"),
    ("sq", "SQ"),
    ("dq", "DQ"),
    ("aji", "AJI"),
    ("froc", "FROC"),
    ("count_error", "count err"),
)
RANKED_BY = "dsb2018"


def write_results(folder, report):
    """Writes `results.json`, the report of `summarise_instances`, to a `pathlib.Path`."""
    (folder / "results.json").write_text(json.dumps(report, indent=2), encoding="utf-8")


def write_instances(folder, report):
    """Writes `instances.csv`, a row per case and class.

    Args:
        folder: `pathlib.Path` of the evaluation.
        report: From `summarise_instances`.
    """
    names = [entry["name"] for entry in report["groups"]["all"]["classes"]]
    rows = [
        {"case": case, "group": scores["group"], "class": name, **values}
        for case, scores in report["per_case"].items()
        for name, values in zip(names, scores["classes"], strict=True)
    ]
    with open(folder / "instances.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def worst_median_best(report):
    """Returns which cases to draw: dict `worst`, `median`, `best` -> `(case, score)`.

    They are ranked by the mean DSB 2018 score over the classes; cases without one are left out.
    """
    ranked = []
    for case, scores in report["per_case"].items():
        values = [v[RANKED_BY] for v in scores["classes"] if v[RANKED_BY] is not None]
        if values:
            ranked.append((sum(values) / len(values), case))
    ranked.sort()
    places = {"worst": 0, "median": len(ranked) // 2, "best": -1}
    return {name: ranked[n][::-1] for name, n in places.items() if ranked}


def write_instance_pictures(folder, report, load):
    """Draws the worst, the median and the best case into `instances.png`.

    Args:
        folder: `pathlib.Path` of the evaluation.
        report: From `summarise_instances`.
        load: Function of a case's id that returns `(image, truth, found)` as `save_comparison`
            takes them.
    """
    rows = [
        (f"{rank}: {case}, DSB 2018 score {score:.3f}", *load(case))
        for rank, (case, score) in worst_median_best(report).items()
    ]
    if rows:
        save_comparison(folder / "instances.png", rows)


def instance_table(report):
    """Returns the summary as text: per kind of case and class a line of scores and intervals."""
    lines = []
    for group, entry in report["groups"].items():
        rows = {row["name"]: row for row in entry["classes"]}
        if len(rows) > 1:
            rows["mean"] = entry["mean"]
        lines += ["", *_lines(f"{group}: {entry['cases']} cases", rows)]
    return "\n".join(lines[1:])


def method_table(reports):
    """Returns several methods side by side as text: per kind of case a line for each.

    Args:
        reports: Dict name of the method -> report of `summarise_instances`, on the same cases.
            Lines are means over classes.

    Raises:
        DataError: If they were scored on different cases.
    """
    first = next(iter(reports.values()))
    for name, report in reports.items():
        if set(report["per_case"]) != set(first["per_case"]):
            raise DataError(
                f"{name} was scored on other cases than {next(iter(reports))}. Score both on the "
                "same split of one data set."
            )
    lines = []
    for group, entry in first["groups"].items():
        rows = {name: report["groups"][group]["mean"] for name, report in reports.items()}
        lines += ["", *_lines(f"{group}: {entry['cases']} cases", rows)]
    return "\n".join(lines[1:])


def _lines(title, rows):
    """A heading, and for each name in `rows` a line of scores and one of their intervals."""
    columns = [(key, shown) for key, shown in COLUMNS if any(key in row for row in rows.values())]
    width = max(map(len, rows))
    lines = [title, f"{'':{width}}  " + "  ".join(f"{shown:>13}" for _, shown in columns)]
    for name, row in rows.items():
        shown = "  ".join(f"{_shown(row.get(key)):>13}" for key, _ in columns)
        low_high = "  ".join(f"{_interval(row, key):>13}" for key, _ in columns)
        lines += [f"{name:{width}}  {shown}", f"{'':{width}}  {low_high}"]
    return lines


def _interval(row, key):
    low, high = (_shown(value) for value in row.get(f"{key}_interval", (None, None)))
    return f"{low} - {high}"


def _shown(value):
    return "  -  " if value is None else f"{value:.3f}"
