import keras
import numpy as np
import pytest

from segkit.layers.mean_probabilities import MeanProbabilities


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_the_softmax_of_the_result_is_the_mean_of_the_probabilities():
    # Probabilities (0.9, 0.1) and (0.2, 0.8): mean (0.55, 0.45).
    one, two = (np.log([[p]]).astype(np.float32) for p in ((0.9, 0.1), (0.2, 0.8)))
    mean = softmax(np.asarray(MeanProbabilities([1, 1])([one, two])))
    np.testing.assert_allclose(mean, [[[0.55, 0.45]]], rtol=1e-6)
    # With weights 3 : 1, (3 * 0.9 + 0.2) / 4 = 0.725.
    mean = softmax(np.asarray(MeanProbabilities([6, 2])([one, two])))
    np.testing.assert_allclose(mean, [[[0.725, 0.275]]], rtol=1e-6)


def test_any_logits_give_finite_float32_logits_and_nearly_their_mean():
    rng = np.random.default_rng(0)
    logits = [rng.normal(scale=scale, size=(2, 3, 4, 5)) for scale in (1, 300, 20)]
    logits = [part.astype(np.float16) for part in logits]
    found = MeanProbabilities([1, 2, 3])(logits)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    found = np.asarray(found)
    assert np.isfinite(found).all()
    expected = sum(w * softmax(x.astype(float)) for w, x in zip((1, 2, 3), logits, strict=True)) / 6
    np.testing.assert_allclose(softmax(found), expected, atol=1e-6)


def test_it_is_saved_with_its_weights(tmp_path):
    inputs = [keras.Input((2, 2, 3)) for _ in range(2)]
    model = keras.Model(inputs, MeanProbabilities([1, 4])(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = [np.random.default_rng(n).normal(size=(1, 2, 2, 3)).astype(np.float32) for n in (0, 1)]
    np.testing.assert_array_equal(np.asarray(model(x)), np.asarray(again(x)))
    with pytest.raises(ValueError, match="zip"):
        MeanProbabilities([1, 1, 1])(x)
