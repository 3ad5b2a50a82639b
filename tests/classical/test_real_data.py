"""Hippocampus MR: every method on a real scan, and region growing against its label."""

import numpy as np
import pytest

from segkit.classical import METHODS
from segkit.classical import segment
from segkit.io import read_image
from segkit.io import read_label

CASE = "hippocampus_001.nii.gz"
# Mean places of thirds of each part in training labels, see docs/classical.md.
SEEDS = {
    1: [[0.36, 0.66, 0.36], [0.28, 0.77, 0.51], [0.36, 0.66, 0.53]],
    2: [[0.45, 0.45, 0.35], [0.54, 0.32, 0.38], [0.66, 0.19, 0.47]],
}
SEEDED = {"seeds": SEEDS, "seed_units": "fraction"}


@pytest.fixture(scope="module")
def hippocampus(shared_data):
    folder = shared_data / "Task04_Hippocampus"
    return read_image(folder / "imagesTr" / CASE), read_label(folder / "labelsTr" / CASE)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_something_on_the_grid_of_the_scan(method, hippocampus):
    image, label = hippocampus
    options = {"canny": {"close_mm": 1.0}, "active_contour": {"iterations": 10}}
    found = segment(method, image, 3, smooth_mm=1.0, **options.get(method, {}))
    assert found.shape == label.shape
    np.testing.assert_array_equal(found.affine, image.affine)
    assert 0 < (found.array > 0).mean() < 1


def test_region_growing_from_mean_places_finds_most_of_both_parts(hippocampus):
    image, label = hippocampus
    found = segment("region_growing", image, 3, smooth_mm=1.0, radius_mm=6.0, **SEEDED).array
    for index in (1, 2):
        hits = ((found == index) & (label.array == index)).sum()
        assert 2 * hits / ((found == index).sum() + (label.array == index).sum()) > 0.6
