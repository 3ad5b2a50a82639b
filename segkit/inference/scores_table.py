"""The summary of an evaluation as text."""


def scores_table(report):
    """Returns means and intervals per class and region as text.

    Args:
        report: Dict as tools/evaluate.py writes it to results.json.
    """
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
