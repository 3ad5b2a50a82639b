"""COCO's matching of detections with objects, in time that grows with the pairs that overlap.

pycocotools compares each detection with each object of its image in a Python loop, ten thresholds
times four ranges of area over: half a minute where an image holds 400 nuclei. Here a detection
meets the objects that it overlaps. The result is the same to the bit.
"""

import numpy as np


def match_image(evaluation, image, category, area_range, most):
    """Does what `COCOeval.evaluateImg` does, with the same result.

    Args:
        evaluation: `pycocotools.cocoeval.COCOeval` that has computed its `ious`.
        image: Id of the image.
        category: Id of the category.
        area_range: `(low, high)` in pixels; objects outside are ignored.
        most: Number of detections that count.

    Returns:
        Dict as pycocotools' accumulation takes it; `None` where there is nothing.
    """
    truths, found = evaluation._gts[image, category], evaluation._dts[image, category]
    if not truths and not found:
        return None
    ignored = np.array([bool(g["ignore"]) or _outside(g, area_range) for g in truths], int)
    order = np.argsort(ignored, kind="stable")
    ranks = np.argsort([-d["score"] for d in found], kind="stable")[:most]
    truths, ignored = [truths[n] for n in order], ignored[order]
    found = [found[n] for n in ranks]
    thresholds = evaluation.params.iouThrs
    ious = evaluation.ious[image, category]
    nearby = []
    if len(ious):
        ious = ious[: len(found), order]
        nearby = _nearby(ious, truths, ignored, min(thresholds.min(), 1 - 1e-10))
    of_found, of_truths = (np.zeros((len(thresholds), len(n))) for n in (found, truths))
    skipped = np.zeros((len(thresholds), len(found)), bool)
    for row, threshold in enumerate(thresholds):
        taken = set()
        for index, candidates in enumerate(nearby):
            match = _best(candidates, taken, min(threshold, 1 - 1e-10))
            if match is not None:
                taken.add(match)
                skipped[row, index] = ignored[match]
                of_found[row, index] = truths[match]["id"]
                of_truths[row, match] = found[index]["id"]
    outside = np.array([_outside(d, area_range) for d in found], bool)
    return {
        "image_id": image,
        "category_id": category,
        "aRng": area_range,
        "maxDet": most,
        "dtIds": [d["id"] for d in found],
        "gtIds": [g["id"] for g in truths],
        "dtMatches": of_found,
        "gtMatches": of_truths,
        "dtScores": [d["score"] for d in found],
        "gtIgnore": ignored,
        "dtIgnore": skipped | ((of_found == 0) & outside),
    }


def _outside(entry, area_range):
    return not area_range[0] <= entry["area"] <= area_range[1]


def _nearby(ious, truths, ignored, lowest):
    """Per detection the objects that it could match: index, IoU, whether crowd and ignored."""
    candidates = [[] for _ in ious]
    for row, column in zip(*(n.tolist() for n in np.nonzero(ious >= lowest)), strict=True):
        crowd = bool(truths[column]["iscrowd"])
        candidates[row].append((column, ious[row, column], crowd, bool(ignored[column])))
    return candidates


def _best(candidates, taken, threshold):
    """Index of the free object of the highest IoU, the last of several; ignored ones last."""
    best, kept = None, False
    for index, iou, crowd, ignored in candidates:
        if index in taken and not crowd:
            continue
        if kept and ignored:  # objects that count come first
            break
        if iou >= threshold:
            best, threshold, kept = index, iou, not ignored
    return best
