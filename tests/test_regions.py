import numpy as np
import pytest

from segkit.regions import class_map
from segkit.regions import encode_regions

TUMOUR = [[1, 2, 3], [2, 3], [3]]  # whole, core, enhancing


def test_a_voxel_is_in_every_region_that_lists_its_class():
    labels = np.array([[0, 1, 2, 3]], "uint8")
    expected = [[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]]
    np.testing.assert_array_equal(encode_regions(labels, TUMOUR), expected)
    assert encode_regions(labels, TUMOUR).dtype == "float32"


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        pytest.param([-1, -1, -1], 0, id="in no region"),
        pytest.param([9, -1, -1], 1, id="whole tumour only"),
        pytest.param([9, 1, -1], 2, id="the core paints over, less sure as it is"),
        pytest.param([1, 1, 1], 3, id="in all"),
        pytest.param([-5, -5, 1], 3, id="a core that is in no whole still paints"),
        pytest.param([0, 0, 0], 0, id="a sigmoid of 1/2 is not in"),
    ],
)
def test_later_regions_paint_over_earlier_ones(logits, expected):
    painted = class_map(np.float32([logits]), (1, 2, 3))
    np.testing.assert_array_equal(painted, [expected])
    assert painted.dtype == "int32"


def test_the_order_says_which_class_a_region_paints():
    logits = np.float32([[1, -1], [-1, 1], [1, 1]])
    np.testing.assert_array_equal(class_map(logits, (4, 2)), [4, 2, 2])


def test_painting_undoes_encoding():
    labels = np.random.default_rng(0).integers(0, 4, (2, 5, 6))
    logits = 2 * encode_regions(labels, TUMOUR) - 1
    np.testing.assert_array_equal(class_map(logits, (1, 2, 3)), labels)


def test_without_regions_the_largest_logit_decides():
    logits = np.float32([[-3, -1, -2], [1, 0, 1]])
    np.testing.assert_array_equal(class_map(logits), [1, 0])
