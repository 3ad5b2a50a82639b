import numpy as np
import pytest
from skimage.filters import apply_hysteresis_threshold
from skimage.filters import threshold_local
from skimage.filters import threshold_otsu

from segkit.classical.threshold import adaptive_threshold
from segkit.classical.threshold import hysteresis
from segkit.classical.threshold import multi_otsu
from segkit.classical.threshold import otsu
from segkit.errors import ConfigError
from segkit.volume import Volume


def noisy(*shape):
    rng = np.random.default_rng(4)
    steps = np.repeat(rng.integers(0, 3, (*shape[:2], shape[2] // 4)), 4, axis=2) * 50
    return Volume((steps + rng.normal(0, 8, steps.shape)).astype(np.float32))


def test_otsu_is_scikit_image_s():
    volume = noisy(3, 16, 20)
    width = np.ptp(volume.array) / 256  # it returns the centre of a bin, here it is the edge
    expected = volume.array >= threshold_otsu(volume.array.astype(np.float64)) + width / 2
    np.testing.assert_array_equal(otsu(volume, 2), expected)


def test_levels_become_classes_from_dark_to_bright():
    volume = Volume(np.array([[[7.0, 0, 0, 20, 20, 7]]], np.float32))
    assert multi_otsu(volume, 3).tolist() == [[[1, 0, 0, 2, 2, 1]]]
    assert multi_otsu(volume, 3, classes=[2, 0, 1]).tolist() == [[[0, 2, 2, 1, 1, 0]]]
    assert multi_otsu(volume, 3, classes=[0, 2]).tolist() == [[[0, 0, 0, 2, 2, 0]]]


def test_dim_voxels_count_where_they_touch_bright_ones():
    row = np.array([0, 4, 9, 4, 0, 4, 4, 0, 9, 0], np.float32)
    found = hysteresis(Volume(row.reshape(1, 1, -1)), 2, low=3.0, high=8.0)
    assert found.ravel().tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 1, 0]


def test_hysteresis_is_scikit_image_s():
    volume = noisy(3, 16, 20)
    expected = apply_hysteresis_threshold(volume.array, 70, 95)
    np.testing.assert_array_equal(hysteresis(volume, 2, low=70.0, high=95.0), expected)


def test_by_itself_hysteresis_takes_otsu_s_threshold_and_the_mean_above():
    row = np.array([0, 0, 0, 0, 60, 0, 60, 100, 0, 100], np.float32)
    # Otsu: {0} | {60, 60, 100, 100}, mean 80: the first 60 touches nothing above 80.
    found = hysteresis(Volume(row.reshape(1, 1, -1)), 2)
    assert found.ravel().tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 1]


def test_a_high_threshold_below_the_low_one_is_refused():
    with pytest.raises(ConfigError, match="got low 5 and high 3"):
        hysteresis(noisy(1, 4, 4), 2, low=5.0, high=3.0)


def test_adaptive_threshold_is_scikit_image_s():
    volume = noisy(1, 24, 28)
    local = threshold_local(volume.array[0], 51, "gaussian", param=4.0, mode="nearest", offset=-9)
    found = adaptive_threshold(volume, 2, sigma_mm=4.0, offset=9.0)
    np.testing.assert_array_equal(found[0], volume.array[0] > local)


def test_adaptive_threshold_sees_through_shading():
    j, i = np.indices((40, 60))
    spots = (j % 10 < 3) & (i % 10 < 3)
    shaded = Volume((spots * 30 + i * 5.0).astype(np.float32)[None])
    inside = (slice(5, -5), slice(5, -5))
    found = adaptive_threshold(shaded, 2, sigma_mm=5.0, offset=10.0)[0]
    np.testing.assert_array_equal(found[inside], spots[inside])
    assert (otsu(shaded, 2)[0][inside] != spots[inside]).mean() > 0.3
