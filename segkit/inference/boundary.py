"""Scores of a class that separates objects, such as the membranes between cells.

A predicted boundary is judged by the segments that it leaves, see `segkit.metrics.segments`, after
it was thinned: once as it was decided, and at thresholds on its probability.
"""

import csv

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.inference.overlay import save_segments
from segkit.inference.scores import mean_scores
from segkit.metrics.segments import segment
from segkit.metrics.segments import thin
from segkit.metrics.segments import v_info
from segkit.metrics.segments import v_rand

SCORES = ("v_rand", "v_info", "pixel_error")
COLUMNS = ("threshold", *SCORES, "true_segments", "predicted_segments")
DECIDED = "decided"  # by the largest probability, no threshold chosen
THRESHOLDS = tuple(n / 10 for n in range(1, 10))


def boundary_index(name, outputs):
    """Returns the index of the class that separates objects, or `None` for `None`.

    Args:
        name: Name of the class.
        outputs: `segkit.outputs.Outputs` of the network.

    Raises:
        ConfigError: Unknown class, or a network of regions.
    """
    names = [entry["name"] for entry in outputs.classes]
    if name is None:
        return None
    if outputs.regions:
        raise ConfigError("a boundary must be a class, and this network predicts regions.")
    if name not in names:
        raise ConfigError(f"no class {name!r} to take for a boundary. {nearest(name, names)}")
    return names.index(name)


def score_boundary(truth, mask, probability, index, *, ignore_label=None):
    """Scores the boundary of one case.

    Each slice is scored by itself, as in the ISBI 2012 challenge, and scores are means over the
    slices. A slice without any segment in the truth has no V_rand and no V_info.

    Args:
        truth: Class indices, shape `(depth, height, width)`.
        mask: Predicted class indices, same shape.
        probability: Predicted probability of the boundary, same shape.
        index: Class index of the boundary; all other classes together make up the segments.
        ignore_label: Voxels of this class index in the truth count for nothing.

    Returns:
        List of dicts of `COLUMNS`: first that of the mask, with the `threshold` `"decided"`, then
        one per threshold. Scores are `None` where undefined. `pixel_error` is the share of pixels
        on the wrong side, boundary or not; the numbers of segments are sums over slices, before
        thinning.
    """
    counted = np.ones(truth.shape, bool) if ignore_label is None else truth != ignore_label
    guesses = {DECIDED: mask == index} | {t: probability > t for t in THRESHOLDS}
    return [
        {"threshold": threshold, **_score(truth == index, guess, counted)}
        for threshold, guess in guesses.items()
    ]


def summarise_boundary(name, cases):
    """Returns the means over cases with 95 % intervals, of the masks and of the best threshold.

    The best threshold is the one with the highest mean V_rand over these very cases, as in the
    challenge, and therefore optimistic. The scores of the masks are not.

    Args:
        name: Name of the class.
        cases: For each case what `score_boundary` returned.

    Returns:
        Dict `class`, then the means of `SCORES` and their intervals as `..._interval`, `None`
        where undefined, and `best_threshold`, a dict of the same and `threshold`.
    """
    means = {rows[0]["threshold"]: _means(rows) for rows in zip(*cases, strict=True)}
    best = max(THRESHOLDS, key=lambda t: means[t]["v_rand"] or 0)
    return {
        "class": name,
        **means[DECIDED],
        "best_threshold": {"threshold": best, **means[best]},
    }


def write_boundary(folder, name, cases, classes):
    """Writes `boundary.csv`, and `segments.png` of the case with the lowest V_rand.

    Args:
        folder: `pathlib.Path` of the evaluation.
        name: Name of the class.
        cases: Dict case -> what `score_boundary` returned, and the case's `Slice`.
        classes: The manifest's `"classes"`.
    """
    with open(folder / "boundary.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *COLUMNS])
        for case, (rows, _) in cases.items():
            writer.writerows([case, *(row[column] for column in COLUMNS)] for row in rows)
    scores = {case: rows[0]["v_rand"] for case, (rows, _) in cases.items()}
    scores = {case: score for case, score in scores.items() if score is not None}
    if scores:
        worst = min(scores, key=scores.get)
        index = [entry["name"] for entry in classes].index(name)
        title = f"worst: {worst}, V_rand {scores[worst]:.3f}"
        save_segments(folder / "segments.png", cases[worst][1], index, title)


def boundary_lines(report, shown):
    """Returns the lines that tell people a report.

    Args:
        report: What `summarise_boundary` returned.
        shown: Function from a score or `None` to text.
    """
    best = report["best_threshold"]
    low, high = map(shown, report["v_rand_interval"])
    return [
        f"segments between {report['class']}, thinned: V_rand {shown(report['v_rand'])} ({low} - "
        f"{high}), V_info {shown(report['v_info'])}, pixel error {shown(report['pixel_error'])}",
        f"best over thresholds, chosen on these cases: V_rand {shown(best['v_rand'])}, "
        f"V_info {shown(best['v_info'])} at {best['threshold']}",
    ]


def _score(truth, guess, counted):
    slices = [_score_slice(*parts) for parts in zip(truth, guess, counted, strict=True)]
    scores = {name: [s[name] for s in slices] for name in COLUMNS[1:]}
    means = {name: _mean(scores[name]) for name in SCORES}
    return means | {name: sum(scores[name]) for name in COLUMNS[4:]}


def _score_slice(truth, guess, counted):
    true, predicted = segment(truth | ~counted), segment(guess)
    thinned = thin(predicted)
    wrong = (truth != guess)[counted]
    return {
        "v_rand": v_rand(true, thinned),
        "v_info": v_info(true, thinned),
        "pixel_error": wrong.mean() if wrong.size else np.nan,
        "true_segments": int(true.max()),
        "predicted_segments": int(predicted.max()),
    }


def _means(rows):
    """Means and intervals over cases; each score is a column of its own."""
    table = np.array([[row[name] for name in SCORES] for row in rows], float)
    means, intervals = mean_scores(table)
    found = {}
    for name, mean, interval in zip(SCORES, means[:-1], intervals[:-1], strict=True):
        found[name] = _number(mean)
        found[f"{name}_interval"] = [_number(n) for n in interval]
    return found


def _mean(values):
    defined = [v for v in values if not np.isnan(v)]
    return _number(np.mean(defined)) if defined else None


def _number(value):
    return None if np.isnan(value) else float(value)
