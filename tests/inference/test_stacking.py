import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.special import softmax

from segkit.inference.stacking import Samples
from segkit.inference.stacking import choose_voxels
from segkit.inference.stacking import cross_entropy
from segkit.inference.stacking import cross_fitted
from segkit.inference.stacking import fit_stacking
from segkit.inference.stacking import log_probabilities


def planted(seed, count=4000):
    """Labels of three classes, a base model that knows them well and one that guesses."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    good = 2 * np.eye(3)[labels] + rng.normal(size=(count, 3))
    bad = rng.normal(size=(count, 3))
    features = np.stack([log_probabilities(bad), log_probabilities(good)], axis=1)
    return Samples(features, labels, np.ones(count))


def test_the_weights_find_the_good_member_and_beat_the_mean():
    samples = planted(0)
    kernel, bias = fit_stacking(samples)
    assert (kernel.shape, bias.shape) == ((6, 3), (3,))
    # A class's own log probability against the other classes' is what decides.
    bad, good = (np.trace(part) - part.sum() / 3 for part in (kernel[:3], kernel[3:]))
    assert abs(bad) < 0.1 * good
    # The planted logits are 2 one_hot + noise of unit variance: log odds are 2 times a logit.
    assert good / 2 == pytest.approx(2, abs=0.3)
    scores = cross_fitted([planted(1), planted(2), planted(3)], ["bad", "good"])
    names = ["base0 bad", "base1 good", "mean", "stack"]
    assert list(scores) == names
    assert scores["stack"] < min(scores[name] for name in names[:3])


def test_the_fit_is_a_minimum_and_the_plain_mean_where_nothing_is_known():
    samples = planted(4, 500)
    kernel, bias = fit_stacking(samples)
    start = np.tile(np.eye(3) / 2, (2, 1))

    def objective(kernel):
        return cross_entropy(samples, kernel, bias) + 1e-3 * ((kernel - start) ** 2).sum()

    rng = np.random.default_rng(0)
    for _ in range(20):
        assert objective(kernel) < objective(kernel + 0.03 * rng.normal(size=kernel.shape))
    # Certain and right predictions leave no slope, so the fit stays where it starts.
    labels = np.arange(6) % 3
    sure = log_probabilities(np.tile(100 * np.eye(3)[labels][:, None], (1, 2, 1)))
    kernel, _ = fit_stacking(Samples(sure, labels, np.ones(6)))
    np.testing.assert_allclose(kernel, start, atol=1e-3)


def test_balanced_voxels_with_their_weights_give_unbiased_probabilities():
    # One voxel in 50 is foreground. The base model's logits are right up to an offset.
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 50, 60))
    p = 1 / (1 + np.exp(-(1.5 * x - 5)))
    label = (rng.uniform(size=x.shape) < p).astype(np.uint8)
    where, weights = choose_voxels(label, 3, 9, count=1500)
    assert (np.bincount(label.reshape(-1)[where]) == 1500).all()
    assert weights.sum() == pytest.approx(label.size)
    logits = np.stack([np.zeros(x.size), 1.5 * x.reshape(-1)], axis=-1)
    features = log_softmax(logits, axis=-1)[:, None]
    samples = Samples(features[where], label.reshape(-1)[where].astype(int), weights)

    kernel, bias = fit_stacking(samples)
    mean = weights @ softmax(samples.features[:, 0] @ kernel + bias, axis=-1) / weights.sum()
    assert mean[1] == pytest.approx(label.mean(), rel=1e-3)

    def mean_probability(samples):
        kernel, bias = fit_stacking(samples)
        return softmax(features[:, 0] @ kernel + bias, axis=-1)[:, 1].mean()

    assert mean_probability(samples) == pytest.approx(p.mean(), rel=0.1)
    assert mean_probability(samples._replace(weights=np.ones(len(where)))) > 5 * p.mean()


def test_the_choice_of_voxels_takes_each_once_and_depends_on_the_seed():
    label = np.array([[0] * 30, [1] * 3 + [2] * 27])
    where, weights = choose_voxels(label, 0, 9, count=10)
    assert len(set(where)) == len(where) == 23
    assert sorted(set(weights)) == [1.0, 2.7, 3.0]
    assert (where == choose_voxels(label, 0, 9, count=10)[0]).all()
    assert (where != choose_voxels(label, 1, 9, count=10)[0]).any()


def test_voxels_to_be_ignored_are_not_drawn():
    label = np.array([0, 1, 2, 2, 1, 0, 2])
    where, _ = choose_voxels(label, 0, 2)
    assert sorted(where) == [0, 1, 4, 5]
