"""Speed and memory of a network that finds objects, and whether tiles lose or double any.

    python benchmarks/instance_inference.py --run runs/MY_MASK_RCNN
    python benchmarks/instance_inference.py --run runs/MY_MASK_RCNN --sides 256 --mosaic 0

Speed: pieces of prepared images of the run's validation fold go through the network one by one, cut
into the run's tiles where they are larger, and the detections are merged. Each size is measured in
a process of its own: what memory it has before the first prediction, and its peak.

Seams: a mosaic of pieces of those images, whose borders lie elsewhere than those of the tiles, is
predicted in tiles, and piece by piece: each piece within a margin of its surroundings in the
mosaic, as one picture, and of what is found there the objects whose centre lies in the piece.
Objects are the same above IoU 0.5. An object lies at a seam if its box comes within 2 pixels of the
edge of a tile. Counted are, there and elsewhere:

    true      true objects
    alone     of them those that are found piece by piece
    tiled     of them those that are found in tiles
    missing   of those found piece by piece with a score of --sure or more, those that are found
              in tiles with no score
    extra     of those found in tiles with a score of --sure or more, those that are found piece by
              piece with no score
    lost      of those that some tile holds whole and finds with a score of --sure or more, those
              that are not left when the tiles are merged
    doubled   pairs of objects found in tiles that share more than half of the smaller one; in
              brackets those piece by piece, which are the network's own

A network sees an object otherwise in other surroundings, so a few missing and extra ones are to be
expected everywhere; what is due to the tiles is what is more frequent at seams, and what is lost.
"No score" is none of half of --sure or more. Without --run nothing is measured.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.manifest import load_manifest
from data_prep.whole_cases import read_cases
from segkit.config import load_config
from segkit.inference.detections import Detections
from segkit.inference.detections import bounds
from segkit.inference.detections import paint
from segkit.inference.detections import tighten
from segkit.inference.merge_tiles import box_pairs
from segkit.inference.merge_tiles import tile_rectangles
from segkit.metrics.instances.matching import matches
from segkit.metrics.instances.overlaps import map_overlaps
from segkit.metrics.instances.overlaps import mask_overlaps

PIECE = 256
SHIFT = 100  # of the pieces' borders against multiples of PIECE, in pixels
MARGIN = 2
MIN_SCORE = 0.5


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.run is None:
        print("benchmarks/instance_inference.py needs --run, of a network that finds objects; "
              "nothing measured.")  # fmt: skip
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if args.child:
        print(json.dumps(measure(args, args.child)))
        return
    if args.sides:
        speed(args, argv)
    if args.mosaic:
        seams(args)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", metavar="FOLDER", help="run folder of tools/train.py")
    add("--data", metavar="FOLDER", help="prepared data set (default: the run's own)")
    add("--sides", type=int, nargs="*", default=[256, 1024], help="of pictures, in pixels")
    add("--images", type=int, default=8, help="per round")
    add("--rounds", type=int, default=5)
    add("--mosaic", type=int, default=2048, metavar="SIDE", help="in pixels; 0: none")
    add("--surroundings", type=int, default=32, metavar="PIXELS")
    add("--sure", type=float, default=0.8, metavar="SCORE")
    add("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def speed(args, argv):
    head = ("picture", "tiles", "images/s, median (lowest - highest)", "CPU time of one")
    print(f"| {' | '.join(head)} | memory before | peak |\n|---|---|---|---|---|---|")
    for side in args.sides:
        command = [sys.executable, __file__, *argv, "--child", str(side)]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(child.stdout.splitlines()[-1])
        rates = [1 / seconds for seconds in found["seconds"]]
        print(
            f"| {side} x {side} | {found['tiles']} | {statistics.median(rates):.2f} "
            f"({min(rates):.2f} - {max(rates):.2f}) | {statistics.median(found['cpu']):.2f} s | "
            f"{found['before_mb']:.0f} MB | {found['peak_mb']:.0f} MB |"
        )


def measure(args, side):
    """Returns seconds per image of each round, on the clock and of the processor, and memory."""
    detector, pieces = load_detector(args), pieces_of(args)
    images = [mosaic(pieces[n:] + pieces[:n], side, 0)[0] for n in range(args.images)]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before, seconds, cpu = pages * resource.getpagesize() / 2**20, [], []
    detector.slices(images[0])  # traces the network
    for _ in range(args.rounds):
        start, used = time.perf_counter(), time.process_time()
        for image in images:
            detector.slices(image)
        seconds.append((time.perf_counter() - start) / len(images))
        cpu.append((time.process_time() - used) / len(images))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tiles = len(tiles_of(args, detector, (side, side)))
    return {"seconds": seconds, "cpu": cpu, "tiles": tiles, "before_mb": before, "peak_mb": peak}


def load_detector(args, tile=None):
    from segkit.inference.detector import detector_of
    from segkit.training.run import load_run

    return detector_of(load_run(args.run), tile=tile)


def tiles_of(args, detector, shape):
    overlap = load_config(Path(args.run) / "config.yaml").inference.overlap
    return tile_rectangles(shape, detector.tile, int(overlap * min(detector.tile)))


class Piece(NamedTuple):
    """A part of a known image: prepared `(h, w, channels)`, and ids of the objects."""

    image: np.ndarray
    ids: np.ndarray


def pieces_of(args):
    """Returns a `Piece` of each validation image that is large enough and kept its grid."""
    config = load_config(Path(args.run) / "config.yaml")
    data = Path(args.data or config.data.path)
    found = []
    for case in read_cases(data, load_manifest(data), f"fold{config.data.fold}"):
        if min(case.image.shape[1:3]) >= PIECE and case.image.shape[:3] == case.source_label.shape:
            ids = case.source_instance[0, :PIECE, :PIECE]
            found.append(Piece(case.image[0, :PIECE, :PIECE], ids))
    if not found:
        raise SystemExit(f"{data} has no image of {PIECE} x {PIECE} pixels or more.")
    return found


def mosaic(pieces, side, shift):
    """Lays pieces side by side, again and again; their borders lie `shift` pixels further.

    Returns:
        The image `(1, side, side, channels)`, its ids, and the box of each piece.
    """
    image = np.zeros((side, side, pieces[0].image.shape[-1]), np.float32)
    ids, boxes, source = np.zeros((side, side), np.int32), [], itertools.cycle(pieces)
    starts = range(-(-shift % PIECE), side, PIECE)
    for y, x in itertools.product(starts, starts):
        piece, box = next(source), np.clip([y, x, y + PIECE, x + PIECE], 0, side)
        place = tuple(map(slice, box[:2], box[2:]))
        inner = tuple(map(slice, box[:2] - (y, x), box[2:] - (y, x)))
        image[place] = piece.image[inner]
        numbers = piece.ids[inner].astype(np.int32)
        ids[place] = np.where(numbers > 0, numbers + ids.max(), 0)
        boxes.append(box)
    return image[None], ids, boxes


def seams(args):
    """Prints the table of what is found of a mosaic in tiles and piece by piece."""
    image, ids, boxes = mosaic(pieces_of(args), args.mosaic, SHIFT)
    detector = load_detector(args)
    tiles = tiles_of(args, detector, ids.shape)
    tiled = detector.slices(image)[0]
    whole = load_detector(args, tile=PIECE + 2 * args.surroundings)
    alone, own = piece_by_piece(whole, image, boxes, args.surroundings)
    rows = count(ids, alone, own, tiled, in_tiles(detector, image, tiles), tiles, args.sure)
    print(f"\nMosaic of {args.mosaic} x {args.mosaic} pixels, {len(tiles)} tiles:\n")
    print("| objects | true | alone | tiled | missing | extra | lost | doubled |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(map(str, row))} |")


def piece_by_piece(detector, image, boxes, surroundings):
    """Returns what is found in the pieces of a mosaic, each object once; and the doubled pairs.

    Args:
        detector: Whose tiles hold a piece and its surroundings.
        image: Of the mosaic.
        boxes: Of the pieces.
        surroundings: Pixels around each piece that are shown with it.

    Returns:
        `Detections`, and the boxes of the second ones of the doubled pairs within each piece.
    """
    parts, doubles = [], []
    for box in boxes:
        low = np.maximum(box[:2] - surroundings, 0)
        high = np.minimum(box[2:] + surroundings, image.shape[1:3])
        found = look(detector, image, (*low, *high))
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        inside = (centres >= box[:2] - MARGIN) & (centres < box[2:] + MARGIN)
        parts.append(found.take(np.flatnonzero(inside.all(axis=1))))
        doubles.append(doubled(parts[-1]))
    joined = join(parts)
    piece = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    pairs, iou, _ = compare(joined)
    twice = pairs[(piece[pairs[:, 0]] != piece[pairs[:, 1]]) & (iou > 0.5)][:, 1]
    return joined.take(np.setdiff1d(np.arange(len(piece)), twice)), np.concatenate(doubles)


def in_tiles(detector, image, tiles):
    """Returns what is found in each tile, without merging, and lies whole in it."""
    parts = []
    for tile in tiles:
        found = look(detector, image, tile)
        low, high = tile[:2] + MARGIN * (tile[:2] > 0), tile[2:].copy()
        high -= MARGIN * (high < image.shape[1:3])
        whole = (found.boxes[:, :2] >= low) & (found.boxes[:, 2:] <= high)
        parts.append(found.take(np.flatnonzero(whole.all(axis=1))))
    return join(parts)


def look(detector, image, window):
    """Returns what is found in a window `y0, x0, y1, x1` of an image, in pixels of the image."""
    y0, x0, y1, x1 = (int(n) for n in window)
    found = tighten(detector.slices(image[:, y0:y1, x0:x1])[0])  # whole pixels, exact if moved
    boxes = found.boxes + np.array([y0, x0, y0, x0], np.float32)
    return found._replace(boxes=boxes, shape=image.shape[1:3])


def join(parts):
    """Returns the `Detections` of a list as one."""
    arrays = ("boxes", "scores", "classes")
    return Detections(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in arrays),
        [mask for part in parts for mask in part.masks],
        parts[0].shape,
    )


def compare(found):
    """Returns all pairs of detections with a common pixel, their IoU, and their shares of overlap.

    The latter is the share of the smaller one that both have.
    """
    places = bounds(found.boxes, found.shape)
    pairs = box_pairs(places)
    iou, share = np.zeros(len(pairs)), np.zeros(len(pairs))
    for row, (a, b) in enumerate(pairs):
        low = np.maximum(places[a, :2], places[b, :2])
        high = np.minimum(places[a, 2:], places[b, 2:])
        cut = [found.masks[n][tuple(map(slice, low - places[n, :2], high - places[n, :2]))]
               for n in (a, b)]  # fmt: skip
        shared = np.count_nonzero(cut[0] & cut[1])
        sizes = [np.count_nonzero(found.masks[n]) for n in (a, b)]
        iou[row] = shared / max(sum(sizes) - shared, 1)
        share[row] = shared / max(min(sizes), 1)
    return pairs, iou, share


def doubled(found):
    """Returns the boxes of detections that share more than half of the smaller one with another."""
    found = found.take(np.flatnonzero(found.scores >= MIN_SCORE))
    pairs, _, share = compare(found)
    return found.boxes[pairs[share > 0.5][:, 1]]


def count(ids, alone, own, tiled, whole, tiles, sure):
    """Returns the numbers of the table: dict of "at seams" and "elsewhere"."""
    number = int(ids.max())
    sizes = np.bincount(ids.ravel(), minlength=number + 1)[1:]
    hits = [found_objects(ids, number, one) for one in (alone, tiled)]
    near = at_seam(boxes_of(ids, number), tiles, ids.shape)
    twice, own_twice = (at_seam(boxes, tiles, ids.shape) for boxes in (doubled(tiled), own))
    compared = [
        without_partner(one, other, sure)
        for one, other in ((alone, tiled), (tiled, alone), (whole, tiled))
    ]
    rows = {}
    for name, wanted in (("at seams", True), ("elsewhere", False)):
        here = (near == wanted) & (sizes > 0)
        row = [int(here.sum()), *(int((hit & here).sum()) for hit in hits)]
        for boxes, without in compared:
            there = at_seam(boxes, tiles, ids.shape) == wanted
            row.append(f"{(there & without).sum()} of {there.sum()}")
        row.append(f"{(twice == wanted).sum()} ({(own_twice == wanted).sum()})")
        rows[name] = row
    return rows


def boxes_of(ids, number):
    from scipy import ndimage

    places = ndimage.find_objects(ids, number)
    rows = [(0, 0, 0, 0) if p is None else (p[0].start, p[1].start, p[0].stop, p[1].stop)
            for p in places]  # fmt: skip
    return np.array(rows, float).reshape(-1, 4)


def at_seam(boxes, tiles, shape):
    """Returns which boxes come within `MARGIN` of an inner edge of a tile."""
    near = np.zeros(len(boxes), bool)
    for axis in range(2):
        edges = np.setdiff1d(tiles[:, [axis, axis + 2]], [0, shape[axis]])
        low, high = boxes[:, axis, None] - MARGIN, boxes[:, axis + 2, None] + MARGIN
        near |= ((low < edges) & (edges < high)).any(axis=1)
    return near


def found_objects(ids, number, found):
    """Returns which true objects are found at IoU 0.5, bool `(number,)`."""
    painted = paint(found, min_score=MIN_SCORE)
    overlaps = map_overlaps(ids, painted.labels, np.zeros(number, bool), len(painted.scores))
    hit = np.zeros(number, bool)
    hit[overlaps.pairs[matches(overlaps), 0]] = True
    return hit


def without_partner(found, other, sure):
    """Returns the boxes of what is found for sure, and which have no partner.

    A partner is one that is half as sure.
    """
    painted = paint(found, min_score=sure)
    other = other.take(np.flatnonzero(other.scores >= sure / 2))
    nothing = np.zeros(len(painted.scores), bool)
    corners = bounds(other.boxes, other.shape)[:, :2]
    overlaps = mask_overlaps(painted.labels, corners, other.masks, nothing)
    without = ~nothing
    without[overlaps.pairs[matches(overlaps), 0]] = False
    return boxes_of(painted.labels, len(without)), without


if __name__ == "__main__":
    main()
