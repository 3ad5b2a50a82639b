"""How long do merging of tiles and COCO's matching take, against the plain way of doing it?

    python benchmarks/instances.py                                    # about a minute
    python benchmarks/instances.py --sides 512 --objects 400 --rounds 5

A mosaic of discs is cut into tiles of 128 pixels that overlap by 32, and what each tile holds is
merged again: by `segkit.inference.merge_tiles`, and by comparing each detection with all others on
masks of the size of the image, up to --naive pixels a side. Then detections of one image are
matched with its objects: by segkit and by pycocotools, on the same IoU. Results are compared. Times
are those of the processor, which other work on the machine changes less.
"""

import argparse
import contextlib
import io
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segkit.inference.detections import bounds
from segkit.inference.detections import instance_map
from segkit.inference.detections import separate
from segkit.inference.merge_tiles import merge_tiles
from segkit.inference.merge_tiles import tile_rectangles
from segkit.metrics.instances.coco_matching import match_image


def main(argv=None):
    args = parse_args(argv)
    print("| what | size | segkit, median (lowest - highest) | plain | ratio |")
    print("|---|---|---|---|---|")
    for side in args.sides:
        merge(side, args)
    for number in args.objects:
        match(number, args)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sides", type=int, nargs="+", default=[256, 512, 2048], help="of mosaics, in pixels")
    add("--naive", type=int, default=512, help="largest side that is merged the plain way, too")
    add("--objects", type=int, nargs="+", default=[50, 200], help="numbers of objects to match")
    add("--rounds", type=int, default=3)
    return parser.parse_args(argv)


def merge(side, args):
    tiles = tile_rectangles((side, side), (128, 128), 32)
    labels = mosaic(side)
    seen = [view(labels, tile) for tile in tiles]
    number = sum(len(found.scores) for found in seen)
    ours, found = timed(lambda: merge_tiles(seen, tiles, labels.shape), args.rounds)
    if len(found.scores) != labels.max():
        raise SystemExit(f"{labels.max()} objects, but {len(found.scores)} after merging")
    plain = None
    if side <= args.naive:
        plain, _ = timed(lambda: all_pairs(seen, labels.shape), 1)
    row(f"merge {len(tiles)} tiles", f"{side} x {side}, {number} detections", ours, plain)


def mosaic(side, spacing=32):
    """Discs of 5 to 16 pixels on a jittered grid, numbered from 1."""
    rng = np.random.default_rng(0)
    labels = np.zeros((side, side), np.int32)
    for n, centre in enumerate(np.ndindex(side // spacing, side // spacing), start=1):
        y, x = np.array(centre) * spacing + spacing // 2 + rng.integers(-2, 3, 2)
        r = rng.integers(5, 15)
        window = labels[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1]
        rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
        window[(rows - min(y, r)) ** 2 + (columns - min(x, r)) ** 2 <= r * r] = n
    return instance_map(labels).labels


def view(labels, tile):
    y0, x0, y1, x1 = tile
    parts = separate(instance_map(labels[y0:y1, x0:x1]))
    boxes = parts.boxes + np.array([y0, x0, y0, x0], np.float32)
    return parts._replace(boxes=boxes, shape=labels.shape)


def all_pairs(seen, shape):
    """The pixels that each pair of detections shares, on masks of the size of the image."""
    masks = []
    for found in seen:
        for (y0, x0, y1, x1), mask in zip(bounds(found.boxes, shape), found.masks, strict=True):
            whole = np.zeros(shape, bool)
            whole[y0:y1, x0:x1] = mask
            masks.append(whole)
    return [np.count_nonzero(a & b) for n, a in enumerate(masks) for b in masks[:n]]


def match(number, args):
    try:
        evaluation = coco(number)
    except ImportError:
        print("COCO's matching was not measured: pycocotools is not installed.")
        return
    area, most = evaluation.params.areaRng[0], evaluation.params.maxDets[0]
    ours, a = timed(lambda: match_image(evaluation, 0, 1, area, most), args.rounds)
    plain, b = timed(lambda: evaluation.evaluateImg(0, 1, area, most), args.rounds)
    if not np.array_equal(a["dtMatches"], b["dtMatches"]):
        raise SystemExit("segkit's matches are not those of pycocotools")
    row("match one image, ten thresholds", f"{number} objects", ours, plain)


def coco(number):
    """An image of as many objects, each detected once, a little off, in random order."""
    from pycocotools.cocoeval import COCOeval

    from segkit.metrics.instances.coco import AveragePrecision
    from segkit.metrics.instances.coco import annotation

    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(number))) * 32
    labels = mosaic(side)
    boxes = separate(instance_map(labels)).boxes[:number]
    moved = boxes + rng.integers(-2, 3, boxes.shape)
    truths = [annotation(0, 1, box) for box in boxes]
    found = [annotation(0, 1, box, score=rng.random()) for box in moved]
    evaluation = AveragePrecision(truths, found, 1, [1], "bbox")._evaluation
    plain = COCOeval(evaluation.cocoGt, evaluation.cocoDt, "bbox")
    plain.params.maxDets = [number]
    with contextlib.redirect_stdout(io.StringIO()):
        plain.evaluate()
    return plain


def timed(function, rounds):
    """Returns the seconds of each round on the processor, and the result."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return seconds, result


def row(what, size, ours, plain):
    median = statistics.median(ours)
    shown = f"{median * 1e3:.1f} ms ({min(ours) * 1e3:.1f} - {max(ours) * 1e3:.1f})"
    if plain is None:
        print(f"| {what} | {size} | {shown} | not tried | |")
        return
    other = statistics.median(plain)
    print(f"| {what} | {size} | {shown} | {other * 1e3:.1f} ms | {other / median:.0f} |")


if __name__ == "__main__":
    main()
