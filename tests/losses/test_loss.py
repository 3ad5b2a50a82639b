"""Losses of the user's own, by name."""

import sys

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses import build_loss

OWN = """
from keras import ops


def spread(labels, logits, *, power: float = 2.0):
    return ops.mean(ops.abs(logits) ** power, axis=(1, 2))


def two_terms(labels, logits):
    return {"first": logits[:, 0, 0], "second": logits[:, 1, 0]}


def scalar(labels, logits):
    return ops.mean(logits)


def number(labels, logits):
    return 1.0


def one_bad_term(labels, logits):
    return {"good": logits[:, 0, 0], "bad": logits[:, 0]}
"""
LOGITS = np.array([[[1, -3], [2, 0]], [[0, 0], [4, 2]]], np.float32)  # (batch, 2 voxels, classes)
LABELS = np.zeros((2, 2), np.int32)


@pytest.fixture(autouse=True)
def _own_module(tmp_path, monkeypatch):
    (tmp_path / "own_losses_for_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_losses_for_test", None)


def test_a_loss_of_ones_own_takes_its_options_and_has_its_short_name():
    # Example 0: (1 + 9 + 4 + 0) / 4; example 1: (0 + 0 + 16 + 4) / 4; to the power of 1: 6 / 4.
    loss = build_loss("own_losses_for_test:spread")
    np.testing.assert_allclose(loss(LABELS, LOGITS), [3.5, 5.0])
    assert list(loss.parts(LABELS, LOGITS)) == ["spread"]
    np.testing.assert_allclose(
        build_loss("own_losses_for_test:spread", power=1.0)(LABELS, LOGITS), [1.5, 1.5]
    )
    assert list(build_loss("own_losses_for_test:two_terms").parts(LABELS, LOGITS)) == [
        "first",
        "second",
    ]


def test_a_loss_of_ones_own_is_a_part_of_a_weighted_sum():
    parts = [{"own_losses_for_test:spread": {"weight": 2.0}}, {"cross_entropy": {}}]
    terms = build_loss("weighted_sum", parts=parts).parts(LABELS, LOGITS)
    assert list(terms) == ["spread", "cross_entropy"]
    np.testing.assert_allclose(terms["spread"], [7.0, 10.0])
    with pytest.raises(ConfigError, match="spread' has no option 'ignore_label'"):
        build_loss("weighted_sum", parts=parts, ignore_label=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scalar", r"loss 'scalar' must be one value per example, shape \(batch,\), got \(\)"),
        ("number", r"loss 'number' must be .* got \(\)"),
        ("one_bad_term", r"loss 'bad' must be .* got \(2, 2\)"),
    ],
)
def test_a_loss_that_is_not_one_value_per_example_is_refused(name, message):
    with pytest.raises(ShapeError, match=message):
        build_loss(f"own_losses_for_test:{name}")(LABELS, LOGITS)
