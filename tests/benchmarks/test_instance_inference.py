import numpy as np
import pytest

from benchmarks import instance_inference
from benchmarks.instance_inference import Piece
from benchmarks.instance_inference import count
from benchmarks.instance_inference import mosaic
from benchmarks.instance_inference import piece_by_piece
from segkit.inference.detections import instance_map
from segkit.inference.detections import separate
from segkit.inference.merge_tiles import tile_rectangles


def piece(seed):
    """Discs of radius 8 on a shaken grid, whose values are their numbers."""
    rng, ids = np.random.default_rng(seed), np.zeros((256, 256), np.uint16)
    for number, (y, x) in enumerate(np.ndindex(8, 8), start=1):
        yy, xx = np.ogrid[:256, :256]
        centre = np.array([y, x]) * 32 + 16 + rng.integers(-6, 7, 2)
        ids[(yy - centre[0]) ** 2 + (xx - centre[1]) ** 2 <= 64] = number
    return Piece(ids[..., None].astype(np.float32), ids)


class Perfect:
    """Finds each connected part of a picture."""

    def slices(self, image):
        from scipy import ndimage

        labels = ndimage.label(image[0, ..., 0] > 0)[0]
        return [separate(instance_map(labels, dict.fromkeys(range(1, labels.max() + 1), 1)))]


@pytest.fixture
def scene():
    image, ids, boxes = mosaic([piece(0), piece(1)], 512, 100)
    tiles = tile_rectangles((512, 512), (256, 256), 128)
    alone, own = piece_by_piece(Perfect(), image, boxes, 32)
    return ids, alone, own, tiles, Perfect().slices(image)[0]


def test_the_borders_of_pieces_lie_where_they_should():
    image, ids, boxes = mosaic([piece(0), piece(1)], 512, 100)
    assert image.shape == (1, 512, 512, 1)
    assert [box.tolist() for box in boxes[:4]] == [
        [0, 0, 100, 100],
        [0, 100, 100, 356],
        [0, 356, 100, 512],
        [100, 0, 356, 100],
    ]
    np.testing.assert_array_equal(image[0, :100, :100, 0], piece(0).image[156:, 156:, 0])
    np.testing.assert_array_equal(image[0, :100, 100:356, 0], piece(1).image[156:, :, 0])
    np.testing.assert_array_equal(ids > 0, image[0, ..., 0] > 0)
    assert mosaic([piece(0)], 256, 0)[2][0].tolist() == [0, 0, 256, 256]


def test_a_perfect_network_loses_and_doubles_nothing(scene):
    ids, alone, own, tiles, tiled = scene
    rows = count(ids, alone, own, tiled, tiles, 0.8)
    for row in rows.values():
        assert row[0] == row[1] == row[2] > 30
        assert row[3:] == [0, 0, "0 (0)"]
    assert rows["at seams"][0] + rows["elsewhere"][0] == len(np.unique(ids)) - 1


def test_what_is_lost_and_doubled_is_counted_where_it_lies(scene):
    ids, alone, own, tiles, tiled = scene
    before = count(ids, alone, own, tiled, tiles, 0.8)
    near = instance_inference.at_seam(tiled.boxes, tiles, ids.shape)
    at, off = np.flatnonzero(near), np.flatnonzero(~near)
    chosen = np.setdiff1d(np.arange(len(near)), at[:2])  # two at seams are lost
    rows = count(ids, alone, own, tiled.take([*chosen, off[0]]), tiles, 0.8)  # another is doubled
    true = before["at seams"][0]
    assert rows["at seams"] == [true, true, true - 2, 2, 0, "0 (0)"]
    true = before["elsewhere"][0]
    assert rows["elsewhere"] == [true, true, true, 0, 0, "1 (0)"]
    fewer = alone.take(np.setdiff1d(np.arange(len(alone.scores)), [0]))  # found in tiles alone
    rows = count(ids, fewer, own, tiled, tiles, 0.8)
    assert sum(row[4] for row in rows.values()) == 1


def test_objects_near_the_edges_of_tiles_are_at_seams():
    tiles = np.array([[0, 0, 64, 64], [0, 32, 64, 96]])  # edges within at x = 32 and 64
    boxes = np.array([[5, 10, 20, 29], [5, 10, 20, 31], [5, 28, 20, 40], [5, 67, 20, 90]])
    found = instance_inference.at_seam(boxes, tiles, (64, 96))
    assert found.tolist() == [False, True, True, False]


def test_without_a_run_nothing_is_measured(capsys):
    instance_inference.main([])
    assert "nothing measured" in capsys.readouterr().out
