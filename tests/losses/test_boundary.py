import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import distance_transform_edt

from segkit.errors import ShapeError
from segkit.losses.boundary import boundary
from segkit.losses.distance import FAR
from segkit.losses.distance import squared_distance


def _softmax(logits):
    probs = np.exp(logits.astype("float64"))
    return probs / probs.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(40,), (37, 50), (20, 31, 16)])
@pytest.mark.parametrize("density", [0.001, 0.05, 0.9])
def test_distances_are_those_of_scipy_exactly(shape, density):
    sources = np.random.default_rng(0).random((2, *shape, 3)) < density
    sources[:, 0, ..., 0] = True  # at least one source in each picture
    sources[:, -1, ..., 1:] = True
    squared = squared_distance(sources).numpy()
    for b, c in np.ndindex(2, 3):
        expected = distance_transform_edt(~sources[b, ..., c]) ** 2
        np.testing.assert_array_equal(squared[b, ..., c], np.round(expected))


def test_distances_are_far_where_there_is_no_source():
    assert (squared_distance(np.zeros((1, 3, 4, 1), bool)) >= FAR).numpy().all()


def test_distances_are_exact_from_one_end_of_a_long_axis_to_the_other():
    sources = np.zeros((1, 4000, 1, 1), bool)
    sources[0, 0] = True
    np.testing.assert_array_equal(
        tf.function(squared_distance)(sources)[0, :, 0, 0], np.arange(4000.0) ** 2
    )


def test_boundary_matches_hand_computed_value(logits_of):
    # Foreground 2..4 of 6 voxels: phi = 2 1 | 0 -1 | 0 1, where the 0s are the outermost voxels
    # inside. Predicted 1..4: (1 + 0 - 1 + 0) / 6 = 0; perfect: -1/6; p = 1/2: (3/2) / 6.
    labels = np.array([[0, 0, 1, 1, 1, 0]] * 3)
    logits = logits_of([[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0.5] * 6])
    np.testing.assert_allclose(boundary(labels, logits), [0, -1 / 6, 1 / 4], atol=1e-6)


def test_boundary_equals_scipy_on_volumes(draw):
    labels, logits = draw((2, 7, 6, 5), classes=4)
    labels[1, labels[1] == 2] = 0  # absent: its map is 0
    expected = []
    for b in range(2):
        total = 0
        for c in (1, 2, 3):
            inside = labels[b] == c
            if inside.any():
                outer, inner = distance_transform_edt(~inside), distance_transform_edt(inside)
                phi = np.where(inside, 1 - inner, outer)
                total += (_softmax(logits[b])[..., c] * phi).mean()
        expected.append(total / 3)
    np.testing.assert_allclose(boundary(labels, logits), expected, rtol=1e-5)


def test_a_class_that_is_absent_or_everywhere_has_no_boundary(gradient_of):
    labels = np.stack([np.zeros((4, 5), int), np.ones((4, 5), int)])
    logits = np.random.default_rng(0).normal(size=(2, 4, 5, 2)).astype("float32")
    np.testing.assert_array_equal(boundary(labels, logits), [0, 0])
    assert not gradient_of(boundary, labels, logits).any()


def test_ignored_voxels_make_no_boundary(logits_of):
    # Voxel 2 is unknown: outside are 3 and 4, at 2 and 3 voxels from the nearest known inside,
    # voxel 1; inside 0 and 1, at 3 and 2 from outside: phi = -2 -1 . 2 3, over four voxels.
    labels, logits = np.array([[1, 1, 9, 0, 0]]), logits_of([[0.5, 1, 1, 0.25, 0.5]])
    loss = boundary(labels, logits, ignore_label=9)
    np.testing.assert_allclose(loss, [(-1 - 1 + 0.5 + 1.5) / 4], atol=1e-6)
    sure = boundary(labels, logits_of([[1, 1, 0, 0, 0]]), ignore_label=9)
    np.testing.assert_allclose(sure, [-3 / 4], atol=1e-6)


def test_boundary_needs_a_foreground_class():
    with pytest.raises(ShapeError, match="at least 2 classes, got 1"):
        boundary(np.zeros((1, 3), int), np.zeros((1, 3, 1)))
