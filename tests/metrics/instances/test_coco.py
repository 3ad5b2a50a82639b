import sys

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.metrics.instances.coco import AveragePrecision
from segkit.metrics.instances.coco import annotation
from segkit.metrics.instances.coco_matching import match_image
from segkit.metrics.instances.rle import encode

pycocotools = pytest.importorskip("pycocotools")


def bar(image, start, stop, *, row=0, category=1, **options):
    """An object one pixel high in an image of 4 x 40."""
    rle = encode(np.ones((1, stop - start), bool), (row, start), (4, 40))
    box = (row, start, row + 1, stop)
    return annotation(image, category, box, rle=rle, area=stop - start, **options)


def scene(rng, *, images=6, crowds=False, ties=False):
    """Squares of all sizes in images of 200 x 200: truths and detections near them, and others."""

    def square(y, x, side):
        mask = np.ones((side, side), bool)
        mask[: side // 2, : side // 2] = False
        rle = encode(mask, (y, x), (200, 200))
        return {"box": (y, x, y + side, x + side), "rle": rle, "area": mask.sum()}

    truths, found = [], []
    for image in range(images):
        for _ in range(rng.integers(0, 7)):
            y, x, side = *rng.integers(5, 90, 2), rng.integers(5, 105)
            kind = int(rng.integers(1, 3))
            crowd = crowds and rng.random() < 0.3
            truths.append(annotation(image, kind, **square(y, x, side), crowd=crowd))
            for _ in range(rng.integers(0, 3)):
                dy, dx = rng.integers(-4, 5, 2)
                score = rng.integers(1, 4) / 4 if ties else rng.random()
                near = square(y + dy, x + dx, side)
                kind = int(kind if rng.random() < 0.9 else 3 - kind)
                found.append(annotation(image, kind, **near, score=score))
    return truths, found


def official(truths, found, images, kind, most=100):
    """pycocotools by the book: whole files, its own matching, its own summary."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    size = {"height": 200, "width": 200}
    dataset = {
        "images": [{"id": n, **size} for n in range(images)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [entry | {"id": n} for n, entry in enumerate(truths, start=1)],
    }
    unwanted = {"area", "iscrowd"} | ({"bbox"} if kind == "segm" else {"segmentation"})
    results = [{k: v for k, v in entry.items() if k not in unwanted} for entry in found]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def mean(scores):
    defined = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {name: values.mean() if len(values) else np.nan for name, values in defined.items()}


def test_average_precision_is_that_worked_out_by_hand():
    truths = [bar(0, 0, 10), bar(0, 20, 30)]
    # IoU 1 with the first; nothing; IoU 8/10 with the second.
    found = [
        bar(0, 0, 10, score=0.9),
        bar(0, 12, 18, score=0.8),
        bar(0, 20, 28, score=0.7),
    ]
    scores = AveragePrecision(truths, found, 1, [1], "segm").scores([0])
    # Recall to 1/2 at precision 1: 51 of 101 levels; from there to 1 at 2/3: 50 levels.
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert scores["ap50"] == pytest.approx(both)
    assert scores["ap75"] == pytest.approx(both)
    # 8/10 reaches the thresholds .50 to .80, seven of ten.
    assert scores["ap"] == pytest.approx((7 * both + 3 * one) / 10)
    assert scores["recall"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert np.isnan(scores["ap_large"])


def test_average_precision_where_nothing_is_found_or_there_is_nothing():
    truths = [bar(0, 0, 10)]
    assert AveragePrecision(truths, [], 1, [1], "segm").scores([0])["ap"] == 0
    assert np.isnan(AveragePrecision([], [], 1, [1], "segm").scores([0])["ap"])
    wrong = [bar(0, 0, 10, score=0.5)]
    assert np.isnan(AveragePrecision([], wrong, 1, [1], "segm").scores([0])["ap"])
    assert np.isnan(AveragePrecision([], wrong, 1, [1], "segm").weighted(np.ones(1))["ap"])


def test_a_detection_on_a_crowd_costs_nothing():
    truths = [bar(0, 0, 10), bar(0, 0, 40, row=2, crowd=True)]
    found = [bar(0, 0, 10, score=0.5), bar(0, 3, 7, row=2, score=0.9)]
    assert AveragePrecision(truths, found, 1, [1], "segm").scores([0])["ap"] == pytest.approx(1)
    assert AveragePrecision(truths[:1], found, 1, [1], "segm").scores([0])["ap"] == pytest.approx(
        0.5
    )


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(4))
def test_all_scores_are_those_of_pycocotools_by_the_book(seed, kind):
    truths, found = scene(np.random.default_rng(seed), crowds=seed % 2, ties=seed > 1)
    if kind == "bbox":
        truths, found = (
            [{k: v for k, v in e.items() if k != "segmentation"} for e in entries]
            for entries in (truths, found)
        )
    precision = AveragePrecision(truths, found, 6, [1, 2], kind, max_detections=100)
    scores = mean(precision.scores(range(6)))
    stats = official(truths, found, 6, kind).stats
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    np.testing.assert_allclose(
        [scores[n] for n in names], np.where(stats[:6] < 0, np.nan, stats[:6])
    )
    assert scores["recall"] == pytest.approx(stats[8])


@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_pycocotools_to_the_bit(seed):
    truths, found = scene(np.random.default_rng(seed), crowds=seed % 2, ties=seed > 2)
    evaluation = official(truths, found, 6, "segm")
    compared = 0
    for image in range(6):
        for category in (1, 2):
            for area in evaluation.params.areaRng:
                for most in (2, 100):
                    ours = match_image(evaluation, image, category, area, most)
                    theirs = evaluation.evaluateImg(image, category, area, most)
                    assert (ours is None) == (theirs is None)
                    if ours:
                        assert ours.keys() == theirs.keys()
                        for key in ours:
                            np.testing.assert_array_equal(ours[key], theirs[key])
                        compared += len(ours["dtIds"])
    assert compared > 50


@pytest.mark.parametrize("crowds", [False, True])
def test_a_part_of_the_images_scores_as_if_it_were_all(crowds):
    truths, found = scene(np.random.default_rng(5), crowds=crowds)
    part = [1, 2, 4]
    all_images = AveragePrecision(truths, found, 6, [1, 2], "segm", max_detections=50)
    alone = AveragePrecision(
        *([e for e in n if e["image_id"] in part] for n in (truths, found)), 6, [1, 2], "segm"
    )
    expected = alone.scores(range(6))
    for name, value in all_images.scores(part).items():
        np.testing.assert_allclose(value, expected[name])
    weights = np.isin(np.arange(6), part).astype(float)
    for name, value in all_images.weighted(weights).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_repeated_images(seed):
    rng = np.random.default_rng(seed)
    truths, found = scene(rng, crowds=seed % 2)
    weights = rng.integers(0, 4, 6)
    repeated = np.repeat(np.arange(6), weights)
    copies = [
        [
            e | {"image_id": new}
            for new, old in enumerate(repeated)
            for e in n
            if e["image_id"] == old
        ]
        for n in (truths, found)
    ]
    expected = AveragePrecision(*copies, len(repeated), [1, 2], "segm").scores(range(len(repeated)))
    for name, value in AveragePrecision(truths, found, 6, [1, 2], "segm").weighted(weights).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)


def test_all_detections_count_unless_there_is_a_limit():
    truths = [bar(0, n, n + 1, row=row) for n in range(30) for row in range(4)]
    found = [truth | {"score": 1 - n / 500} for n, truth in enumerate(truths)]
    assert AveragePrecision(truths, found, 1, [1], "segm").max_detections == 120
    assert AveragePrecision(truths, found, 1, [1], "segm").scores([0])["ap"] == pytest.approx(1)
    cut = AveragePrecision(truths, found, 1, [1], "segm", max_detections=100)
    assert cut.scores([0])["recall"] == pytest.approx(100 / 120)


def test_printing_of_pycocotools_is_kept_quiet(capsys):
    AveragePrecision([bar(0, 0, 10)], [bar(0, 0, 10, score=1)], 1, [1], "segm").scores([0])
    assert tuple(capsys.readouterr()) == ("", "")


def test_without_pycocotools_the_error_says_what_to_install(monkeypatch):
    truths = [bar(0, 0, 10)]
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.delitem(sys.modules, "pycocotools.mask", raising=False)
    with pytest.raises(ConfigError, match=r'pip install "segkit\[maskrcnn\]"'):
        AveragePrecision(truths, [], 1, [1], "segm")
