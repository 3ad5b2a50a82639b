import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.metrics.generation.psnr import intensity_range
from segkit.metrics.generation.psnr import psnr


def test_a_constant_error_by_hand():
    # 10 log10(10^2 / 1^2) = 20.
    truth = np.zeros((4, 4, 1))
    assert psnr(truth, truth + 1, data_range=10) == pytest.approx(20)


@pytest.mark.parametrize("shape", [(16, 12, 1), (16, 12, 3), (8, 9, 10, 2)])
def test_it_is_scikit_images(shape):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=shape)
    image, width = truth + 0.3 * rng.normal(size=shape), intensity_range(truth)
    expected = peak_signal_noise_ratio(truth, image, data_range=width)
    assert psnr(truth, image, data_range=width) == pytest.approx(expected)
    assert width == truth.max() - truth.min()


def test_a_weight_counts_the_voxels_of_holes_only():
    truth = np.zeros((4, 4, 2))
    image, mask = truth.copy(), np.zeros((4, 4, 1))
    image[:2], image[2:], mask[:2] = 0.1, 7, 1
    assert psnr(truth, image, data_range=1, weight=mask) == pytest.approx(20)
    assert np.isnan(psnr(truth, image, data_range=1, weight=0 * mask))


def test_equal_images_have_no_noise():
    assert psnr(np.ones((4, 4)), np.ones((4, 4)), data_range=1) == np.inf


def test_what_cannot_be_scored_is_refused():
    truth = np.zeros((4, 4, 1))
    with pytest.raises(ShapeError, match="one shape"):
        psnr(truth, np.zeros((4, 4)), data_range=1)
    with pytest.raises(DataError, match="the image holds NaN"):
        psnr(truth, truth * np.nan, data_range=1)
    with pytest.raises(DataError, match="constant image has none"):
        psnr(truth, truth, data_range=intensity_range(truth))
