"""Polygons and run lengths to pixels, by hand and against pycocotools."""

import numpy as np
import pytest

from data_prep.outlines import fill_polygons
from data_prep.outlines import fill_runs
from segkit.errors import DataError


def mask_of(pixels, shape):
    mask = np.zeros(shape, bool)
    mask.reshape(-1)[pixels] = True
    return mask


def test_a_polygon_holds_the_pixels_whose_centres_it_holds():
    # x from 0.6 to 2.4 and y from 1 to 3: the centre 1.5 alone, in rows 1 and 2
    pixels = fill_polygons([[0.6, 1, 2.4, 1, 2.4, 3, 0.6, 3]], (4, 5))
    assert pixels.tolist() == [1 * 5 + 1, 2 * 5 + 1]


def test_polygons_are_joined_and_cut_at_the_border():
    mask = mask_of(
        fill_polygons([[-3, -3, 1, -3, 1, 1, -3, 1], [3, 2, 9, 2, 9, 9, 3, 9]], (3, 5)), (3, 5)
    )
    assert np.argwhere(mask).tolist() == [[0, 0], [2, 3], [2, 4]]


def test_a_polygon_without_area_is_empty():
    assert fill_polygons([[0.6, 0.6, 0.6, 0.6, 0.6, 0.6]], (3, 3)).size == 0
    assert fill_polygons([], (3, 3)).size == 0


def test_runs_go_down_the_columns():
    mask = mask_of(fill_runs([1, 3, 2], (3, 2)), (3, 2))
    assert mask.tolist() == [[False, True], [True, False], [True, False]]
    assert fill_runs([6], (3, 2)).size == 0
    assert fill_runs([0, 6], (3, 2)).tolist() == list(range(6))


@pytest.mark.parametrize(
    "counts", [[1, 3], [7, -1], [1.5, 4.5], [], None, [[6]], "!!", "PPPPPPPPPPPPPP"]
)
def test_runs_that_are_none_are_refused(counts):
    with pytest.raises(DataError, match="run lengths"):
        fill_runs(counts, (3, 2))


@pytest.mark.parametrize(
    "polygon", [[1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, np.inf], "text"]
)
def test_polygons_that_are_none_are_refused(polygon):
    with pytest.raises(DataError, match="three points"):
        fill_polygons([polygon], (3, 3))


def test_texts_of_run_lengths_are_those_of_pycocotools():
    mask_utils = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        mask = rng.random((37, 53)) < share
        mask[5:30, 10:40] ^= True
        text = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        np.testing.assert_array_equal(mask_of(fill_runs(text, mask.shape), mask.shape), mask)


def test_polygons_agree_with_pycocotools_up_to_the_rim():
    mask_utils = pytest.importorskip("pycocotools.mask")
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x, y = 25.3 + 12 * np.cos(angle), 20.1 + 15 * np.sin(angle)
    points = np.stack([x, y], axis=1).ravel().tolist()
    theirs = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects([points], 45, 50))) > 0
    ours = mask_of(fill_polygons([points], (45, 50)), (45, 50))
    assert np.count_nonzero(ours ^ theirs) < 0.02 * np.count_nonzero(theirs)
    assert np.count_nonzero(ours) == pytest.approx(np.pi * 12 * 15, rel=0.02)
