import numpy as np
import pytest

from segkit.errors import ShapeError
from segkit.inference import merge_tiles as merging
from segkit.inference.detections import Detections
from segkit.inference.detections import InstanceMap
from segkit.inference.detections import instance_map
from segkit.inference.detections import paint
from segkit.inference.detections import separate
from segkit.inference.merge_tiles import box_pairs
from segkit.inference.merge_tiles import merge_tiles
from segkit.inference.merge_tiles import tile_rectangles


def detect(found, tiles, *, scores=None, noise=None):
    """What a perfect network sees in each tile; with `noise`, up to a pixel off at each side."""
    seen = []
    for index, (y0, x0, y1, x1) in enumerate(tiles):
        ids = found.labels[y0:y1, x0:x1]
        here = np.unique(ids[ids > 0])
        classes = {n: found.classes[n - 1] for n in here}
        parts = separate(instance_map(ids, classes))
        if noise is not None:
            parts = shake(parts, np.random.default_rng([noise, index]))
        boxes = parts.boxes + np.array([y0, x0, y0, x0], np.float32)
        if scores is not None:
            parts = parts._replace(scores=np.full(len(boxes), scores[index], np.float32))
        seen.append(parts._replace(boxes=boxes, shape=found.labels.shape))
    return seen


def shake(parts, rng):
    """Takes a row or a column of pixels off a side of each mask that keeps some."""
    boxes, masks = [], []
    for box, mask in zip(parts.boxes, parts.masks, strict=True):
        cut = [0, 0, 0, 0]
        if min(mask.shape) > 4:
            cut[rng.integers(4)] = 1
        top, left, bottom, right = cut
        height, width = mask.shape
        masks.append(mask[top : height - bottom, left : width - right])
        boxes.append(box + np.array([top, left, -bottom, -right]))
    return parts._replace(boxes=np.array(boxes, np.float32).reshape(-1, 4), masks=masks)


