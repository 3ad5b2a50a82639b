import numpy as np
import pytest
from scipy import ndimage

from segkit.errors import ConfigError
from segkit.losses.cldice import cldice
from segkit.losses.cldice import soft_skeleton


def _slow_skeleton(x, iterations):
    """The skeleton of one picture, with SciPy's greyscale morphology."""
    cross = ndimage.generate_binary_structure(x.ndim, 1)
    cube = np.ones([3] * x.ndim, bool)

    def erode(y):
        return ndimage.grey_erosion(y, footprint=cross, mode="constant", cval=np.inf)

    def opened(y):
        return ndimage.grey_dilation(erode(y), footprint=cube, mode="constant", cval=-np.inf)

    skeleton = np.maximum(x - opened(x), 0)
    for _ in range(iterations):
        x = erode(x)
        lost = np.maximum(x - opened(x), 0)
        skeleton = skeleton + np.maximum(lost - skeleton * lost, 0)
    return skeleton


@pytest.mark.parametrize("shape", [(9, 12), (7, 8, 6)])
@pytest.mark.parametrize("iterations", [1, 4])
def test_soft_skeleton_equals_scipys_morphology(shape, iterations):
    x = np.random.default_rng(0).random((2, *shape, 2)).astype("float32")
    for values in (x, (x > 0.3).astype("float32")):
        skeleton = soft_skeleton(values, iterations).numpy()
        for b, c in np.ndindex(2, 2):
            expected = _slow_skeleton(values[b, ..., c], iterations)
            np.testing.assert_allclose(skeleton[b, ..., c], expected, atol=1e-6)


@pytest.mark.parametrize("thickness", [3, 5])
def test_the_skeleton_of_a_bar_is_its_centre_line(thickness):
    # Eroded from all four sides until one voxel is left across: the line is shorter by as much.
    bar = np.zeros((1, 11, 20, 1), "float32")
    half = thickness // 2
    bar[0, 5 - half : 6 + half, 2:18] = 1
    expected = np.zeros_like(bar)
    expected[0, 5, 2 + half : 18 - half] = 1
    np.testing.assert_array_equal(soft_skeleton(bar, 3), expected)


def test_too_few_iterations_miss_what_is_thick():
    bar = np.zeros((1, 15, 20, 1), "float32")
    bar[0, 4:11, 2:18] = 1
    assert not np.any(soft_skeleton(bar, 2))
    assert np.any(soft_skeleton(bar, 3))


def _line(*columns):
    labels = np.zeros((1, 5, 12), int)
    labels[0, 2, list(columns)] = 1
    return labels


def test_cldice_matches_hand_computed_value():
    # A line of 8 voxels is its own skeleton; the prediction holds 6 of them and nothing else:
    # precision (6 + 1) / (6 + 1), sensitivity (6 + 1) / (8 + 1): 1 - 2 * 7/9 / (16/9) = 1/8.
    labels = _line(*range(2, 10))
    guess = _line(2, 3, 4, 5, 6, 7)
    logits = (40.0 * np.eye(2)[guess]).astype("float32")
    np.testing.assert_allclose(cldice(labels, logits), [1 / 8], rtol=1e-5)
    # Without smoothing: 1 and 6/8: 1 - 2 * .75 / 1.75 = 1/7.
    np.testing.assert_allclose(cldice(labels, logits, smooth=0.0), [1 / 7], rtol=1e-5)


def test_a_predicted_line_that_is_not_there_costs_what_the_smoothing_says():
    # P = 6: precision 1 / 7, sensitivity 1: 1 - (2/7) / (8/7) = 3/4 = 6 / (6 + 2).
    logits = (40.0 * np.eye(2)[_line(2, 3, 4, 5, 6, 7)]).astype("float32")
    nothing = np.zeros((1, 5, 12), int)
    np.testing.assert_allclose(cldice(nothing, logits), [3 / 4], rtol=1e-5)
    logits = (40.0 * np.eye(2)[nothing]).astype("float32")
    np.testing.assert_allclose(cldice(nothing, logits), [0], atol=1e-6)


def test_a_gap_costs_more_than_a_thinner_line():
    labels = np.zeros((1, 9, 24), int)
    labels[0, 3:6, 2:22] = 1
    thin, broken = labels.copy(), labels.copy()
    thin[0, [3, 5]] = 0
    broken[0, :, 10:13] = 0
    thin_loss, broken_loss = (
        cldice(labels, (40.0 * np.eye(2)[guess]).astype("float32")).numpy()
        for guess in (thin, broken)
    )
    assert thin_loss < broken_loss


def test_cldice_counts_all_foreground_classes(draw):
    labels, logits = draw((2, 8, 9))
    first, second = (
        cldice(
            (labels == c).astype(int),
            np.stack([np.logaddexp.reduce(np.delete(logits, c, -1), -1), logits[..., c]], -1),
        ).numpy()
        for c in (1, 2)
    )
    np.testing.assert_allclose(cldice(labels, logits), (first + second) / 2, rtol=1e-5)


def test_no_iterations_are_refused(draw):
    with pytest.raises(ConfigError, match="1 or more iterations, got 0"):
        cldice(*draw(), iterations=0)
