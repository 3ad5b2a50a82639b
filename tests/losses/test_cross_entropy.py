import math

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.losses.cross_entropy import cross_entropy
from segkit.losses.topk_cross_entropy import topk_cross_entropy

LN = math.log


def test_cross_entropy_matches_hand_computed_value(logits_of):
    # -(ln .5 + ln .25) / 2 = (ln 2 + ln 4) / 2 = 1.5 ln 2.
    loss = cross_entropy(np.array([[1, 0]]), logits_of([[0.5, 0.75]]))
    np.testing.assert_allclose(loss, [1.5 * LN(2)], rtol=1e-6)


def test_soft_cross_entropy_matches_hand_computed_value(logits_of):
    # Voxel 1: -(.25 ln .5 + .75 ln .5) = ln 2; voxel 2: -(.5 ln .25 + .5 ln .75) = ln 4 - ln 3 / 2.
    soft = np.array([[[0.25, 0.75], [0.5, 0.5]]], "float32")
    loss = cross_entropy(soft, logits_of([[0.5, 0.75]]))
    np.testing.assert_allclose(loss, [(LN(2) + LN(4) - LN(3) / 2) / 2], rtol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_class_weights_multiply_each_voxel_and_the_mean_stays_over_voxels(soft, logits_of):
    # Weights 2 (class 1) and 1/2 (class 0): (2 ln 2 + 1/2 ln 4) / 2 = 1.5 ln 2.
    labels = np.array([[1, 0]])
    y_true = np.eye(2, dtype="float32")[labels] if soft else labels
    loss = cross_entropy(y_true, logits_of([[0.5, 0.75]]), class_weights=[0.5, 2.0])
    np.testing.assert_allclose(loss, [1.5 * LN(2)], rtol=1e-6)
    # An example of background alone is worth the weight of the background.
    only = cross_entropy(np.array([[0]]), logits_of([[0.5]]), class_weights=[0.5, 2.0])
    np.testing.assert_allclose(only, [0.5 * LN(2)], rtol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_label_smoothing_spreads_a_share_of_the_label_over_all_classes(soft, logits_of):
    # Label 1 becomes (.1, .9): -(.9 ln .75 + .1 ln .25); weights 3 and 1 make .3 of the .1.
    y_true = np.array([[[0, 1.0]]], "float32") if soft else np.array([[1]])
    logits = logits_of([[0.75]])
    loss = cross_entropy(y_true, logits, label_smoothing=0.2)
    np.testing.assert_allclose(loss, [-0.9 * LN(0.75) - 0.1 * LN(0.25)], rtol=1e-6)
    weighted = cross_entropy(y_true, logits, label_smoothing=0.2, class_weights=[3.0, 1.0])
    np.testing.assert_allclose(weighted, [-0.9 * LN(0.75) - 0.3 * LN(0.25)], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_outside_its_range_is_refused(smoothing, draw):
    with pytest.raises(ConfigError, match="label_smoothing must be at least 0 and below 1"):
        cross_entropy(*draw(), label_smoothing=smoothing)


def test_cross_entropy_is_linear_in_soft_labels(draw):
    labels, logits = draw((2, 4, 5))
    others, _ = draw((2, 4, 5), seed=1)
    first, second = (np.eye(3, dtype="float32")[x] for x in (labels, others))
    mixed = cross_entropy(0.3 * first + 0.7 * second, logits)
    expected = 0.3 * cross_entropy(labels, logits) + 0.7 * cross_entropy(others, logits)
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


def test_a_voxel_without_any_class_pulls_the_cross_entropy_nowhere(draw, gradient_of):
    nothing = np.zeros((2, 4, 5, 3), "float32")
    assert not gradient_of(cross_entropy, nothing, draw((2, 4, 5))[1]).any()


@pytest.mark.parametrize(("percent", "hardest"), [(10.0, 2), (33.0, 6), (1.0, 1), (100.0, 20)])
def test_topk_is_the_mean_over_the_hardest_voxels_of_each_example(percent, hardest, draw):
    # floor(20 * 33 / 100) = 6; 1 % of 20 voxels is less than one, so the one hardest.
    labels, logits = draw((2, 4, 5))
    nats = np.log(np.exp(logits.astype("float64")).sum(-1))
    nats -= np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    expected = np.sort(nats.reshape(2, 20), axis=1)[:, -hardest:].mean(1)
    np.testing.assert_allclose(
        topk_cross_entropy(labels, logits, percent=percent), expected, rtol=1e-5
    )


def test_topk_pulls_only_at_the_hardest_voxels(draw, gradient_of):
    labels, logits = draw((2, 4, 5))
    gradient = gradient_of(topk_cross_entropy, labels, logits)
    assert (gradient.any(-1).sum(axis=(1, 2)) == 2).all()


def test_topk_counts_its_percentage_of_the_voxels_that_are_not_ignored(logits_of):
    # Of four voxels that count, 50 % are two: the mean of -ln .2 and -ln .4.
    labels = np.array([[1, 1, 1, 1, 9, 9]])
    logits = logits_of([[0.2, 0.4, 0.6, 0.8, 0.01, 0.01]])
    loss = topk_cross_entropy(labels, logits, percent=50.0, ignore_label=9)
    np.testing.assert_allclose(loss, [-(LN(0.2) + LN(0.4)) / 2], rtol=1e-5)


@pytest.mark.parametrize("percent", [0.0, 101.0])
def test_a_percentage_outside_its_range_is_refused(percent, draw):
    with pytest.raises(ConfigError, match="percent above 0 up to 100"):
        topk_cross_entropy(*draw(), percent=percent)
