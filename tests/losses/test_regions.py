import math

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses import build_loss

TUMOUR = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def test_region_ce_dice_matches_hand_computed_value():
    # Regions {1, 2} and {2}; labels 1, 2; probabilities 3/4, 3/4 and 1/4, 3/4.
    # Cross-entropy: all four -ln 3/4. Dice: 1 - 2 * 1.5 / (2 + 1.5) = 1/7,
    # 1 - 2 * .75 / (1 + 1) = 1/4; mean 11/56.
    x = math.log(3)
    logits = np.array([[[x, -x], [x, x]]], "float32")
    loss = build_loss("region_ce_dice", regions={"all": [1, 2], "core": [2]})
    parts = loss.parts(np.array([[1, 2]]), logits)
    np.testing.assert_allclose(parts["cross_entropy"], [0.5 * math.log(4 / 3)], rtol=1e-6)
    np.testing.assert_allclose(parts["dice"], [0.5 * 11 / 56], rtol=1e-4)


def test_region_ce_dice_equals_a_slow_loop(draw):
    labels, _ = draw((2, 4, 5), classes=4)
    logits = draw((2, 4, 5), classes=3, seed=1)[1]
    got = build_loss("region_ce_dice", regions=TUMOUR, alpha=0.3, smooth=0.5)(labels, logits)
    for b in range(2):
        nats, overlaps = [], []
        for r, region in enumerate(TUMOUR.values()):
            t = np.isin(labels[b], region)
            p = 1 / (1 + np.exp(-logits[b, ..., r].astype("float64")))
            nats.append(-np.log(np.where(t, p, 1 - p)).mean())
            overlaps.append(1 - (2 * p[t].sum() + 0.5) / (t.sum() + p.sum() + 0.5))
        expected = 0.3 * np.mean(nats) + 0.7 * np.mean(overlaps)
        np.testing.assert_allclose(got[b], expected, rtol=1e-5)


def test_logits_need_one_channel_per_region(draw):
    with pytest.raises(ShapeError, match="each of its 2 regions, got 3. Build the network with 2"):
        build_loss("region_ce_dice", regions={"a": [1], "b": [2]})(*draw())


def test_regions_are_checked_before_anything_is_built():
    with pytest.raises(ConfigError, match="needs the option 'regions'"):
        build_loss("region_ce_dice")
    with pytest.raises(ConfigError, match=r"loss.regions must be dict\[str, list\[int\]\]"):
        build_loss("region_ce_dice", regions=[[1, 2]])


def test_the_painting_order_is_checked_and_changes_no_loss(draw):
    labels, logits = draw((2, 4, 5), classes=3)
    plain = build_loss("region_ce_dice", regions=TUMOUR)(labels, logits)
    loss = build_loss("region_ce_dice", regions=TUMOUR, class_order=[2, 3, 3])
    np.testing.assert_array_equal(loss(labels, logits), plain)
    loss = build_loss("region_ce_dice", regions=TUMOUR, class_order=[1, 1, 3])
    with pytest.raises(ConfigError, match="class_order must name one class of each"):
        loss(labels, logits)
