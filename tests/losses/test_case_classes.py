"""The loss of voxels with a class of the whole case beside it."""

import numpy as np

from segkit.losses import build_loss
from segkit.losses.case_classes import WithCaseClasses
from segkit.losses.case_classes import case_cross_entropy

LOGITS = np.array([[0.0, np.log(3)], [np.log(4), 0.0], [5.0, -5.0]], np.float32)


def test_a_case_costs_the_log_of_its_probability_and_an_unknown_one_nothing():
    # Softmax: (1/4, 3/4), (4/5, 1/5).
    found = case_cross_entropy(np.array([1, 1, -1]), LOGITS)
    np.testing.assert_allclose(found, [np.log(4 / 3), np.log(5), 0], atol=1e-6)


def test_the_term_of_the_case_is_added_with_its_weight():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, (3, 4, 4)), rng.normal(size=(3, 4, 4, 2)).astype("float32")
    plain, targets = build_loss("ce_dice"), np.array([1, 0, -1])
    outputs = {"logits": logits, "case_logits": LOGITS}
    terms = WithCaseClasses(plain, 0.5).parts({"label": labels, "target": targets}, outputs)
    assert list(terms) == [*plain.parts(labels, logits), "case"]
    np.testing.assert_allclose(terms["case"], 0.5 * case_cross_entropy(targets, LOGITS))
    total = WithCaseClasses(plain, 0.5)({"label": labels, "target": targets}, outputs)
    np.testing.assert_allclose(total, plain(labels, logits) + terms["case"], rtol=1e-6)


def test_deep_supervision_of_the_voxels_goes_on_beside_it():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (3, 4, 4))
    deep = {
        "logits": rng.normal(size=(3, 4, 4, 2)).astype("float32"),
        "logits_1": rng.normal(size=(3, 2, 2, 2)).astype("float32"),
    }
    plain = build_loss("ce_dice")
    both = {"label": labels, "target": np.array([1, 0, 0])}
    terms = WithCaseClasses(plain, 1.0).parts(both, {**deep, "case_logits": LOGITS})
    expected = plain.parts(labels, deep)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value)
