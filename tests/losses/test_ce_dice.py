import math

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.losses import build_loss


@pytest.mark.parametrize("squared", [False, True])
def test_ce_dice_equals_a_slow_loop(squared, draw):
    labels, logits = draw()
    smooth = 0.5
    for b, (truth, scores) in enumerate(zip(labels, logits.astype("float64"), strict=True)):
        probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        terms, nats = [], []
        for c in (1, 2):
            t = truth == c
            p = probs[..., c]
            size = (p**2).sum() if squared else p.sum()
            terms.append(1 - (2 * p[t].sum() + smooth) / (t.sum() + size + smooth))
        for voxel in np.ndindex(truth.shape):
            nats.append(-math.log(probs[(*voxel, truth[voxel])]))
        parts = build_loss("ce_dice", alpha=0.3, squared=squared, smooth=smooth).parts(
            labels, logits
        )
        assert list(parts) == ["cross_entropy", "dice"]
        np.testing.assert_allclose(parts["cross_entropy"][b], 0.3 * np.mean(nats), rtol=1e-5)
        np.testing.assert_allclose(parts["dice"][b], 0.7 * np.mean(terms), rtol=1e-5)


@pytest.mark.parametrize(
    ("batch_dice", "nnunet"), [(False, 0.8781185150146484), (True, 0.8781176805496216)]
)
def test_ce_dice_equals_nnunet(batch_dice, nnunet):
    # nnU-Net 2.8.1, DC_and_CE_loss(smooth=1e-5, do_bg=False), classes on axis 1.
    logits = (2 * np.sin(0.37 * np.arange(720))).astype("float32").reshape(2, 3, 4, 5, 6)
    labels = (7 * np.arange(240) % 3).reshape(2, 4, 5, 6)
    ours = build_loss("ce_dice", group_size=2 if batch_dice else 1)
    value = np.mean(ours(labels, np.moveaxis(logits, 1, -1)), dtype="float64")
    np.testing.assert_allclose(2 * value - 1, nnunet, atol=3e-7)


def test_ce_dice_is_what_it_was_before_it_had_parts(draw):
    # Computed with the function that returned the sum.
    labels, logits = draw((2, 4, 6))
    np.testing.assert_allclose(
        build_loss("ce_dice")(labels, logits), [1.0768598, 0.9813052], rtol=1e-7
    )


def test_an_impossible_alpha_is_refused(draw):
    for name, options in (
        ("ce_dice", {}),
        ("region_ce_dice", {"regions": {"a": [0], "b": [1], "c": [2]}}),
    ):
        with pytest.raises(ConfigError, match="alpha from 0 to 1, got 2"):
            build_loss(name, alpha=2.0, **options)(*draw())
