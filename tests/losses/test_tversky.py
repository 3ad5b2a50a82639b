import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.losses.dice import dice
from segkit.losses.tversky import focal_tversky
from segkit.losses.tversky import tversky


@pytest.mark.parametrize(
    ("labels", "probs", "expected"),
    [
        # TP 1, FP 1: 1 - 1 / (1 + .3).
        pytest.param([0, 0, 0, 1], [0, 0, 1, 1], 0.3 / 1.3, id="false positive"),
        # TP 1, FN 1: 1 - 1 / (1 + .7).
        pytest.param([0, 0, 1, 1], [0, 0, 0, 1], 0.7 / 1.7, id="false negative"),
        # TP 1, FP 2 * 1/2, FN 2 * 1/2: 1 - 1 / (1 + .3 + .7) = 1/2.
        pytest.param([0, 0, 1, 1], [0.5] * 4, 0.5, id="undecided"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 1], 1.0, id="absent, predicted"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 0.0, id="absent, not predicted"),
    ],
)
def test_alpha_weighs_false_positives_and_beta_false_negatives(labels, probs, expected, logits_of):
    labels, logits = np.array([labels]), logits_of([probs])
    np.testing.assert_allclose(tversky(labels, logits, alpha=0.3, beta=0.7), [expected], atol=5e-5)
    focal = focal_tversky(labels, logits, alpha=0.3, beta=0.7, gamma=2.0)
    np.testing.assert_allclose(focal, [expected**0.5], atol=5e-5)


def test_equal_weights_of_a_half_are_dice(draw):
    labels, logits = draw()
    half = tversky(labels, logits, alpha=0.5, beta=0.5, smooth=0.5, include_background=True)
    expected = dice(labels, logits, smooth=1.0, include_background=True)
    np.testing.assert_allclose(half, expected, rtol=1e-6)


def test_focal_tversky_with_gamma_1_is_tversky(draw):
    labels, logits = draw()
    np.testing.assert_allclose(
        focal_tversky(labels, logits, gamma=1.0), tversky(labels, logits), rtol=1e-6
    )


def test_focal_tversky_takes_the_root_of_each_class_before_the_mean(draw):
    labels, logits = draw()
    single = [
        tversky(labels, logits, class_weights=[0.0, *weights]) for weights in ([1, 0], [0, 1])
    ]
    expected = (single[0] ** 0.75 + single[1] ** 0.75) / 2
    np.testing.assert_allclose(focal_tversky(labels, logits), expected, rtol=1e-6)


def test_impossible_weights_are_refused(draw):
    labels, logits = draw()
    with pytest.raises(ConfigError, match="must be 0 or more, got -1.0 and 0.7"):
        tversky(labels, logits, alpha=-1.0)
    with pytest.raises(ConfigError, match="gamma of 1 or more, got 0.75"):
        focal_tversky(labels, logits, gamma=0.75)
