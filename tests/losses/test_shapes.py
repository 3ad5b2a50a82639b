import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses import build_loss
from segkit.losses.cross_entropy import cross_entropy
from segkit.losses.dice import dice


def test_loss_refuses_labels_of_another_shape(draw):
    labels, logits = draw((2, 4, 5))
    with pytest.raises(ShapeError, match=r"class indices of shape \(2, 4, 5\).*Drop a last axis"):
        dice(labels[..., None], logits)
    with pytest.raises(ShapeError, match=r"got \(2, 4, 4\)"):
        cross_entropy(labels[..., :4], logits)


def test_loss_refuses_soft_labels_of_another_shape(draw):
    labels, logits = draw((2, 4, 5))
    soft = np.eye(3, dtype="float32")[labels]
    wanted = r"float class probabilities of shape \(2, 4, 5, 3\)"
    for wrong in (soft[..., :2], soft[:, :3], soft[None]):
        with pytest.raises(ShapeError, match=wanted + r".* got \(.*\) of float32"):
            cross_entropy(wrong, logits)
    # Integers are indices: an RGB mask of 3 classes is not taken for probabilities.
    with pytest.raises(ShapeError, match="of uint8.*argmax of one-hot"):
        dice(soft.astype("uint8"), logits)


def test_an_ignored_label_may_lie_outside_the_range_of_small_integers(draw):
    labels, logits = draw((2, 4, 5))
    for dtype in ("uint8", "int8", "int64"):
        loss = cross_entropy(labels.astype(dtype), logits, ignore_label=255)
        np.testing.assert_array_equal(loss, cross_entropy(labels, logits))
    some = cross_entropy(np.where(labels == 2, -1, labels), logits, ignore_label=-1)
    assert (some.numpy() != cross_entropy(labels, logits).numpy()).all()


def test_loss_refuses_unknown_names_and_options():
    with pytest.raises(ConfigError, match="Did you mean 'ce_dice'"):
        build_loss("ce_dise")
    with pytest.raises(ConfigError, match="Did you mean 'smooth'"):
        build_loss("dice", smoth=1.0)
