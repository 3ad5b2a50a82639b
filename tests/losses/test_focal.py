import math
from pathlib import Path

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.losses.cross_entropy import cross_entropy
from segkit.losses.focal import focal


def test_focal_matches_hand_computed_value(logits_of):
    # p = 1/2 and 3/4: (1/4 ln 2 + 1/16 ln 4/3) / 2.
    loss = focal(np.array([[1, 1]]), logits_of([[0.5, 0.75]]))
    np.testing.assert_allclose(loss, [(math.log(2) / 4 + math.log(4 / 3) / 16) / 2], rtol=1e-6)


def test_focal_without_focus_is_cross_entropy(draw):
    labels, logits = draw()
    weights = [0.5, 1.0, 2.0]
    np.testing.assert_allclose(
        focal(labels, logits, gamma=0.0, class_weights=weights),
        cross_entropy(labels, logits, class_weights=weights),
        rtol=1e-6,
    )


def test_two_classes_are_the_sigmoid_form_of_tensorflow_addons():
    # TensorFlow Addons 0.23, SigmoidFocalCrossEntropy(alpha=0.25, gamma=2), voxel by voxel.
    values = np.load(Path(__file__).with_name("addons_focal.npz"))
    probs = values["y_pred"].reshape(-1, 1).astype("float64")
    logits = np.stack([np.zeros_like(probs), np.log(probs / (1 - probs))], -1)
    loss = focal(values["y_true"].reshape(-1, 1), logits, gamma=2.0, class_weights=[0.75, 0.25])
    np.testing.assert_allclose(loss, values["focal_alpha25_gamma2"].ravel(), rtol=1e-4, atol=1e-6)


def test_focal_is_linear_in_soft_labels(draw):
    labels, logits = draw((2, 4, 5))
    others, _ = draw((2, 4, 5), seed=1)
    first, second = (np.eye(3, dtype="float32")[x] for x in (labels, others))
    mixed = focal(0.3 * first + 0.7 * second, logits)
    expected = 0.3 * focal(labels, logits) + 0.7 * focal(others, logits)
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_gradient_is_finite_at_a_certain_prediction(gamma, gradient_of):
    logits = np.array([[[-200.0, 200.0], [-8.0, 8.0], [200.0, -200.0]]], "float32")
    labels = np.array([[1, 1, 1]])
    gradient = gradient_of(lambda t, x: focal(t, x, gamma=gamma), labels, logits)
    assert np.isfinite(gradient).all()
    assert gradient[0, 2].any()


def test_a_negative_gamma_is_refused(draw):
    with pytest.raises(ConfigError, match="gamma of 0 or more, got -1"):
        focal(*draw(), gamma=-1.0)
