"""Counts of regions, and of what is left when voxels are ignored."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.metrics.counts import class_counts
from segkit.metrics.counts import counter
from segkit.metrics.counts import region_counts
from segkit.metrics.ratios import dice_from_counts
from segkit.outputs import Outputs

REGIONS = [[1, 2], [2]]
#        labels  0 0 1 1 2 2      in region 0:  0 0 1 1 1 1      in region 1:  0 0 0 0 1 1
#        logits of region 0:      predicted     0 1 1 0 1 0
#        logits of region 1:      predicted     0 0 1 0 1 0
LABELS = np.array([[0, 0, 1, 1, 2, 2]])
LOGITS = np.float32([[[-1, -1], [3, -9], [1, 1], [-1, -1], [1, 1], [0, 0]]])
# In none: truth 1 1 0 0 0 0, predicted 1 0 0 1 0 1.
COUNTS = [[1, 2, 1], [2, 1, 2], [1, 1, 1]]


def test_region_counts_match_hand_counted_values():
    counts = region_counts(LABELS, LOGITS, REGIONS)
    assert counts.dtype == tf.float32
    np.testing.assert_array_equal(counts, COUNTS)
    # 2 * 2 / (4 + 1 + 2) and 2 / (2 + 1 + 1).
    np.testing.assert_allclose(dice_from_counts(counts.numpy())[1:], [4 / 7, 1 / 2], rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_region_counts_are_the_same_in_a_graph(compiled):
    function = tf.function(lambda t, x: region_counts(t, x, REGIONS), jit_compile=compiled)
    np.testing.assert_array_equal(function(tf.constant(LABELS), tf.constant(LOGITS)), COUNTS)


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(lambda t, x, **k: class_counts(t, x, 3, **k), id="classes"),
        pytest.param(lambda t, x, **k: region_counts(t, x, [[1, 2], [2], [1]], **k), id="regions"),
    ],
)
def test_ignored_voxels_change_no_count(count):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, (2, 40)), rng.normal(size=(2, 40, 3)).astype("float32")
    expected = count(labels, logits)
    marked = np.concatenate([labels, np.full((2, 7), 3)], axis=1)
    more = np.concatenate([logits, rng.normal(size=(2, 7, 3)).astype("float32")], axis=1)
    np.testing.assert_array_equal(count(marked, more, ignore_label=3), expected)
    assert not np.array_equal(count(marked, more), expected)


def test_a_counter_counts_what_the_network_tells_apart():
    classes = [{"name": name} for name in "abc"]
    regions = {"all": (1, 2), "core": (2,)}
    of_regions = counter(Outputs(classes, regions=regions, class_order=(1, 2)))
    np.testing.assert_array_equal(of_regions(LABELS, LOGITS), COUNTS)
    logits = keras.ops.one_hot(LABELS, 3)
    of_classes = counter(Outputs(classes[:2], ignore_label=2))(LABELS, logits[..., :2])
    np.testing.assert_array_equal(of_classes, [[2, 0, 0], [2, 0, 0]])
