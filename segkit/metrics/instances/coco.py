"""COCO's average precision, by pycocotools, also of parts of the images and resampled ones."""

import contextlib
import copy
import io
from collections import Counter
from functools import partial

import numpy as np

from segkit.metrics.instances.coco_matching import match_image
from segkit.metrics.instances.rle import mask_module

LEVELS = np.linspace(0, 1, 101)
AREAS = ("all", "small", "medium", "large")


def annotation(image, category, box, *, rle=None, area=None, score=None, crowd=False):
    """Returns one object as pycocotools takes it, without its id.

    Args:
        image: Index of its image.
        category: Class index.
        box: `(y0, x0, y1, x1)` in pixels, half-open.
        rle: Its mask, from `rle.encode`; `None` where boxes alone are scored.
        area: In pixels; `None` for that of the box.
        score: Of a detection.
        crowd: Whether the object is to be ignored.
    """
    y0, x0, y1, x1 = (float(side) for side in box)
    entry = {
        "image_id": image,
        "category_id": category,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (y1 - y0) * (x1 - x0) if area is None else float(area),
        "iscrowd": int(crowd),
    }
    if rle is not None:
        entry["segmentation"] = rle
    return entry if score is None else entry | {"score": float(score)}


class AveragePrecision:
    """Detections matched with objects image by image, from which the scores of any images follow.

    The IoU and the scores are computed by pycocotools, the matching by `match_image`, to the same
    result.

    Average precision is the mean over 101 levels of recall of the best precision at that recall or
    a higher one, over all thresholds on the score. AP is its mean over the thresholds 0.50, 0.55,
    ... 0.95 on IoU; AP50 and AP75 are those at one threshold. Objects are small below 32 x 32
    pixels, large above 96 x 96. Objects to be ignored are COCO's crowds: detections that mostly lie
    on one count for nothing. Where many detections share one score, their order decides, and that
    is the order in which they were given.

    Attributes:
        max_detections: Detections per image and class that count; further ones are cut off.

    Reference:
        Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, arXiv:1405.0312, and
        the code of its evaluation, pycocotools.
    """

    def __init__(self, truths, detections, num_images, categories, kind, max_detections=None):
        """Matches; this takes most of the time.

        Args:
            truths: List of `annotation`.
            detections: List of `annotation`, with scores.
            num_images: Number of images.
            categories: Class indices to score.
            kind: `"segm"` for masks, `"bbox"` for boxes.
            max_detections: Detections per image and class that count: 100 in COCO's own tables,
                which cuts off images with more objects; `None` for all.

        Raises:
            ConfigError: If pycocotools is not installed.
        """
        mask_module()
        from pycocotools.cocoeval import COCOeval

        pairs = Counter((entry["image_id"], entry["category_id"]) for entry in detections)
        self.max_detections = max_detections or max(pairs.values(), default=1)
        if kind == "bbox":  # as pycocotools does with detections, not with objects
            detections = [d | {"area": d["bbox"][2] * d["bbox"][3]} for d in detections]
        sets = [_dataset(entries, num_images, categories) for entries in (truths, detections)]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            self._evaluation = COCOeval(*map(_indexed, sets), iouType=kind)
            self._evaluation.params.maxDets = [self.max_detections]
            self._evaluation.evaluateImg = partial(match_image, self._evaluation)
            self._evaluation.evaluate()
        self._thresholds = self._evaluation.params.iouThrs
        self._images = self._evaluation.evalImgs
        self._shape = (len(categories), len(AREAS), num_images)
        self._ranked = [self._rank(index) for index in range(len(categories))]

    def scores(self, images):
        """Returns pycocotools' own scores of some of the images.

        Args:
            images: Their indices.

        Returns:
            Dict with `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large` and `recall`, the
            mean over thresholds of the share of objects found: each float64, shape
            `(categories,)`, NaN where there is no object to find.
        """
        from pycocotools.cocoeval import COCOeval

        parts = np.empty(len(self._images), object)
        parts[:] = self._images
        images = np.asarray(images, int)
        part = COCOeval(iouType=self._evaluation.params.iouType)
        part.params = copy.copy(self._evaluation.params)
        part.params.imgIds = images.tolist()
        part._paramsEval = part.params
        part.evalImgs = parts.reshape(self._shape)[..., images].ravel().tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            part.accumulate()
        tables = (part.eval["precision"], part.eval["recall"])
        precision, recall = (np.where(table < 0, np.nan, table) for table in tables)
        by_level = precision[..., 0].mean(axis=1)  # (thresholds, categories, areas)
        found = {"ap": by_level[..., 0].mean(axis=0)}
        found |= {"ap50": by_level[0, :, 0], "ap75": by_level[5, :, 0]}
        found |= {f"ap_{area}": by_level[..., n].mean(axis=0) for n, area in enumerate(AREAS) if n}
        return found | {"recall": recall[:, :, 0, 0].mean(axis=0)}

    def weighted(self, weights):
        """Returns scores of the images, each counted so many times, for bootstrap intervals.

        The same as `scores` of a data set in which images are repeated.

        Args:
            weights: Shape `(images,)`.

        Returns:
            Dict with `ap`, `ap50` and `ap75` as in `scores`.
        """
        table = np.array([_average_precision(*ranked, weights) for ranked in self._ranked])
        return {"ap": table.mean(axis=1), "ap50": table[:, 0], "ap75": table[:, 5]}

    def _rank(self, category):
        """Joins the images' detections of a class, by falling score.

        Returns:
            `(truths, image, rows)`: the number of objects to be found in each image, the image of
            each detection, and for each threshold on IoU the indices of the hits, and which
            detections are not ignored, `None` for all.
        """
        start = category * self._shape[1] * self._shape[2]
        parts = self._images[start : start + self._shape[2]]
        truths = [0 if p is None else np.count_nonzero(p["gtIgnore"] == 0) for p in parts]
        parts = [(image, part) for image, part in enumerate(parts) if part is not None]
        none = np.zeros((len(self._thresholds), 0))
        scores = np.concatenate([[], *(part["dtScores"] for _, part in parts)])
        order = np.argsort(-scores, kind="stable")
        image = np.repeat([i for i, _ in parts], [len(p["dtScores"]) for _, p in parts])
        matched, ignored = (
            np.concatenate([none, *(p[key] for _, p in parts)], axis=1)[:, order] > 0
            for key in ("dtMatches", "dtIgnore")
        )
        rows = [
            (np.flatnonzero(hit & ~skip), ~skip if skip.any() else None)
            for hit, skip in zip(matched, ignored, strict=True)
        ]
        return np.array(truths), image.astype(int)[order], rows


def _average_precision(truths, image, rows, weights):
    """Average precision at each threshold on IoU, as COCO's evaluation interpolates it.

    Precision is needed at hits alone: between two of them it falls.
    """
    total = (weights * truths).sum()
    if not total:
        return np.full(len(rows), np.nan)
    each = np.asarray(weights, float)[image]
    ranked, found = np.cumsum(each), []
    for hits, counted in rows:
        above = ranked if counted is None else np.cumsum(each * counted)
        recalled = np.cumsum(each[hits])
        precision = recalled / (above[hits] + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(recalled / total, LEVELS)
        # Levels of recall that are never reached have precision 0.
        found.append(best[places[places < len(best)]].sum() / len(LEVELS))
    return np.array(found)


def _dataset(entries, num_images, categories):
    return {
        # The sizes are looked up, but needed for polygons only.
        "images": [{"id": image, "height": 0, "width": 0} for image in range(num_images)],
        "categories": [{"id": category} for category in categories],
        # An id of 0 would be taken for no match.
        "annotations": [entry | {"id": n} for n, entry in enumerate(entries, start=1)],
    }


def _indexed(dataset):
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
