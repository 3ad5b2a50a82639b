"""Scores of the objects found in many cases, by class and kind of case, with intervals."""

import numpy as np

from segkit.inference.instance_scores import class_values
from segkit.inference.scores import percentile_interval
from segkit.metrics.instances.aggregated_jaccard import aggregated_jaccard
from segkit.metrics.instances.coco import AveragePrecision
from segkit.metrics.instances.froc import RATES
from segkit.metrics.instances.froc import Froc
from segkit.metrics.instances.matching import dsb_score
from segkit.metrics.instances.matching import hit_shares
from segkit.metrics.instances.panoptic import panoptic_quality

PRECISIONS = ("ap", "ap50", "ap75")
SCORES = (
    *(f"{kind}_{name}" for kind in ("mask", "box") for name in PRECISIONS),
    "dsb2018",
    "dsb2018_50",
    "pq",
    "sq",
    "dq",
    "aji",
    "froc",
    "count_error",
    "count_bias",
)
ALL = "all"
POLICY = (
    "mask_ap, box_ap: COCO average precision by pycocotools, over IoU 0.50 to 0.95 or at one; all "
    "detections count unless max_detections says otherwise. dsb2018, dsb2018_50 (at IoU 0.5 alone) "
    "and aji: means over cases. "
    "pq = sq * dq: from sums over cases, at IoU 0.5. froc: mean share of objects found at 1/8 to 8 "
    "false positives per case. count_error: mean of |predicted - true| objects per case; "
    "count_bias: mean of predicted - true. What is undefined without objects is left out of the "
    "means. dsb2018, pq, aji and counts take what is decided to be there. Intervals: 95 % "
    "percentile bootstrap over cases, seed 0."
)


def summarise_instances(cases, class_names, header, *, resamples=2000, max_detections=None):
    """Returns the report: scores of all cases and of each kind, and those of each case.

    Args:
        cases: List of `CaseScores`.
        class_names: Names of all classes, background first.
        header: Dict that the report begins with: what was scored, on what.
        resamples: Number of times that the cases are drawn anew, with replacement.
        max_detections: See `AveragePrecision`.

    Returns:
        Dict that JSON can hold: the header, `cases`, `groups` (name -> `{"cases", "classes":
        [{"name", score: ..., score_interval: [low, high], "froc_curve", "mask_ap_small", ...}],
        "mean": the same over classes}`, `"all"` first) and `per_case`. `None` where undefined.
    """
    scorer = _Scorer(cases, len(class_names) - 1, max_detections)
    members = {ALL: np.arange(len(cases))}
    for name in sorted({case.group for case in cases if case.group is not None}):
        members[str(name)] = np.flatnonzero([case.group == name for case in cases])
    groups = {
        name: _group(scorer, chosen, class_names, resamples) for name, chosen in members.items()
    }
    per_case = {
        case.case: {
            "group": case.group,
            "classes": [_plain(class_values(counted)) for counted in case.classes],
        }
        for case in cases
    }
    header = {**header, "cases": len(cases), "max_detections": max_detections}
    return {**header, "instance_policy": POLICY, "groups": groups, "per_case": per_case}


class _Scorer:
    """All scores of cases counted any number of times."""

    def __init__(self, cases, num_classes, max_detections):
        def stack(name):
            counted = [[getattr(one, name) for one in case.classes] for case in cases]
            return np.array(counted, float)

        self.num_cases, self.num_classes = len(cases), num_classes
        self._dsb = dsb_score(stack("matches"))
        self._dsb_50 = hit_shares(stack("matches"))[..., 0]
        self._panoptic = stack("panoptic")
        self._aji = aggregated_jaccard(stack("aji"))
        self._surplus = stack("predictions") - stack("truths")
        self._froc = [
            Froc([case.classes[n].froc for case in cases], [c.classes[n].truths for c in cases])
            for n in range(num_classes)
        ]
        truth, found = (_renumbered(cases, name) for name in ("truth", "found"))
        kinds = {"mask": "segm"} | ({"box": "bbox"} if all(c.boxes for c in cases) else {})
        self.precision = {
            name: AveragePrecision(
                truth, found, len(cases), range(1, num_classes + 1), kind, max_detections
            )
            for name, kind in kinds.items()
        }

    def curves(self, weights):
        """Sensitivities at `RATES`, shape `(classes, rates)`."""
        return np.array([curve.sensitivities(weights) for curve in self._froc])

    def scores(self, weights):
        """Returns dict of `SCORES`, shape `(classes,)` each; those of boxes where they exist."""
        pq, sq, dq = panoptic_quality(np.tensordot(weights, self._panoptic, axes=1))
        found = {"dsb2018": _mean(self._dsb, weights), "pq": pq, "sq": sq, "dq": dq}
        found["dsb2018_50"] = _mean(self._dsb_50, weights)
        found |= {"aji": _mean(self._aji, weights), "froc": self.curves(weights).mean(axis=1)}
        found["count_error"] = _mean(np.abs(self._surplus), weights)
        found["count_bias"] = _mean(self._surplus, weights)
        for kind, precision in self.precision.items():
            found |= {f"{kind}_{name}": v for name, v in precision.weighted(weights).items()}
        return found


def _group(scorer, chosen, class_names, resamples):
    weights = np.zeros(scorer.num_cases)
    weights[chosen] = 1
    values = scorer.scores(weights)
    for kind, precision in scorer.precision.items():
        values |= {f"{kind}_{name}": value for name, value in precision.scores(chosen).items()}
    names = [name for name in SCORES if name in values]
    intervals = _intervals(scorer, chosen, names, resamples)
    further = [name for name in values if name not in SCORES]
    entries = [{"name": name} for name in [*class_names[1:], "mean"]]
    for name in names + further:
        column = _with_mean(values[name])
        for index, entry in enumerate(entries):
            entry[name] = column[index]
            if name in names:
                entry[f"{name}_interval"] = intervals[name][index].tolist()
    for entry, curve in zip(entries, scorer.curves(weights).tolist(), strict=False):
        entry["froc_curve"] = [list(point) for point in zip(RATES, curve, strict=True)]
    classes = [_plain(entry) for entry in entries]
    return {"cases": len(chosen), "classes": classes[:-1], "mean": classes[-1]}


def _intervals(scorer, chosen, names, resamples):
    """Returns dict name -> `(classes + 1, 2)`; the last row is that of the mean over classes."""
    rng, draws = np.random.default_rng(0), []
    for _ in range(resamples if len(chosen) > 1 else 0):
        drawn = chosen[rng.integers(len(chosen), size=len(chosen))]
        values = scorer.scores(np.bincount(drawn, minlength=scorer.num_cases).astype(float))
        draws.append([_with_mean(values[name]) for name in names])
    table = np.array(draws).reshape(-1, len(names), scorer.num_classes + 1)
    return {
        name: np.array([percentile_interval(column) for column in table[:, n].T])
        for n, name in enumerate(names)
    }


def _renumbered(cases, name):
    return [
        entry | {"image_id": image}
        for image, case in enumerate(cases)
        for entry in getattr(case, name)
    ]


def _mean(values, weights):
    """Weighted mean over cases `(cases, classes)` of what is not NaN."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return weights @ np.where(defined, values, 0) / (weights @ defined)


def _with_mean(values):
    """Appends the mean over the classes that are defined."""
    defined = values[~np.isnan(values)]
    return np.append(values, defined.mean() if defined.size else np.nan)


def _plain(value):
    """Returns what JSON can hold: `None` for NaN."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, str | int) and not isinstance(value, np.generic):
        return value
    return None if np.isnan(value) else float(value)
