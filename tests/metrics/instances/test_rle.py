import sys

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.metrics.instances.rle import encode
from segkit.metrics.instances.rle import run_lengths

mask_api = pytest.importorskip("pycocotools.mask")


def test_runs_are_counted_column_by_column():
    # Columns of (4, 3): 0000, 0110, 0100: 5 zeros, 2 ones, 2 zeros, 1 one, 2 zeros.
    assert run_lengths(np.array([[1, 1], [1, 0]], bool), (1, 1), (4, 3)) == [5, 2, 2, 1, 2]


def test_runs_go_on_from_one_column_to_the_next():
    assert run_lengths(np.ones((2, 2), bool), (0, 1), (2, 4)) == [2, 4, 2]
    assert run_lengths(np.ones((2, 3), bool), (0, 0), (2, 3)) == [0, 6, 0]
    assert run_lengths(np.zeros((1, 1), bool), (0, 0), (2, 3)) == [6]


@pytest.mark.parametrize("seed", range(20))
def test_the_encoding_is_that_of_the_whole_mask(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(5, 12, 2).tolist())
    y, x = rng.integers(0, 4, 2)
    h, w = shape[0] - y - rng.integers(0, 2), shape[1] - x - rng.integers(0, 2)
    crop = rng.random((h, w)) < rng.choice([0.1, 0.5, 0.9, 1])
    whole = np.zeros(shape, np.uint8, order="F")
    whole[y : y + h, x : x + w] = crop
    found = encode(crop, (y, x), shape)
    np.testing.assert_array_equal(mask_api.decode(found), whole)
    assert mask_api.area(found) == whole.sum()
    assert mask_api.iou([found], [mask_api.encode(whole)], [0]) == (1 if whole.any() else 0)


def test_without_pycocotools_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.delitem(sys.modules, "pycocotools.mask", raising=False)
    with pytest.raises(ConfigError, match=r'pip install "segkit\[maskrcnn\]"'):
        encode(np.ones((1, 1), bool), (0, 0), (2, 2))
