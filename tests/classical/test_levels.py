import itertools

import numpy as np
import pytest
from skimage.filters import threshold_multiotsu

from segkit.classical.levels import BINS
from segkit.classical.levels import class_of_intensity
from segkit.classical.levels import otsu_thresholds
from segkit.errors import DataError


def test_thresholds_by_hand():
    # Range 0 to 100, bins of 100/256. Of the equally good cuts between two values the darkest is
    # taken: the upper edge of the bin of the lower value. 0 is in bin 0, 10 in bin 25.
    values = [0] * 4 + [10] * 4 + [100] * 2
    np.testing.assert_allclose(otsu_thresholds(values, 3), [100 / 256, 26 * 100 / 256])
    # Two levels: {0} | {10, 100} gives 240^2/6 = 9600, {0, 10} | {100} 40^2/8 + 200^2/2 = 20200.
    np.testing.assert_allclose(otsu_thresholds(values, 2), [26 * 100 / 256])


def samples():
    rng = np.random.default_rng(0)
    parts = [rng.normal(mean, 8, n) for mean, n in ((0, 4000), (40, 2500), (90, 1500), (130, 900))]
    return np.concatenate(parts)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_thresholds_are_those_of_scikit_image(levels):
    values = samples()
    width = np.ptp(values) / BINS
    # It returns the centre of the last bin below, here it is that bin's upper edge.
    expected = threshold_multiotsu(values, levels, nbins=BINS) + width / 2
    np.testing.assert_allclose(otsu_thresholds(values, levels), expected, atol=1e-6)


def test_many_levels_are_the_best_of_all_cuts():
    values = np.repeat(np.arange(9), [3, 1, 4, 1, 5, 9, 2, 6, 5]) ** 1.5

    def between(cuts):
        parts = np.split(np.unique(values), cuts)
        return sum(np.isin(values, p).sum() * values[np.isin(values, p)].mean() ** 2 for p in parts)

    best = max(itertools.combinations(range(1, 9), 5), key=between)
    level = np.searchsorted(otsu_thresholds(values, 6), np.unique(values), side="right")
    assert np.flatnonzero(np.diff(level)).tolist() == [cut - 1 for cut in best]


def test_more_levels_than_intensities_are_refused():
    with pytest.raises(DataError, match="2 distinguishable intensities"):
        otsu_thresholds([0, 0, 1], 3)


def test_levels_may_share_a_class():
    to_class = class_of_intensity("x", [0, 0, 10, 10, 100, 100], 3, [2, 0, 2])
    assert to_class(np.array([-5, 0, 10, 60, 100, 500])).tolist() == [2, 2, 0, 2, 2, 2]
