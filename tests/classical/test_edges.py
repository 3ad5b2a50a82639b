import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import canny as canny_of_scikit_image

from segkit.classical.edges import canny
from segkit.classical.edges import canny_edges
from segkit.classical.edges import classes_between
from segkit.classical.edges import sobel
from segkit.classical.edges import thickened
from segkit.errors import ConfigError
from segkit.volume import Volume


def textured(*shape):
    noise = np.random.default_rng(2).standard_normal(shape, np.float32)
    return Volume(ndimage.gaussian_filter(noise, 2).astype(np.float32) * 100)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_2d_canny_edges_are_scikit_image_s(sigma):
    volume = textured(1, 48, 52)
    found = canny_edges(volume, sigma_mm=sigma, low=1.0, high=2.0)[0]
    # Its Sobel filter sums where this one takes means: a factor of 8 per pixel of 1 mm.
    expected = canny_of_scikit_image(
        volume.array[0], sigma, low_threshold=8.0, high_threshold=16.0, mode="nearest"
    )
    inside = (slice(3, -3), slice(3, -3))  # it has no edges at the border
    assert 50 < expected.sum() < 1000
    assert (found[inside] != expected[inside]).mean() < 0.002


def test_3d_edges_follow_a_tilted_plane():
    """Edges of a half space lie within a voxel of its plane, on every line through it."""
    at = np.indices((20, 24, 22))
    height = np.tensordot([0.5, 0.3, 0.8], at, 1) - 16
    edges = canny_edges(Volume((height > 0).astype(np.float32)), sigma_mm=1.0)
    assert np.abs(height[edges]).max() < 1
    along = edges.any(axis=2)
    assert along[(height.min(axis=2) < -2) & (height.max(axis=2) > 2)].all()


def test_edges_enclose_regions_with_the_class_of_their_mean():
    image = np.zeros((1, 9, 13), np.float32)
    image[0, 2:7, 2:5] = 10
    image[0, 2:7, 8:11] = 5
    edges = np.zeros(image.shape, bool)
    for left in (1, 7):
        edges[0, 1:8, left : left + 5] = True
        edges[0, 2:7, left + 1 : left + 4] = False
    found = classes_between("x", Volume(image), edges, 3, 0.0, None)
    # Edge pixels are as near to the inside as to the outside, and all as dark as the latter.
    np.testing.assert_array_equal(found, image / 5)


def test_an_edge_pixel_goes_with_the_region_it_resembles():
    image = np.array([0, 0, 0, 4, 10, 10, 10, 7, 0, 0], np.float32).reshape(1, 1, -1)
    edges = np.zeros(image.shape, bool)
    edges[0, 0, [3, 7]] = True
    found = classes_between("x", Volume(image), edges, 2, 0.0, None)
    assert found.ravel().tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("method", [sobel, canny])
def test_closing_bridges_a_gap(method):
    """Two bright rooms of a dark house joined by a door are one; closed, each has its class."""
    j, i = np.indices((30, 60))
    image = np.where((j > 5) & (j < 24) & (i > 5) & (i < 54), 60.0, 0.0)
    image[6:24, 30:54] = 100
    image[13:16, 27:33] = 80  # edges are weaker in the door
    volume = Volume(image.astype(np.float32)[None])
    options = {"low": 10.0, "high": 12.0} if method is canny else {"threshold": 15.0}
    apart = method(volume, 3, close_mm=4.0, **options)[0]
    joined = method(volume, 3, close_mm=0.0, **options)[0]
    assert (apart[10, 15], apart[10, 45]) == (1, 2)
    assert joined[10, 15] == joined[10, 45]


def test_edges_become_thicker_in_mm():
    mask = np.zeros((3, 1, 5), bool)
    mask[1, 0, 2] = True
    grown = thickened(mask, 2.0, (3.0, 1.0, 1.0))
    assert grown.sum(axis=2).ravel().tolist() == [0, 5, 0]
    grown = thickened(mask, 3.2, (3.0, 1.0, 2.0))  # sqrt(3^2 + 1^2) = 3.16, but columns are 2 apart
    assert grown.sum(axis=2).ravel().tolist() == [1, 3, 1]
    assert not thickened(mask & False, 2.0, (1.0, 1.0, 1.0)).any()


def test_options_change_the_edges():
    volume = textured(1, 48, 52)
    counts = [
        canny_edges(volume, sigma_mm=sigma, low=low, high=high).sum()
        for sigma, low, high in ((0.5, 1, 2), (2.0, 1, 2), (0.5, 0.5, 2), (0.5, 1, 6))
    ]
    assert counts[1] < counts[0] < counts[2]
    assert counts[3] < counts[0]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (sobel, {"threshold": 0.0}, "threshold must be above 0"),
        (sobel, {"close_mm": -1.0}, "close_mm must be at least 0"),
        (sobel, {"threshold": 1e-9, "close_mm": 50.0}, "edges everywhere"),
        (canny, {"low": 3.0, "high": 2.0}, "got low 3 and high 2"),
        (canny, {"sigma_mm": -1.0}, "sigma_mm must be at least 0"),
    ],
)
def test_impossible_options_are_refused(method, options, message):
    with pytest.raises(ConfigError, match=message):
        method(textured(1, 12, 14), 2, **options)
