import math

import numpy as np
import pytest
import tensorflow as tf
from skimage.metrics import peak_signal_noise_ratio

from segkit.errors import ConfigError
from segkit.metrics.generation.frechet_distance import frechet_of_moments
from segkit.metrics.random_features import random_features
from segkit.training.adversarial.objective import Fidelity
from segkit.training.adversarial.objective import Realism
from segkit.training.adversarial.objective import build_objective
from segkit.training.adversarial.tasks import Patches
from segkit.training.adversarial.tasks import Task


def images(count, seed=0, scale=1.0, shift=0.0):
    values = np.random.default_rng(seed).normal(shift, scale, (count, 8, 8, 1))
    return tf.constant(values, tf.float32)


def test_realism_comes_from_sums_over_any_batches():
    objective, sample = Realism(False), {"real": images(12, 0), "fake": images(12, 1, 1.3, 0.2)}
    whole = objective.count(None, sample).numpy()
    parts = [{k: v[n : n + 4] for k, v in sample.items()} for n in (0, 4, 8)]
    summed = sum(objective.count(None, part).numpy().astype(np.float64) for part in parts)
    assert objective.score(whole) == pytest.approx(objective.score(summed), rel=1e-3)
    features = [random_features(sample[name]).numpy().astype(np.float64) for name in sample]
    gaussians = [(x.mean(0), np.cov(x.T)) for x in features]
    distance = frechet_of_moments(*gaussians[0], *gaussians[1])
    assert objective.score(summed) == pytest.approx(-distance, rel=1e-3)
    spread = np.trace(gaussians[1][1]) / np.trace(gaussians[0][1])
    assert objective.by_name(summed)["spread"] == pytest.approx(spread, rel=1e-3)


def test_better_images_score_higher_and_one_image_again_and_again_has_no_spread():
    objective, real = Realism(False), images(64)

    def counts(fake):
        return objective.count(None, {"real": real, "fake": fake}).numpy()

    alike, louder = counts(images(64, 1)), counts(images(64, 1, scale=2.0))
    assert objective.score(louder) < objective.score(alike) < 0
    once = counts(tf.repeat(images(1), 64, axis=0))
    assert objective.by_name(once)["spread"] < 0.01
    assert objective.score(once) < objective.score(alike)  # rounded covariances are no error
    assert objective.by_name(alike)["spread"] == pytest.approx(1, abs=0.3)


def test_nothing_counted_has_no_score_and_a_diverged_generator_the_worst():
    for objective in (Realism(False), Fidelity(False)):
        assert math.isnan(objective.score(np.float64(0.0)))
        assert objective.by_name(np.float64(0.0)) == {}
    broken = {"real": images(4), "fake": images(4) * np.nan}
    assert Realism(False).score(Realism(False).count(None, broken)) == -math.inf


def test_psnr_is_the_mean_over_examples_of_scikit_image():
    real, made = images(3).numpy(), images(3, 1).numpy()
    real[2] = 0.5  # constant: no range
    counts = Fidelity(False).count(None, {"real": tf.constant(real), "fake": tf.constant(made)})
    pairs = [(a, b) for a, b in zip(real[:2], made[:2], strict=True)]
    expected = np.mean([peak_signal_noise_ratio(a, b, data_range=np.ptp(a)) for a, b in pairs])
    assert Fidelity(False).score(counts) == pytest.approx(expected, rel=1e-5)
    assert counts[1] == 2
    perfect = Fidelity(False).count(None, {"real": images(2), "fake": images(2)})
    assert Fidelity(False).score(perfect) == pytest.approx(100)
    assert Fidelity(False).score(np.zeros(2)) == 0


def test_pictures_show_the_condition_beside_real_and_made():
    real = images(2)
    sample = {"real": real, "fake": real + 0.0, "condition": tf.zeros((2, 8, 8, 1))}
    first, second = Realism(True).panels(None, None, sample)
    assert first.shape == second.shape == (8, 24, 3)
    np.testing.assert_array_equal(first[:, 8:16], first[:, 16:])
    assert (first[:, :8] == 0).all()
    del sample["condition"]
    turned = Realism(False).panels(None, None, sample)[0]
    np.testing.assert_array_equal(turned[::-1], first[:, 8:])


def test_the_objective_is_that_of_the_task():
    task = Task(Patches((8, 8, 1)))
    assert isinstance(build_objective(task), Realism)
    task.metric = "psnr"
    assert isinstance(build_objective(task), Fidelity)
    task.metric = "psrn"
    with pytest.raises(ConfigError, match="Did you mean 'psnr'"):
        build_objective(task)
