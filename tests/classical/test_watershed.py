import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed as flood

from segkit.classical.watershed import watershed
from segkit.errors import ConfigError
from segkit.volume import Volume


def rooms(noise=0.0):
    """Three rooms of 9 columns: 10, 90 and 50 bright."""
    image = np.repeat([10.0, 90.0, 50.0], 9) + np.zeros((4, 12, 1))
    image += noise * np.random.default_rng(3).standard_normal(image.shape)
    return Volume(image.astype(np.float32))


def columns(labels):
    return labels.reshape(-1, labels.shape[-1])


def test_basins_have_the_class_of_their_mean_intensity():
    found = columns(watershed(rooms(noise=2), 3, sigma_mm=0.5))
    for low, expected in ((0, 0), (9, 2), (18, 1)):
        assert (found[:, low + 1 : low + 8] == expected).all()
    found = columns(watershed(rooms(noise=2), 3, sigma_mm=0.5, classes=[1, 0, 2]))
    assert found[0, [4, 13, 22]].tolist() == [1, 2, 0]


def test_basins_of_seeds_meet_on_the_ridges():
    """The room in the middle has no seed: it goes to the side that its ridge is lower to."""
    seeds = {0: [[0.5, 0.5, 0.1]], 2: [[0.5, 0.5, 0.9]]}
    found = columns(watershed(rooms(), 3, seeds=seeds, seed_units="fraction", sigma_mm=0.0))
    assert (found[:, :8] == 0).all()
    assert (found[:, 10:] == 2).all()


def test_floods_from_seeds_as_scikit_image():
    noise = np.random.default_rng(0).standard_normal((6, 20, 22), np.float32)
    volume = Volume(ndimage.gaussian_filter(noise, 2).astype(np.float32))
    marked = np.zeros(volume.shape, int)
    marked[2, 5, 5], marked[3, 15, 16] = 1, 2
    seeds = {0: [[5, 5, 2]], 1: [[16, 15, 3]]}
    # The magnitude of Sobel's gradient by NumPy's own differences and SciPy's filter.
    parts = [ndimage.sobel(volume.array, axis, mode="nearest") for axis in range(3)]
    expected = flood(np.sqrt(sum(part.astype(float) ** 2 for part in parts)), marked) - 1
    found = watershed(volume, 2, seeds=seeds, sigma_mm=0.0)
    assert (found != expected).mean() < 0.01
    marked[2, 5, 4:7] = marked[2, 4:7, 5] = marked[1:4, 5, 5] = 1
    marked[3, 15, 15:18] = marked[3, 14:17, 16] = marked[2:5, 15, 16] = 2
    balls = watershed(volume, 2, seeds=seeds, sigma_mm=0.0, seed_radius_mm=1.0)
    assert (balls[marked > 0] == marked[marked > 0] - 1).all()


def test_deeper_basins_are_fewer():
    """A speck of 3 pixels is a basin of its own, or is flooded by what is around it."""
    image = np.zeros((1, 30, 30), np.float32)
    image[0, 5:20, 5:20] = 100
    image[0, 11:14, 11:14] = 70
    shallow = watershed(Volume(image), 3, sigma_mm=0.0, depth=0.0)[0]
    deep = watershed(Volume(image), 3, sigma_mm=0.0, depth=0.5)[0]
    assert (shallow[12, 12], deep[12, 12]) == (1, 2)
    assert shallow[8, 8] == deep[8, 8] == 2


def test_an_image_without_a_deep_basin_is_one_region():
    ramp = Volume(np.arange(12, dtype=np.float32).reshape(1, 1, 12))
    # The gradient is 1, at both ends 1/2: no basin is 0.9 deep. The mean, 5.5, is above the
    # cut, just above 5.
    assert watershed(ramp, 2, sigma_mm=0.0, depth=0.9).tolist() == [[[1] * 12]]
    assert watershed(ramp, 2, sigma_mm=0.0, depth=0.2).tolist() == [[[0] * 6 + [1] * 6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 1.0}, "depth must be at least 0 and below 1, got 1.0"),
        ({"sigma_mm": -1.0}, "sigma_mm must be at least 0"),
        ({"seeds": {1: [[0, 0, 0]]}}, "two classes or more, got 1"),
        ({"seeds": {1: [[0, 0, 0]]}, "classes": [0, 1]}, "got both"),
        ({"seeds": {1: [[99, 0, 0]]}}, "outside the image"),
        ({"seeds": {0: [[1, 1, 1]], 1: [[0, 0, 0]]}, "seed_radius_mm": -1.0}, "seed_radius_mm"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        watershed(rooms(), 3, **options)
