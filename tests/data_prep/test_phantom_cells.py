import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation
from scipy.ndimage import label as connected

from data_prep.built_in import recipe_of
from data_prep.built_in import write_study
from data_prep.layouts import scan_source
from data_prep.phantom_cells import make_cells


def test_the_same_seed_gives_the_same_bytes():
    first, second, other = make_cells(3), make_cells(3), make_cells(4)
    assert first.image.array.tobytes() == second.image.array.tobytes()
    assert first.ids.tobytes() == second.ids.tobytes()
    assert first.ids.tobytes() != other.ids.tobytes()


@pytest.mark.parametrize("seed", range(6))
def test_cells_are_numbered_and_are_what_the_label_says(seed):
    phantom = make_cells(seed)
    count = int(phantom.ids.max())
    areas = np.bincount(phantom.ids.ravel())
    assert 8 <= count <= 40
    assert len(areas) == count + 1
    assert areas[1:].min() > 0.7 * np.pi * 5**2  # the smallest radius is 5
    np.testing.assert_array_equal(phantom.label.array, phantom.ids > 0)
    assert phantom.ids.dtype == np.uint16


def test_some_cells_touch_so_that_connected_parts_are_too_few():
    for seed in range(6):
        phantom = make_cells(seed)
        parts = connected(phantom.label.array[0], np.ones((3, 3)))[1]
        assert parts < phantom.ids.max()


def test_even_pictures_are_bright_on_dark_and_odd_ones_dark_on_bright():
    for seed in range(6):
        phantom = make_cells(seed)
        picture, cells = phantom.image.array[0, ..., 0], phantom.label.array[0] > 0
        ground = ~binary_dilation(cells, iterations=3)
        difference = picture[cells].mean() - picture[ground].mean()
        assert difference > 15 if seed % 2 == 0 else difference < -15


def test_the_layout_reads_cells_with_their_objects():
    dataset = scan_source("phantom", "cells:6")
    assert dataset.channels == ("grey",)
    assert [case.held_back for case in dataset.cases] == [False] * 5 + [True]
    image, label, objects = dataset.read(dataset.cases[2])
    assert image.array.shape == (1, 160, 160, 1)
    np.testing.assert_array_equal(label.array > 0, objects.ids > 0)
    np.testing.assert_array_equal(objects.ids, make_cells(2).ids)
    assert len(scan_source("phantom", "ct:1").read(scan_source("phantom", "ct:1").cases[0])) == 2


def test_the_picture_to_try_predict_on_is_one_that_no_training_saw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_study("cells")
    with Image.open(path) as image:
        np.testing.assert_array_equal(image, make_cells(29).image.array[0, ..., 0])
    assert recipe_of(str(tmp_path / "data" / "phantom_cells")) == "cells"
    assert recipe_of(str(tmp_path)) is None
