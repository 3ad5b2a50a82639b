from typing import NamedTuple

import numpy as np
import pytest

from benchmarks import instance_inference
from benchmarks.instance_inference import Piece
from benchmarks.instance_inference import count
from benchmarks.instance_inference import in_tiles
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


class Scene(NamedTuple):
    """What `count` takes."""

    ids: np.ndarray
    alone: object
    own: np.ndarray
    tiled: object
    whole: object
    tiles: np.ndarray


class Perfect:
    """Finds each connected part of a picture."""

    def slices(self, image):
        from scipy import ndimage

        labels = ndimage.label(image[0, ..., 0] > 0)[0]
        return [separate(instance_map(labels, dict.fromkeys(range(1, labels.max() + 1), 1)))]


@pytest.fixture(scope="module")
def scene():
    image, ids, boxes = mosaic([piece(0), piece(1)], 512, 100)
    tiles = tile_rectangles((512, 512), (256, 256), 128)
    alone, own = piece_by_piece(Perfect(), image, boxes, 32)
    whole = in_tiles(Perfect(), image, tiles)
    return Scene(ids, alone, own, Perfect().slices(image)[0], whole, tiles)


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
    rows = count(*scene, 0.8)
    for true, alone, tiled, *others in rows.values():
        assert true == alone == tiled > 30
        assert others == [f"0 of {true}"] * 3 + ["0 (0)"]
    assert rows["at seams"][0] + rows["elsewhere"][0] == len(np.unique(scene.ids)) - 1


def test_what_is_lost_and_doubled_is_counted_where_it_lies(scene):
    before = count(*scene, 0.8)
    near = instance_inference.at_seam(scene.tiled.boxes, scene.tiles, scene.ids.shape)
    at, off = np.flatnonzero(near), np.flatnonzero(~near)
    chosen = np.setdiff1d(np.arange(len(near)), at[:2])  # two at seams are lost
    tiled = scene.tiled.take([*chosen, off[0]])  # another is doubled
    rows = count(*scene._replace(tiled=tiled), 0.8)
    true = before["at seams"][0]
    few = [f"2 of {true}", f"0 of {true - 2}", f"2 of {true}", "0 (0)"]
    assert rows["at seams"] == [true, true, true - 2, *few]
    true = before["elsewhere"][0]
    assert rows["elsewhere"] == [true, true, true, *[f"0 of {true}"] * 3, "1 (0)"]
    fewer = scene.alone.take(np.arange(1, len(scene.alone.scores)))  # one in tiles alone
    rows = count(*scene._replace(alone=fewer), 0.8)
    assert sorted(row[4].split()[0] for row in rows.values()) == ["0", "1"]


def test_of_a_tile_only_what_lies_whole_in_it_is_taken():
    image = np.zeros((1, 64, 96, 1), np.float32)
    for x in (20, 29, 60):  # the second is cut by the edge of a tile at x = 32
        image[0, 10:20, x : x + 5] = 1
    tiles = np.array([[0, 0, 64, 32], [0, 32, 64, 96]])
    found = in_tiles(Perfect(), image, tiles)
    assert found.boxes.tolist() == [[10, 20, 20, 25], [10, 60, 20, 65]]


def test_objects_near_the_edges_of_tiles_are_at_seams():
    tiles = np.array([[0, 0, 64, 64], [0, 32, 64, 96]])  # edges within at x = 32 and 64
    boxes = np.array([[5, 10, 20, 29], [5, 10, 20, 31], [5, 28, 20, 40], [5, 67, 20, 90]])
    found = instance_inference.at_seam(boxes, tiles, (64, 96))
    assert found.tolist() == [False, True, True, False]


def test_without_a_run_nothing_is_measured(capsys):
    instance_inference.main([])
    assert "nothing measured" in capsys.readouterr().out
