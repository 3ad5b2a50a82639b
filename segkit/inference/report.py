"""What is shown of an evaluation: tables of scores, pictures of the worst, median and best case.

`report` is the content of results.json; `results` are dicts per case with its `case` id, `counts`
and `region_counts` as `scores.count_voxels` returns them, `voxel_ml` and `slice`.
"""

import csv

from segkit.inference.boundary import boundary_lines
from segkit.inference.overlay import save_overlay


def write_cases(path, report, results):
    """Writes one row per case and class."""
    names = [entry["name"] for entry in report["classes"]]
    rows = [(r, r["counts"], report["per_case"][r["case"]]) for r in results]
    _write_table(path, "class", names, rows)


def write_regions(path, report, results):
    """Writes one row per case and region."""
    names = [entry["name"] for entry in report["regions"]]
    rows = [(r, r["region_counts"][1:], report["per_case"][r["case"]]["regions"]) for r in results]
    _write_table(path, "region", names, rows)


def _write_table(path, what, names, cases):
    """Writes one row per case and name; `cases` are triples of result, counts and scores."""
    columns = ("case", what, "dice", "iou", "accuracy", "true_voxels", "predicted_voxels")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "true_ml", "predicted_ml"])
        for result, counts, scores in cases:
            ml = result["voxel_ml"]
            for index, name in enumerate(names):
                hits, extra, missed = counts[index]
                voxels = [int(hits + missed), int(hits + extra)]
                values = [scores[score][index] for score in columns[2:5]]
                volumes = [None, None] if ml is None else [round(v * ml, 6) for v in voxels]
                writer.writerow([result["case"], name, *values, *voxels, *volumes])


def write_pictures(folder, report, results, manifest):
    """Draws the cases with the worst, median and best mean foreground Dice."""
    ranked = []
    for result in results:
        dice = [d for d in report["per_case"][result["case"]]["dice"][1:] if d is not None]
        if dice:
            ranked.append((sum(dice) / len(dice), result))
    ranked.sort(key=lambda pair: pair[0])
    names = [entry["name"] for entry in manifest["classes"]]
    flat = all(entry["source_shape"][0] == 1 for entry in manifest["cases"].values())
    for rank, index in {"worst": 0, "median": len(ranked) // 2, "best": -1}.items():
        if ranked:
            dice, result = ranked[index]
            title = f"{rank}: {result['case']}, mean foreground Dice {dice:.3f}"
            path = folder / f"{rank}.png"
            save_overlay(path, result["slice"], names, title, upright=flat)


def table(report):
    """Returns the summary as text."""
    regions = report.get("regions", [])
    names = [entry["name"] for entry in report["classes"] + regions]
    width = max(map(len, [*names, "mean foreground"]))
    name = report["run"] if "run" in report else report["method"]
    lines = [
        f"{name} on {report['split']} of {report['data']}: {report['cases']} cases",
        "",
        f"{'':{width}}  Dice   95 % interval    IoU    accuracy  cases  absent",
    ]
    lines += [_line(entry, width, report["cases"]) for entry in report["classes"]]
    lines.append(f"{'mean foreground':{width}}  {_row(report, 'mean_foreground_')}")
    if regions:
        lines += ["", *(_line(entry, width, report["cases"]) for entry in regions)]
        lines.append(f"{'mean regions':{width}}  {_row(report, 'mean_region_')}")
    if "case_accuracy" in report:
        lines += ["", f"class of the whole case: accuracy {_shown(report['case_accuracy'])}"]
    if "boundary" in report:
        lines += ["", *boundary_lines(report["boundary"], _shown)]
    return "\n".join(lines)


def _line(entry, width, cases):
    """Returns the line of the table for a class or a region."""
    absent = entry["absent"]
    return f"{entry['name']:{width}}  {_row(entry, '')}  {cases - absent:>5}  {absent:>6}"


def _row(entry, prefix):
    """Returns the numbers of one line of the table."""
    low, high = (_shown(n) for n in entry[f"{prefix}dice_interval"])
    dice, iou, accuracy = (_shown(entry[prefix + name]) for name in ("dice", "iou", "accuracy"))
    return f"{dice}  {low} - {high}  {iou}  {accuracy:>8}"


def _shown(value):
    """Returns a score in five characters."""
    return "  -  " if value is None else f"{value:.3f}"
