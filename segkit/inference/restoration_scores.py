"""Scores of restored images against the true ones, of a network and of methods beside it."""

import itertools

import numpy as np

from segkit.classical.restoration import FILTERS
from segkit.classical.restoration import INPAINTERS
from segkit.errors import DataError
from segkit.inference.scores import bootstrap_means
from segkit.inference.scores import percentile_interval
from segkit.metrics.generation.psnr import intensity_range
from segkit.metrics.generation.psnr import psnr
from segkit.metrics.generation.ssim import fitting_scales
from segkit.metrics.generation.ssim import multi_scale_ssim
from segkit.metrics.generation.ssim import ssim
from segkit.tables import load

SCORES = ("psnr", "ssim", "ms_ssim", "psnr_inside")
GIVEN, NETWORK = "as given", "network"
TUNED_BY = "psnr"
# Options of each method that are tried on training examples.
CANDIDATES = {
    "median": {"size": [3, 5, 7]},
    "non_local_means": {"strength": [0.2, 0.4, 0.6, 0.8, 1.2], "patch": [3, 5]},
    "total_variation": {"strength": [0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0]},
    "bicubic": {"scale": [0.25, 1 / 3, 0.5, 0.75]},
    "biharmonic": {},
}
POLICY = (
    "The data range of PSNR, SSIM and MS-SSIM is the largest less the smallest intensity of each "
    "true image; constant ones are left out. psnr_inside: over the voxels of holes. Means over the "
    "examples of a case, then over cases; intervals: 95 % percentile bootstrap over cases, 2000 "
    "resamples, seed 0; 'gain' is the network less the method, on the same cases. Options of the "
    "methods are those of the best mean PSNR on examples of the training cases. MS-SSIM has the "
    "number of scales in 'scales', as many as fit."
)


def methods_for(masks):
    """Returns the methods that a task is compared with, dict name -> function.

    Args:
        masks: Whether there are holes: a method takes an image and its mask; else `None` for it.
    """
    if masks:
        return {name: load(INPAINTERS, name, "inpainter") for name in INPAINTERS}
    return {name: _without_mask(load(FILTERS, name, "filter")) for name in FILTERS}


def choose_options(methods, truth, given, masks=None):
    """Returns the options of each method with the best mean PSNR, dict name -> options.

    Args:
        methods: From `methods_for`.
        truth: True images of training examples, `(examples, *sides, channels)`.
        given: What the methods are given, same shape.
        masks: float32 `(examples, *sides, 1)`, 1 in holes, or `None`.
    """
    chosen = {}
    for name, method in methods.items():
        names, values = CANDIDATES[name], itertools.product(*CANDIDATES[name].values())
        tried = [dict(zip(names, value, strict=True)) for value in values]
        if len(tried) > 1:
            tried.sort(key=lambda options: -_mean_psnr(method, options, truth, given, masks))
        chosen[name] = tried[0]
    return chosen


def score_example(truth, image, weight=None):
    """Returns the scores of one image, dict of `SCORES`; NaN for one that it is too small for.

    Args:
        truth: float32, shape `(*sides, channels)`, not constant.
        image: Same shape.
        weight: Mask of the holes, `(*sides, 1)`; `None`: there is no score inside.
    """
    width, scales = intensity_range(truth), fitting_scales(truth.shape[:-1])
    small = np.nan
    return {
        "psnr": psnr(truth, image, data_range=width),
        "ssim": ssim(truth, image, data_range=width) if scales else small,
        "ms_ssim": multi_scale_ssim(truth, image, data_range=width, scales=scales)
        if scales > 1
        else small,
        "psnr_inside": small
        if weight is None
        else psnr(truth, image, data_range=width, weight=weight),
    }


def usable(truth):
    """Returns the numbers of true images that can be scored: those that are not constant.

    Raises:
        DataError: If there is none.
    """
    kept = np.flatnonzero([intensity_range(image) > 0 for image in truth])
    if not kept.size:
        raise DataError("all images to restore are constant. Take another split or data set.")
    return kept


def summarise_restoration(scores, cases, header, options, sides):
    """Returns the report of several methods.

    Args:
        scores: Dict method -> list of what `score_example` returned, the network's as `NETWORK`.
        cases: Case of each example.
        header: Dict that the report begins with.
        options: Dict method -> its options.
        sides: Sides of an image.

    Returns:
        Dict that JSON can hold: the header, `examples`, `cases`, `scales`, `policy` and `methods`:
        per method its `options` and per score the mean, `..._interval`, `..._gain` and
        `..._gain_interval`; `None` where undefined. And `per_case`: case -> method -> scores.
    """
    names, order = list(scores), sorted(set(cases))
    rows = {case: [n for n, other in enumerate(cases) if other == case] for case in order}
    # (cases, methods) per score; a perfect image has no finite PSNR and is left out of means.
    tables = {score: np.full((len(order), len(names)), np.nan) for score in SCORES}
    for (score, table), (m, name) in itertools.product(tables.items(), enumerate(names)):
        for c, case in enumerate(order):
            values = np.array([scores[name][n][score] for n in rows[case]])
            values = values[np.isfinite(values)]
            table[c, m] = values.mean() if values.size else np.nan
    methods = {name: {"options": options.get(name, {})} for name in names}
    for score, table in tables.items():
        _add(methods, score, table, names.index(NETWORK))
    per_case = {
        case: {
            name: {score: _number(tables[score][c, m]) for score in SCORES}
            for m, name in enumerate(names)
        }
        for c, case in enumerate(order)
    }
    counted = {"examples": len(cases), "cases": len(order), "scales": fitting_scales(sides)}
    return {**header, **counted, "policy": POLICY, "methods": methods, "per_case": per_case}


def _add(methods, score, table, network):
    """Adds means, gains and their intervals of one score to the entries of methods."""
    gains = table[:, network : network + 1] - table
    for name, values in ((score, table), (f"{score}_gain", gains)):
        # Behind the columns of methods stands their mean, which means nothing here.
        draws = bootstrap_means(values)[:, :-1]
        for column, entry in enumerate(methods.values()):
            defined = values[:, column][~np.isnan(values[:, column])]
            entry[name] = _number(defined.mean() if defined.size else np.nan)
            known = len(values) > 1
            interval = percentile_interval(draws[:, column]) if known else (np.nan, np.nan)
            entry[f"{name}_interval"] = [_number(limit) for limit in interval]


def _without_mask(function):
    return lambda image, mask, **options: function(image, **options)


def _mean_psnr(method, options, truth, given, masks):
    holes = [None] * len(truth) if masks is None else masks
    found = [
        psnr(one, method(image, mask, **options), data_range=intensity_range(one))
        for one, image, mask in zip(truth, given, holes, strict=True)
    ]
    return float(np.mean(np.minimum(found, 100)))  # a perfect image counts as one of 100 dB


def _number(value):
    return None if not np.isfinite(value) else float(value)
