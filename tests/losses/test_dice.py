import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses import build_loss
from segkit.losses.dice import dice
from segkit.losses.dice import squared_dice
from segkit.losses.generalised_dice import generalised_dice


@pytest.mark.parametrize(
    ("labels", "probs", "plain", "squared"),
    [
        pytest.param([0, 0, 1, 1], [0, 0, 1, 1], 0.0, 0.0, id="perfect"),
        pytest.param([0, 0, 1, 1], [1, 1, 0, 0], 1.0, 1.0, id="disjoint"),
        # 1 - 2*2 / (2+3) = 1/5; squares of 0 and 1 are themselves.
        pytest.param([0, 0, 1, 1], [0, 1, 1, 1], 0.2, 0.2, id="one voxel off"),
        # Overlap 1: 1 - 2 / (2 + 2) = 1/2; squared: 1 - 2 / (2 + 4 * 1/4) = 1/3.
        pytest.param([0, 0, 1, 1], [0.5] * 4, 0.5, 1 / 3, id="undecided"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 0.0, 0.0, id="absent, not predicted"),
        # P = 1: 1 - s / (1 + s), nearly 1.
        pytest.param([0, 0, 0, 0], [0, 0, 0, 1], 1.0, 1.0, id="absent, predicted"),
    ],
)
def test_dice_matches_hand_computed_value(labels, probs, plain, squared, logits_of):
    labels, logits = np.array([labels]), logits_of([probs])
    np.testing.assert_allclose(dice(labels, logits), [plain], atol=2e-5)
    np.testing.assert_allclose(squared_dice(labels, logits), [squared], atol=2e-5)


def test_an_absent_class_costs_what_the_smoothing_says(logits_of):
    # P = 1 voxel in all, smooth = 1: 1 - (0 + 1) / (0 + 1 + 1) = 1/2.
    logits = logits_of([[0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_allclose(dice(np.zeros((1, 4), int), logits, smooth=1.0), [0.5], rtol=1e-6)


def test_background_enters_the_mean_only_on_request(logits_of):
    # Class 0: 1 - 2*1/(2+1) = 1/3; class 1: 1 - 2*2/(2+3) = 1/5; mean 4/15.
    labels, logits = np.array([[0, 0, 1, 1]]), logits_of([[0, 1, 1, 1]])
    np.testing.assert_allclose(dice(labels, logits, include_background=True), [4 / 15], atol=1e-5)
    with pytest.raises(ShapeError, match="Set include_background to true"):
        dice(np.zeros((1, 3), int), np.zeros((1, 3, 1)))


def test_class_weights_are_those_of_the_mean(logits_of):
    # As above, 1/3 and 1/5 with weights 1 and 3: (1/3 + 3/5) / 4 = 7/30; without the background
    # its weight plays no part.
    labels, logits = np.array([[0, 0, 1, 1]]), logits_of([[0, 1, 1, 1]])
    for weights in ([1.0, 3.0], [0.1, 0.3]):
        both = dice(labels, logits, include_background=True, class_weights=weights)
        np.testing.assert_allclose(both, [7 / 30], atol=1e-5)
        np.testing.assert_allclose(dice(labels, logits, class_weights=weights), [0.2], atol=1e-5)
    with pytest.raises(ConfigError, match="not be 0 for all foreground"):
        dice(labels, logits, class_weights=[1.0, 0.0])


def test_soft_dice_matches_hand_computed_value(logits_of):
    # Class 1: t = 1/2, 1 and p = 1/2, 1/2; overlap 3/4.
    # Plain: 1 - (3/2) / (3/2 + 1) = 2/5; squared: 1 - (3/2) / (5/4 + 1/2) = 1/7.
    soft = np.array([[[0.5, 0.5], [0.0, 1.0]]], "float32")
    logits = logits_of([[0.5, 0.5]])
    np.testing.assert_allclose(dice(soft, logits), [2 / 5], atol=1e-5)
    np.testing.assert_allclose(squared_dice(soft, logits), [1 / 7], atol=1e-5)
    # Class 0: t = 1/2, 0; overlap 1/4; plain 1 - (1/2) / (3/2) = 2/3.
    both = dice(soft, logits, include_background=True)
    np.testing.assert_allclose(both, [(2 / 5 + 2 / 3) / 2], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "best"), [("cross_entropy", 0.6), ("squared_dice", 0.6), ("dice", 1)]
)
def test_what_prediction_suits_a_soft_label_best(name, best, logits_of):
    # One voxel that is foreground with probability 0.6; plain Dice wants it sure.
    probs = np.linspace(0, 1, 51)
    soft = np.tile(np.array([0.4, 0.6], "float32"), (51, 1, 1))
    losses = build_loss(name)(soft, logits_of(probs[:, None]))
    np.testing.assert_allclose(probs[np.argmin(losses)], best)
    if name == "squared_dice":
        np.testing.assert_allclose(np.min(losses), 0, atol=1e-5)


def test_a_group_shares_its_loss_and_no_other_group_does(logits_of):
    # Group 1: overlap 1 + 0, truth 1 + 1, predicted 1 + 0: 1 - 2/3 = 1/3. Group 2 is perfect.
    labels = np.array([[0, 1], [0, 1], [0, 1], [0, 0]])
    logits = logits_of([[0, 1], [0, 0], [0, 1], [0, 0]])
    np.testing.assert_allclose(dice(labels, logits, group_size=2), [1 / 3, 1 / 3, 0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "probs", "expected"),
    [
        # T = 3, 1: weights 1/9 and 1. Overlaps 2, 1, predicted 2, 2:
        # 1 - 2 (2/9 + 1) / (5/9 + 3) = 1 - 22/32.
        pytest.param([0, 0, 0, 1], [0, 0, 1, 1], 10 / 32, id="one voxel off"),
        # The absent class has weight 1 like the only other one: 1 - 2 * 3 / (4 + 3 + 0 + 1) = 1/4.
        pytest.param([0, 0, 0, 0], [0, 0, 0, 1], 1 / 4, id="absent, predicted"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 0.0, id="absent, not predicted"),
        pytest.param([0, 0, 1, 1], [1, 1, 0, 0], 1.0, id="disjoint"),
    ],
)
def test_generalised_dice_matches_hand_computed_value(labels, probs, expected, logits_of):
    loss = generalised_dice(np.array([labels]), logits_of([probs]))
    np.testing.assert_allclose(loss, [expected], atol=2e-5)


def test_generalised_dice_equals_a_slow_loop(draw):
    labels, logits = draw((3, 6, 7), classes=4)
    for b in range(3):
        scores = logits[b].astype("float64")
        probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        both = total = 0
        for c in range(4):
            t, p = labels[b] == c, probs[..., c]
            both += (t * p).sum() / t.sum() ** 2
            total += (t.sum() + p.sum()) / t.sum() ** 2
        loss = generalised_dice(labels, logits, smooth=0.0)
        np.testing.assert_allclose(loss[b], 1 - 2 * both / total, rtol=1e-5)


def test_generalised_dice_can_leave_out_the_background(logits_of):
    # One class is left, its weight cancels: plain Dice, 1 - 2 * 1 / (1 + 2) = 1/3.
    loss = generalised_dice(
        np.array([[0, 0, 0, 1]]), logits_of([[0, 0, 1, 1]]), include_background=False
    )
    np.testing.assert_allclose(loss, [1 / 3], atol=1e-5)
