import numpy as np
import pytest

from segkit.losses.lovasz import jaccard_steps
from segkit.losses.lovasz import lovasz


def _softmax(logits):
    probs = np.exp(logits.astype("float64"))
    return probs / probs.sum(-1, keepdims=True)


def _jaccard_loss(wrong, truth):
    """`1 - IoU` of the prediction that is wrong exactly at the voxels `wrong`."""
    guess = truth ^ wrong
    return 1 - (guess & truth).sum() / max((guess | truth).sum(), 1)


def _slow_lovasz(labels, probs):
    """The definition: each voxel, largest error first, joins the set of the wrong ones."""
    losses = []
    for c in np.unique(labels):
        truth = labels.ravel() == c
        errors = np.abs(truth - probs[..., c].ravel())
        wrong = np.zeros_like(truth)
        loss = before = 0
        for v in np.argsort(-errors):
            wrong[v] = True
            after = _jaccard_loss(wrong, truth)
            loss += errors[v] * (after - before)
            before = after
        losses.append(loss)
    return np.mean(losses)


def test_lovasz_equals_its_definition(draw):
    labels, logits = draw((3, 5, 4))
    labels[0, labels[0] == 1] = 0  # class 1 is absent from the first example
    expected = [_slow_lovasz(labels[b], _softmax(logits[b])) for b in range(3)]
    np.testing.assert_allclose(lovasz(labels, logits), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "guess", "expected"),
    [
        # IoU of class 0 is 1/2, of class 1 2/3: (1/2 + 1/3) / 2.
        pytest.param([0, 0, 1, 1], [0, 1, 1, 1], 5 / 12, id="one voxel off"),
        # Class 1 is absent: only class 0 counts, IoU 3/4.
        pytest.param([0, 0, 0, 0], [0, 0, 0, 1], 1 / 4, id="absent, predicted"),
        pytest.param([0, 0, 1, 1], [1, 1, 0, 0], 1.0, id="disjoint"),
    ],
)
def test_a_sure_prediction_costs_1_minus_its_intersection_over_union(
    labels, guess, expected, logits_of
):
    np.testing.assert_allclose(
        lovasz(np.array([labels]), logits_of([guess])), [expected], rtol=1e-6
    )


def test_steps_keep_their_digits_among_a_million_voxels():
    truth = np.random.default_rng(0).random(1 << 20) < 0.1
    wrong = np.cumsum(truth), np.cumsum(~truth)
    losses = 1 - (truth.sum() - wrong[0]) / (truth.sum() + wrong[1])
    expected = np.diff(losses, prepend=0.0)
    steps = jaccard_steps(truth.astype("float32")[None, None])[0, 0]
    np.testing.assert_allclose(steps, expected, rtol=1e-5, atol=1e-15)
