import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ShapeError
from segkit.losses import build_loss
from segkit.losses.deep_supervision import resolution_weights
from segkit.losses.deep_supervision import stride_labels


@pytest.mark.parametrize(
    ("number", "weights"),
    [
        (1, [1]),
        (2, [1, 0]),
        # 1 + 1/2 = 3/2; 1 + 1/2 + 1/4 = 7/4.
        (3, [2 / 3, 1 / 3, 0]),
        (4, [4 / 7, 2 / 7, 1 / 7, 0]),
    ],
)
def test_weights_are_halved_and_the_last_is_0(number, weights):
    np.testing.assert_allclose(resolution_weights(number), weights)


def test_a_coarse_voxel_takes_the_label_at_its_centre_or_just_behind():
    # Groups of 2, 3, 4: 01 23 -> 1 3; 012 345 -> 1 4; 0123 4567 -> 2 6.
    for factor, expected in ((2, [1, 3]), (3, [1, 4]), (4, [2, 6])):
        labels = np.arange(2 * factor)[None]
        np.testing.assert_array_equal(stride_labels(labels, [factor]), [expected])
    # Axes have factors of their own; the classes of soft labels have none.
    soft = np.random.default_rng(0).random((2, 4, 6, 3))
    np.testing.assert_array_equal(stride_labels(soft, [1, 2]), soft[:, :, [1, 3, 5]])


def test_axes_may_be_halved_unequally(draw):
    labels, logits = draw((2, 4, 8, 8))
    outputs = {"a": logits, "b": draw((2, 4, 4, 4))[1], "c": draw((2, 2, 2, 4))[1]}
    loss = build_loss("ce_dice")
    expected = (2 * loss(labels, logits) + loss(labels[:, :, 1::2, 1::2], outputs["b"])) / 3
    np.testing.assert_allclose(loss(labels, outputs), expected, rtol=1e-6)


def test_outputs_at_one_resolution_share_its_weight(draw):
    labels, logits = draw((2, 4, 6))
    second, third = draw((2, 4, 6))[1][:, ::-1], draw((2, 2, 3))[1]
    loss = build_loss("ce_dice")
    mean = (loss(labels, logits) + loss(labels, second)) / 2
    # Alone, their resolution has all the weight; with a coarser one, which is the last, too.
    for outputs in ({"a": logits, "b": second}, {"a": logits, "b": second, "c": third}):
        np.testing.assert_allclose(loss(labels, outputs), mean, rtol=1e-6)
    # Between a finer and a coarser one, it has 1/3.
    outputs = {"a": logits, "b": third, "c": third[..., ::-1], "d": draw((2, 1, 1))[1]}
    half = labels[:, 1::2, 1::2]
    shared = (loss(half, third) + loss(half, third[..., ::-1])) / 2
    expected = (2 * loss(labels, logits) + shared) / 3
    np.testing.assert_allclose(loss(labels, outputs), expected, rtol=1e-6)


def test_soft_labels_are_strided_too(draw):
    labels, logits = draw((2, 4, 6))
    outputs = {"a": logits, "b": draw((2, 2, 3))[1], "c": draw((2, 1, 1))[1]}
    loss = build_loss("ce_dice")
    soft = np.eye(3, dtype="float32")[labels]
    np.testing.assert_allclose(loss(soft, outputs), loss(labels, outputs), rtol=1e-6)


def test_the_coarsest_resolution_gets_a_gradient_of_0(draw):
    labels, logits = draw((2, 4, 6))
    outputs = {"full": tf.constant(logits), "half": tf.constant(draw((2, 2, 3))[1])}
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        loss = build_loss("ce_dice")(labels, outputs)
    gradients = tape.gradient(loss, outputs)
    assert np.any(gradients["full"])
    assert gradients["half"] is not None
    assert not np.any(gradients["half"])


def test_deep_supervision_is_the_same_compiled(draw):
    labels, logits = draw((2, 4, 8))
    labels = tf.constant(labels, "int32")
    # The names are not in alphabetical order.
    outputs = {"logits": logits, "aux_2": draw((2, 2, 4))[1], "aux_1": draw((2, 1, 2))[1]}
    outputs = {name: tf.constant(value) for name, value in outputs.items()}
    loss = build_loss("ce_dice")
    for compiled in (tf.function(loss), tf.function(loss, jit_compile=True)):
        np.testing.assert_allclose(compiled(labels, outputs), loss(labels, outputs), rtol=1e-6)


def test_resolutions_that_do_not_fit_are_refused(draw):
    labels, logits = draw((2, 4, 6))
    half, wrong = draw((2, 2, 3))[1], draw((2, 3, 3))[1]
    loss = build_loss("dice")
    with pytest.raises(ShapeError, match=r"got \(4, 6\) for the \(3, 3\) of 'aux'.*Choose a patch"):
        loss(labels, {"logits": logits, "aux": wrong})
    with pytest.raises(ShapeError, match="finest resolution first, got 'aux' after one"):
        loss(labels, {"logits": logits, "half": half, "aux": draw((2, 4, 3))[1]})
    with pytest.raises(ShapeError, match="finest resolution first, got 'aux' after one"):
        loss(labels, {"logits": logits, "half": draw((2, 4, 3))[1], "aux": draw((2, 2, 6))[1]})
    with pytest.raises(ShapeError, match=r"class indices of shape \(2, 2, 3\)"):
        loss(labels, {"half": half, "logits": logits})
