"""Scores of restored images against the true ones, of a network and of methods beside it."""

import functools
import itertools
from typing import NamedTuple

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
# Options of each method that are tried on training examples.
CANDIDATES = {
    "median": {"size": [3, 5, 7]},
    "non_local_means": {"strength": [0.1, 0.2, 0.4, 0.6, 0.8, 1.2], "patch": [3, 5]},
    "total_variation": {"strength": [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0]},
    "bicubic": {"scale": [0.25, 1 / 3, 0.5, 0.75]},
    "biharmonic": {},
}
POLICY = (
    "The data range of PSNR, SSIM and MS-SSIM is the largest less the smallest intensity of each "
    "true image; constant ones are left out. psnr_inside: over the voxels of holes. Means over the "
    "examples of a case, then over cases; intervals: 95 % percentile bootstrap over cases, 2000 "
    "resamples, seed 0; 'gain' is the network less the method, on the same cases. Options of the "
    "methods are those of the best mean PSNR on examples of the training cases; where others have "
    "the best mean SSIM there, the method is scored with these, too. 'best_others' are the "
    "methods of the highest mean beside the network. MS-SSIM has the number of scales in 'scales', "
    "as many as fit."
)


class Compared(NamedTuple):
    """A network beside methods: the report, the images of all by name, PSNR of the network."""

    report: dict
    images: dict
    psnrs: np.ndarray


def compare_methods(found, tuning, header, progress):
    """Scores a network and the methods beside it on the same examples.

    Args:
        found: Examples and what the network made of them, with the attributes of
            `segkit.training.adversarial.sampling.Sampled`; no true image is constant.
        tuning: Examples of training cases, which the options of methods are chosen on.
        header: Dict that the report begins with.
        progress: Function of a list, the name of a method and what an item is that returns what
            to iterate over.

    Returns:
        `Compared`, its report from `summarise_restoration`.
    """
    methods = methods_for(found.mask is not None)
    methods = choose_options(methods, tuning.real, tuning.given, tuning.mask)
    images = {GIVEN: found.given, NETWORK: found.made}
    masks = [None] * len(found.real) if found.mask is None else found.mask
    for name, method in methods.items():
        pairs = progress(list(zip(found.given, masks, strict=True)), name, "image")
        images[name] = np.stack([method(*pair) for pair in pairs])
    scores = {
        name: [score_example(*trio) for trio in zip(found.real, made, masks, strict=True)]
        for name, made in images.items()
    }
    options = {name: method.keywords for name, method in methods.items()}
    report = summarise_restoration(scores, found.cases, header, options, found.real.shape[1:-1])
    return Compared(report, images, np.array([one["psnr"] for one in scores[NETWORK]]))


def methods_for(masks):
    """Returns the methods that a task is compared with, dict name -> function.

    Args:
        masks: Whether there are holes: a method takes an image and its mask; else `None` for it.
    """
    if masks:
        return {name: load(INPAINTERS, name, "inpainter") for name in INPAINTERS}
    return {name: _without_mask(load(FILTERS, name, "filter")) for name in FILTERS}


def choose_options(methods, truth, given, masks=None):
    """Returns the methods with the options that are best on training examples.

    Args:
        methods: From `methods_for`.
        truth: True images of training examples, `(examples, *sides, channels)`.
        given: What the methods are given, same shape.
        masks: float32 `(examples, *sides, 1)`, 1 in holes, or `None`.

    Returns:
        Dict name -> `functools.partial` with the options of the best mean PSNR; where others have
        the best mean SSIM, the method has these as `NAME for SSIM`.
    """
    chosen = {}
    for name, method in methods.items():
        names, values = CANDIDATES[name], itertools.product(*CANDIDATES[name].values())
        tried = [functools.partial(method, **dict(zip(names, v, strict=True))) for v in values]
        if len(tried) == 1:
            chosen[name] = tried[0]
            continue
        means = np.array([_mean_scores(one, truth, given, masks) for one in tried])
        best, other = np.argmax(np.nan_to_num(means), axis=0)
        chosen[name] = tried[best]
        if other != best and not np.isnan(means).any():
            chosen[f"{name} for SSIM"] = tried[other]
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


def scorable(found):
    """Returns the examples whose true images are not constant.

    Args:
        found: `segkit.training.adversarial.sampling.Sampled`.

    Returns:
        The same of fewer examples.

    Raises:
        DataError: If there is none.
    """
    kept = np.flatnonzero([intensity_range(image) > 0 for image in found.real])
    if not kept.size:
        raise DataError("all images to restore are constant. Take another split or data set.")
    arrays = {
        name: None if array is None else array[kept]
        for name, array in found._asdict().items()
        if name != "cases"
    }
    return found._replace(cases=[found.cases[n] for n in kept], **arrays)


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
        `..._gain_interval`; `None` where undefined. `best_others`: score -> the method beside the
        network with the highest mean. And `per_case`: case -> method -> scores.
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
    others = {score: _best_other(methods, score) for score in SCORES}
    found = {"methods": methods, "best_others": others, "per_case": per_case}
    return {**header, **counted, "policy": POLICY, **found}


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


def _best_other(methods, score):
    means = {name: entry[score] for name, entry in methods.items() if name != NETWORK}
    means = {name: mean for name, mean in means.items() if mean is not None}
    return max(means, key=means.get) if means else None


def _mean_scores(method, truth, given, masks):
    """Means of PSNR and SSIM over examples; a perfect image counts as one of 100 dB."""
    holes = [None] * len(truth) if masks is None else masks
    found = []
    for one, image, mask in zip(truth, given, holes, strict=True):
        made, width = method(image, mask), intensity_range(one)
        similar = ssim(one, made, data_range=width) if fitting_scales(one.shape[:-1]) else np.nan
        found.append((min(psnr(one, made, data_range=width), 100.0), similar))
    return np.mean(found, axis=0)


def _number(value):
    return None if not np.isfinite(value) else float(value)
