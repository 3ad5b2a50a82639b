"""What is shown of the objects found: a table, results.json, a row per case, pictures."""

import csv
import json

from segkit.inference.instance_overlay import save_comparison

COLUMNS = (
    ("mask_ap", "mask AP"),
    ("mask_ap50", "AP50"),
    ("box_ap", "box AP"),
    ("dsb2018", "DSB2018"),
    ("pq", "PQ"),
    ("sq", "SQ"),
    ("dq", "DQ"),
    ("aji", "AJI"),
    ("froc", "FROC"),
    ("count_error", "count err"),
)
RANKED_BY = "dsb2018"


def write_instances(folder, report):
    """Writes `instances.json`, the report, and `instances.csv`, a row per case and class.

    Args:
        folder: `pathlib.Path` of the evaluation.
        report: From `summarise_instances`.
    """
    (folder / "instances.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    names = [entry["name"] for entry in report["groups"]["all"]["classes"]]
    with open(folder / "instances.csv", "w", newline="", encoding="utf-8") as file:
        writer = None
        for case, scores in report["per_case"].items():
            for name, values in zip(names, scores["classes"], strict=True):
                row = {"case": case, "group": scores["group"], "class": name, **values}
                if writer is None:
                    writer = csv.DictWriter(file, row)
                    writer.writeheader()
                writer.writerow(row)


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
        several = len(entry["classes"]) > 1
        rows = entry["classes"] + ([entry["mean"]] if several else [])
        columns = [(key, title) for key, title in COLUMNS if key in rows[0]]
        width = max(len(row["name"]) for row in rows)
        lines += ["", f"{group}: {entry['cases']} cases"]
        lines.append(f"{'':{width}}  " + "  ".join(f"{title:>13}" for _, title in columns))
        for row in rows:
            shown = "  ".join(f"{_shown(row[key]):>13}" for key, _ in columns)
            low_high = "  ".join(f"{_interval(row, key):>13}" for key, _ in columns)
            lines += [f"{row['name']:{width}}  {shown}", f"{'':{width}}  {low_high}"]
    return "\n".join(lines[1:])


def _interval(row, key):
    low, high = (_shown(value) for value in row[f"{key}_interval"])
    return f"{low} - {high}"


def _shown(value):
    return "  -  " if value is None else f"{value:.3f}"
