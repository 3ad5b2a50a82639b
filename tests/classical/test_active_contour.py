import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import inverse_gaussian_gradient
from skimage.segmentation import morphological_chan_vese
from skimage.segmentation import morphological_geodesic_active_contour
from skimage.segmentation import morphsnakes

from segkit.classical import active_contour as module
from segkit.classical.active_contour import active_contour
from segkit.classical.active_contour import chan_vese
from segkit.classical.morphology import chan_vese_contour
from segkit.classical.morphology import geodesic_contour
from segkit.errors import ConfigError
from segkit.volume import Volume

SHAPES = pytest.mark.parametrize("shape", [(30, 34), (11, 16, 18)])
METHODS = pytest.mark.parametrize("method", [active_contour, chan_vese])


@pytest.fixture
def first_operator_next(monkeypatch):
    """Its smoothing alternates over all calls of a process; this makes it begin anew."""

    def begin():
        order = [
            lambda u: morphsnakes.sup_inf(morphsnakes.inf_sup(u)),
            lambda u: morphsnakes.inf_sup(morphsnakes.sup_inf(u)),
        ]
        monkeypatch.setattr(morphsnakes, "_curvop", morphsnakes._fcycle(order))

    return begin


def scene(shape):
    noise = np.random.default_rng(0).standard_normal(shape)
    start = np.zeros(shape, bool)
    start[tuple(slice(n // 2 - 4, n // 2 + 4) for n in shape)] = True
    return ndimage.gaussian_filter(noise, 2), start


@SHAPES
@pytest.mark.parametrize("iterations", [1, 2, 25])
@pytest.mark.parametrize(("smoothing", "inside"), [(1, 1.0), (2, 2.0), (0, 1.0)])
def test_chan_vese_is_scikit_image_s(first_operator_next, shape, iterations, smoothing, inside):
    image, start = scene(shape)
    first_operator_next()
    expected = morphological_chan_vese(
        image, iterations, init_level_set=start, smoothing=smoothing, lambda1=inside
    )
    found = chan_vese_contour(
        image, start, iterations, smoothing=smoothing, inside=inside, outside=1.0
    )
    np.testing.assert_array_equal(found, expected)


@SHAPES
@pytest.mark.parametrize("iterations", [1, 2, 12])
@pytest.mark.parametrize("balloon", [-1, 0, 1])
def test_geodesic_contours_are_scikit_image_s(first_operator_next, shape, iterations, balloon):
    image, start = scene(shape)
    stopping = inverse_gaussian_gradient(image / image.std(), sigma=1.0)
    first_operator_next()
    expected = morphological_geodesic_active_contour(
        stopping, iterations, init_level_set=start, smoothing=1, balloon=balloon
    )
    found = geodesic_contour(
        stopping, start, iterations, smoothing=1, balloon=balloon, edge_share=0.4
    )
    np.testing.assert_array_equal(found, expected)


@METHODS
def test_each_class_grows_from_its_seeds(method):
    j, i = np.indices((40, 70))
    discs = [(j - 20) ** 2 + (i - at) ** 2 < 12**2 for at in (17, 52)]
    image = Volume((discs[0] * 60.0 + discs[1] * 60.0).astype(np.float32)[None])
    seeds = {2: [[17, 20, 0]], 1: [[52, 20, 0]]}
    found = method(image, 3, seeds=seeds, iterations=40)[0]
    for disc, index in zip(discs, (2, 1), strict=True):
        assert 2 * ((found == index) & disc).sum() / ((found == index).sum() + disc.sum()) > 0.95


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        *((method, "iterations", 2) for method in (active_contour, chan_vese)),
        *((method, "smoothing", 4) for method in (active_contour, chan_vese)),
        *((method, "seed_radius_mm", 2.0) for method in (active_contour, chan_vese)),
        (active_contour, "balloon", -1),
        (active_contour, "edge_share", 0.9),
        (active_contour, "sigma_mm", 3.0),
        (chan_vese, "inside", 3.0),
        (chan_vese, "outside", 3.0),
    ],
)
def test_options_change_the_mask(method, option, value, ball):
    volume = ball((1, 40, 42), (1.0, 1.0, 1.0), noise=25).volume
    usual = {"iterations": 6, "seed_radius_mm": 4.0}
    changed = method(volume, 2, **(usual | {option: value}))
    assert (changed != method(volume, 2, **usual)).any()


@METHODS
def test_images_that_take_too_long_are_refused(method, monkeypatch, ball):
    monkeypatch.setattr(module, "MAX_VOXELS", 20_000)
    # 14 x 26 x 28 voxels, twice as many when cubic.
    with pytest.raises(ConfigError, match="20384 voxels, it takes up to 20000"):
        method(ball().volume, 2)


@METHODS
def test_impossible_options_are_refused(method, ball):
    for options, message in (
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"smoothing": 5}, "from 0 to 4, got 5"),
        ({"seed_radius_mm": 0.0}, "seed_radius_mm must be above 0"),
        ({"seeds": {1: [[0, 0, 0]]}}, "outside the image"),
    ):
        with pytest.raises(ConfigError, match=message):
            method(ball().volume, 2, **options)
    with pytest.raises(ConfigError, match="two axes or more"):
        method(Volume(np.arange(9, dtype=np.float32).reshape(1, 1, 9)), 2)


def test_options_of_one_contour_only(ball):
    volume = ball().volume
    with pytest.raises(ConfigError, match="must be -1, 0 or 1, got 2"):
        active_contour(volume, 2, balloon=2)
    with pytest.raises(ConfigError, match="edge_share must be at least 0 and below 1"):
        active_contour(volume, 2, edge_share=1.0)
    with pytest.raises(ConfigError, match="sigma_mm must be above 0"):
        active_contour(volume, 2, sigma_mm=0.0)
    with pytest.raises(ConfigError, match="inside must be above 0"):
        chan_vese(volume, 2, inside=0.0)
