import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.metrics.generation.ssim import WEIGHTS
from segkit.metrics.generation.ssim import fitting_scales
from segkit.metrics.generation.ssim import multi_scale_ssim
from segkit.metrics.generation.ssim import ssim


def images(shape, seed=0, noise=0.3):
    """A smooth image and one with noise."""
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=shape), [2] * (len(shape) - 1) + [0]) * 3
    return truth, truth + noise * rng.normal(size=shape)


@pytest.mark.parametrize("shape", [(24, 31, 1), (24, 31, 3), (14, 15, 16, 2), (11, 11, 1)])
def test_it_is_scikit_images_with_the_papers_window(shape):
    truth, image = images(shape)
    expected = structural_similarity(
        truth,
        image,
        data_range=2.5,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
    )
    assert ssim(truth, image, data_range=2.5) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 0.95


def test_constant_images_by_hand():
    # No variance, so lightness alone: (2 * 1 * 2 + a) / (1 + 4 + a) with a = 0.01^2.
    ones = np.ones((11, 11, 1))
    expected = (4 + 1e-4) / (5 + 1e-4)
    assert ssim(ones, 2 * ones, data_range=1) == pytest.approx(expected)
    # At all scales alike; structure is b / b = 1, and lightness counts once.
    large = np.ones((41, 41, 1))
    weight = WEIGHTS[2] / sum(WEIGHTS[:3])
    found = multi_scale_ssim(large, 2 * large, data_range=1, scales=3)
    assert found == pytest.approx(expected**weight)


def test_equal_images_score_1_and_order_of_the_two_does_not_count():
    truth, image = images((48, 48, 1))
    assert ssim(truth, truth, data_range=2) == pytest.approx(1)
    assert multi_scale_ssim(truth, truth, data_range=2, scales=3) == pytest.approx(1)
    assert ssim(truth, image, data_range=2) == pytest.approx(ssim(image, truth, data_range=2))


@pytest.mark.parametrize("shape", [(176, 192, 1), (181, 177, 2)])
def test_five_scales_are_tensorflows(shape):
    import tensorflow as tf

    truth, image = images(shape)
    expected = tf.image.ssim_multiscale(truth.astype("float32"), image.astype("float32"), 2.5)
    found = multi_scale_ssim(truth, image, data_range=2.5)
    assert found == pytest.approx(float(expected), abs=2e-5)
    assert found < 0.99


def test_scales_are_joined_as_the_formula_says():
    truth, image = images((44, 46, 1))
    # From the maps of `ssim` itself, by constants that leave one factor: structure is SSIM of
    # what has mean 0, so it is compared through scales of the whole instead.
    one = multi_scale_ssim(truth, image, data_range=2.5, scales=1)
    assert one == pytest.approx(ssim(truth, image, data_range=2.5))
    halves = [a.reshape(22, 2, 23, 2, 1).mean(axis=(1, 3)) for a in (truth, image)]
    coarse = ssim(*halves, data_range=2.5)
    structure = slow_structure(truth[..., 0], image[..., 0], 2.5)
    first = WEIGHTS[0] / (WEIGHTS[0] + WEIGHTS[1])
    expected = structure**first * coarse ** (1 - first)
    found = multi_scale_ssim(truth, image, data_range=2.5, scales=2)
    assert found == pytest.approx(expected)


def slow_structure(x, y, data_range):
    """Mean of the second factor of SSIM, window by window."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            u, v = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            u, v = u - (weight * u).sum(), v - (weight * v).sum()
            b = (0.03 * data_range) ** 2
            above, below = 2 * (weight * u * v).sum() + b, (weight * (u**2 + v**2)).sum() + b
            found.append(above / below)
    return np.mean(found)


def test_volumes_have_scales_too():
    truth, image = images((22, 24, 26, 1))
    found = multi_scale_ssim(truth, image, data_range=2.5, scales=2)
    rolled = [np.moveaxis(a, 0, 2) for a in (truth, image)]
    assert found == pytest.approx(multi_scale_ssim(*rolled, data_range=2.5, scales=2))
    less = multi_scale_ssim(truth, images((22, 24, 26, 1), noise=0.1)[1], data_range=2.5, scales=2)
    assert less > found


def test_opposite_images_score_0_and_not_nan():
    truth, _ = images((48, 48, 1))
    truth -= truth.mean()
    assert multi_scale_ssim(truth, -truth, data_range=2, scales=3) == 0


def test_scales_that_fit():
    found = [
        fitting_scales(sides) for sides in [(10, 64), (11, 11), (21, 40), (64, 64), (161, 200)]
    ]
    assert found == [0, 1, 2, 3, 5]


def test_what_cannot_be_scored_is_refused():
    truth, image = images((24, 10, 1))
    with pytest.raises(ShapeError, match="sides of at least 11"):
        ssim(truth, image, data_range=1)
    truth, image = images((64, 64, 1))
    with pytest.raises(ShapeError, match="MS-SSIM of 4 scales .* at least 81"):
        multi_scale_ssim(truth, image, data_range=1, scales=4)
    with pytest.raises(ConfigError, match="1 to 5 scales, got 0"):
        multi_scale_ssim(truth, image, data_range=1, scales=0)
    with pytest.raises(DataError, match="data range"):
        ssim(truth, image, data_range=0)
    with pytest.raises(DataError, match="the truth holds NaN"):
        ssim(truth * np.nan, image, data_range=1)