def discs(shape, spacing, radius, seed=0):
    """Discs of random radii up to `radius` on a jittered grid; neighbours may touch."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    number = 0
    for cy in range(spacing // 2, shape[0], spacing):
        for cx in range(spacing // 2, shape[1], spacing):
            y, x = rng.integers(-3, 4, 2) + np.array([cy, cx])
            r = rng.integers(3, radius + 1)
            top, left = max(y - r, 0), max(x - r, 0)
            window = labels[top : y + r + 1, left : x + r + 1]
            yy, xx = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
            inside = ((yy - y) ** 2 + (xx - x) ** 2 <= r * r) & (window == 0)
            if inside.sum() > 9:
                number += 1
                window[inside] = number
    return instance_map(labels)


def blank(*shapes, size=(64, 160)):
    """Objects given as slices of an image."""
    labels = np.zeros(size, np.int32)
    for number, places in enumerate(shapes, start=1):
        for place in places:
            labels[place] = number
    return instance_map(labels)


def same_objects(merged, found):
    """Whether two sets of disjoint objects are equal, whatever their order."""
    painted = paint(merged, visible=0)
    assert len(painted.scores) == len(merged.scores)
    assert len(merged.scores) == len(found.scores)
    number = len(found.scores) + 1
    pairs = np.bincount((painted.labels * number + found.labels).ravel(), minlength=number**2)
    table = pairs.reshape(number, number) > 0  # each object, and the background, has one partner
    return (table.sum(axis=0) <= 1).all() and (table.sum(axis=1) <= 1).all()


TWO = np.array([[0, 0, 64, 96], [0, 64, 64, 160]])  # both see columns 64 to 95


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ((70, 90), "whole in both"),
        ((20, 80), "whole in the first, cut in the second"),
        ((80, 140), "cut in the first, whole in the second"),
        ((90, 97), "barely cut in the first"),
        ((94, 130), "a sliver in the first"),
        ((30, 66), "a sliver in the second"),
        ((40, 130), "larger than the overlap, cut in both"),
        ((0, 160), "from edge to edge"),
        ((40, 96), "ends at the edge of the first"),
        ((64, 130), "begins at the edge of the second"),
        ((10, 40), "seen by one alone"),
    ],
)
@pytest.mark.parametrize("scores", [(0.9, 0.6), (0.6, 0.9)])
def test_an_object_at_a_seam_is_there_once_and_whole(columns, what, scores):
    found = blank([np.s_[20:40, slice(*columns)]])
    merged = merge_tiles(detect(found, TWO, scores=scores), TWO, (64, 160))
    assert same_objects(merged, found), what
    assert merged.boxes.tolist() == [[20, columns[0], 40, columns[1]]]


def test_a_whole_detection_is_preferred_to_a_better_scored_part():
    found = blank([np.s_[20:40, 80:140]])
    merged = merge_tiles(detect(found, TWO, scores=(0.99, 0.4)), TWO, (64, 160))
    assert merged.scores.tolist() == [np.float32(0.4)]


def test_a_part_that_shows_little_of_a_whole_detection_is_dropped():
    whole, part = blank([np.s_[20:40, 70:140]]), blank([np.s_[30:40, 80:140]])
    seen = detect(part, TWO)[0], detect(whole, TWO)[1]  # IoU 160 / 520 where both saw it
    assert same_objects(merge_tiles(seen, TWO, (64, 160)), whole)


def test_of_two_whole_detections_the_surer_one_is_kept():
    found = blank([np.s_[20:40, 68:80]])
    merged = merge_tiles(detect(found, TWO, scores=(0.5, 0.9)), TWO, (64, 160))
    assert merged.scores.tolist() == [np.float32(0.9)]


def test_a_part_is_dropped_if_a_tile_that_saw_more_did_not_find_it():
    seen = detect(blank([np.s_[20:40, 80:140]]), TWO)
    merged = merge_tiles([seen[0], seen[1].take([])], TWO, (64, 160))
    assert len(merged.scores) == 0
    # A tile that finds something else there did not find it.
    other = detect(blank([np.s_[20:30, 80:84]]), TWO)
    merged = merge_tiles([seen[0], other[1]], TWO, (64, 160))
    assert merged.boxes.tolist() == [[20, 80, 30, 84]]


def test_a_part_that_no_other_tile_saw_farther_from_its_edges_is_kept():
    seen = detect(blank([np.s_[20:40, 60:140]]), TWO)
    merged = merge_tiles([seen[0], seen[1].take([])], TWO, (64, 160))
    assert merged.boxes.tolist() == [[20, 60, 40, 96]]


def test_a_joined_object_has_the_best_score_and_the_class_of_its_largest_part():
    found = blank([np.s_[20:40, 50:150]])
    first, second = detect(found, TWO, scores=(0.9, 0.6))
    first = first._replace(classes=np.array([2], np.int32))
    merged = merge_tiles([first, second], TWO, (64, 160))
    assert merged.scores.tolist() == [np.float32(0.9)]
    assert merged.classes.tolist() == [1]


def test_touching_and_nested_objects_stay_apart():
    long = [np.s_[10:30, 40:130]], [np.s_[30:50, 40:130]], [np.s_[50:60, 60:100]]
    found = blank(*long)
    assert same_objects(merge_tiles(detect(found, TWO), TWO, (64, 160)), found)
    # A lesion within an organ, each with a mask and a class of its own, both cut by both tiles.
    organ = blank([np.s_[5:60, 20:140]])
    lesion = blank([np.s_[20:45, 50:110]])._replace(classes=np.array([2], np.int32))
    seen = [
        Detections(
            np.concatenate([a.boxes, b.boxes]),
            np.concatenate([a.scores, b.scores]),
            np.concatenate([a.classes, b.classes]),
            a.masks + b.masks,
            a.shape,
        )
        for a, b in zip(detect(organ, TWO), detect(lesion, TWO), strict=True)
    ]
    merged = merge_tiles(seen, TWO, (64, 160))
    boxes = dict(zip(merged.classes.tolist(), merged.boxes.tolist(), strict=True))
    assert boxes == {1: [5, 20, 60, 140], 2: [20, 50, 45, 110]}


def test_a_lesion_cut_by_a_tile_is_not_swallowed_by_a_whole_organ_of_another_class():
    organ = blank([np.s_[5:60, 66:150]])
    lesion = blank([np.s_[20:45, 60:110]])._replace(classes=np.array([2], np.int32))
    second, first = detect(organ, TWO)[1], detect(lesion, TWO)[0]
    merged = merge_tiles([first, second], TWO, (64, 160))
    assert sorted(merged.classes.tolist()) == [1, 2]


@pytest.mark.parametrize("noise", [None, 0, 1])
@pytest.mark.parametrize("overlap", [8, 24, 40])
def test_a_mosaic_of_small_and_large_objects_comes_out_whole(overlap, noise):
    found = discs((200, 260), 26, 13)
    tiles = tile_rectangles((200, 260), (64, 80), overlap)
    merged = merge_tiles(detect(found, tiles, noise=noise), tiles, (200, 260))
    if noise is None:
        assert same_objects(merged, found)
    else:
        assert len(merged.scores) == len(found.scores)
        painted = paint(merged, visible=0).labels
        assert (painted > 0).sum() / (found.labels > 0).sum() > 0.85


def test_a_ring_across_many_tiles_is_joined():
    labels = np.zeros((200, 200), np.int32)
    yy, xx = np.mgrid[:200, :200]
    distance = np.hypot(yy - 100, xx - 100)
    labels[(distance < 90) & (distance > 70)] = 1
    labels[distance < 30] = 2
    found = instance_map(labels)
    tiles = tile_rectangles((200, 200), (72, 72), 24)
    merged = merge_tiles(detect(found, tiles), tiles, (200, 200))
    assert same_objects(merged, found)


def test_a_mosaic_of_2048_pixels_comes_out_whole_with_little_work(monkeypatch):
    found = discs((2048, 2048), 32, 17, seed=1)
    tiles = tile_rectangles((2048, 2048), (256, 256), 48)
    seen = detect(found, tiles)
    sizes = []

    def part(*args):
        pixels = cut(*args)
        sizes.append(pixels.size)
        return pixels

    cut = merging._part
    monkeypatch.setattr(merging, "_part", part)
    merged = merge_tiles(seen, tiles, (2048, 2048))
    assert len(found.scores) > 4000
    assert same_objects(merged, found)
    # 7339 detections, of which each is compared with one other at most in the mean, on four parts
    # of masks that have twice the pixels of the image at most. All pairs would be 27 million.
    assert len(sizes) < 4 * sum(len(one.scores) for one in seen)
    assert sum(sizes) < 2 * 2048**2


def test_real_nuclei_come_out_whole(shared_data):
    from PIL import Image

    folder = shared_data / "dsb2018" / "stage1_train"
    if not folder.is_dir():
        pytest.skip(f"no nuclei at {folder}")
    for case in sorted(folder.iterdir()):
        masks = sorted((case / "masks").iterdir())
        with Image.open(masks[0]) as first:
            labels = np.zeros(first.size[::-1], np.int32)
        if min(labels.shape) >= 512 and len(masks) > 60:
            break
    for number, path in enumerate(masks, start=1):
        labels[np.asarray(Image.open(path)) > 0] = number
    found = instance_map(labels)
    for overlap in (16, 48):
        tiles = tile_rectangles(labels.shape, (160, 192), overlap)
        merged = merge_tiles(detect(found, tiles), tiles, labels.shape)
        assert same_objects(merged, found)
        noisy = merge_tiles(detect(found, tiles, noise=0), tiles, labels.shape)
        assert len(noisy.scores) == len(found.scores)


def test_no_detection_and_no_inner_edge():
    found = blank([np.s_[0:64, 0:160]])
    whole = np.array([[0, 0, 64, 160]])
    assert same_objects(merge_tiles(detect(found, whole), whole, (64, 160)), found)
    nothing = detect(blank(), TWO)
    assert len(merge_tiles(nothing, TWO, (64, 160)).scores) == 0


@pytest.mark.parametrize("seed", range(4))
def test_pairs_of_boxes_are_those_of_all_against_all(seed):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 60, (80, 2))
    boxes = np.concatenate([low, low + rng.choice([1, 3, 8, 40], (80, 2))], axis=1)
    expected = [
        (a, b)
        for a in range(80)
        for b in range(a + 1, 80)
        if (np.maximum(boxes[a, :2], boxes[b, :2]) < np.minimum(boxes[a, 2:], boxes[b, 2:])).all()
    ]
    assert box_pairs(boxes).tolist() == [list(pair) for pair in expected]
    assert box_pairs(np.empty((0, 4))).shape == (0, 2)


def test_tiles_cover_the_image_with_the_overlap_asked_for():
    tiles = tile_rectangles((100, 50), (40, 64), 8)
    assert tiles.tolist() == [[0, 0, 40, 50], [30, 0, 70, 50], [60, 0, 100, 50]]
    for size in range(1, 200):
        starts = tile_rectangles((size, 10), (32, 10), 8)
        assert starts[0, 0] == 0
        assert starts[-1, 2] == size
        assert (starts[:-1, 2] - starts[1:, 0] >= 8).all()


def test_an_overlap_as_large_as_a_tile_is_refused():
    with pytest.raises(ShapeError, match="smaller than a tile"):
        tile_rectangles((100, 100), (32, 32), 32)


def test_maps_are_as_they_were_painted():
    found = discs((100, 100), 26, 12)
    assert isinstance(found, InstanceMap)
    assert same_objects(separate(found), found)


def slow_merge(seen, tiles, shape, agreement=0.5, margin=2):
    """The rules of the docstring on whole masks, one pair after the other."""
    parts, first = [], 0
    for (y0, x0, y1, x1), found in zip(tiles, seen, strict=True):
        for box, mask in zip(found.boxes.astype(int), found.masks, strict=True):
            whole, view = np.zeros(shape, bool), np.zeros(shape, bool)
            whole[box[0] : box[2], box[1] : box[3]] = mask
            view[y0:y1, x0:x1] = True
            gaps = [box[0] - y0, box[1] - x0, y1 - box[2], x1 - box[3]]
            inner = [y0 > 0, x0 > 0, y1 < shape[0], x1 < shape[1]]
            clearance = min([g for g, i in zip(gaps, inner, strict=True) if i], default=np.inf)
            parts.append((whole, view, clearance, found.scores[len(parts) - first], box))
        first = len(parts)

    def agree(a, b):
        both = parts[a][1] & parts[b][1]
        one, two = parts[a][0] & both, parts[b][0] & both
        shared = (one & two).sum()
        same = shared > agreement * (one | two).sum()
        return same, same or shared > agreement * one.sum()

    def contradicted(n):
        y0, x0, y1, x1 = parts[n][4]
        seen = confirmed = False
        for ty0, tx0, ty1, tx1 in tiles:
            gaps = [y0 - ty0, x0 - tx0, ty1 - y1, tx1 - x1]
            inner = [ty0 > 0, tx0 > 0, ty1 < shape[0], tx1 < shape[1]]
            if all(g >= margin for g, i in zip(gaps, inner, strict=True) if i):
                view = np.zeros(shape, bool)
                view[ty0:ty1, tx0:tx1] = True
                seen = True
                others = [k for k, part in enumerate(parts) if (part[1] == view).all()]
                confirmed |= any(agree(n, k)[0] for k in others)
        return seen and (min(y1 - y0, x1 - x0) <= margin or not confirmed)

    whole = [n for n, p in enumerate(parts) if p[2] >= margin]
    whole.sort(key=lambda n: -parts[n][3])
    kept = []
    for n in whole:
        if not any((parts[n][1] != parts[k][1]).any() and agree(n, k)[0] for k in kept):
            kept.append(n)
    cut = [n for n, p in enumerate(parts) if p[2] < margin and not contradicted(n)]
    cut = [n for n in cut if not any(agree(n, k)[1] for k in whole)]
    groups = [{n} for n in cut]
    for a in cut:
        for b in cut:
            if a < b and (parts[a][1] != parts[b][1]).any() and agree(a, b)[0]:
                one, two = (next(g for g in groups if n in g) for n in (a, b))
                if one is not two:
                    groups.remove(two)
                    one |= two
    masks = [parts[n][0] for n in kept]
    return masks + [np.any([parts[n][0] for n in group], axis=0) for group in groups]


@pytest.mark.parametrize("seed", range(4))
def test_noisy_tiles_merge_as_in_a_slow_version(seed):
    rng = np.random.default_rng(seed)
    found = discs((72, 88), 18, 12, seed=seed)
    tiles = tile_rectangles((72, 88), (36, 40), int(rng.integers(4, 16)))
    seen = detect(found, tiles, scores=rng.random(len(tiles)), noise=seed)
    for _ in range(2):  # worse noise: up to two pixels, and some detections lost
        seen = [shake(d, rng).take(np.flatnonzero(rng.random(len(d.scores)) < 0.9)) for d in seen]
    merged = merge_tiles(seen, tiles, (72, 88))
    ours = []
    for (y0, x0, y1, x1), mask in zip(merged.boxes.astype(int), merged.masks, strict=True):
        whole = np.zeros((72, 88), bool)
        whole[y0:y1, x0:x1] = mask
        ours.append(whole.tobytes())
    assert sorted(ours) == sorted(mask.tobytes() for mask in slow_merge(seen, tiles, (72, 88)))
