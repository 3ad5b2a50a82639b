import math

import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses import LOSSES
from segkit.losses import build_loss
from segkit.losses.ce_dice import ce_dice
from segkit.losses.cross_entropy import cross_entropy
from segkit.losses.dice import dice
from segkit.losses.dice import squared_dice


def _logits_of(probs):
    """Logits whose softmax is `probs`; two classes, `probs` of the second one."""
    probs = np.asarray(probs, "float64")
    return np.log(np.stack([1 - probs, probs], -1) + 1e-30).astype("float32")


def _random(shape=(3, 4, 5), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, shape), rng.normal(size=(*shape, classes)).astype("float32")


def _gradient(loss, y_true, logits):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(y_true, logits)
    return tape.gradient(value, logits).numpy()


def test_cross_entropy_matches_hand_computed_value():
    # -(ln .5 + ln .25) / 2 = (ln 2 + ln 4) / 2 = 1.5 ln 2.
    loss = cross_entropy(np.array([[1, 0]]), _logits_of([[0.5, 0.75]]))
    np.testing.assert_allclose(loss, [1.5 * math.log(2)], rtol=1e-6)


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
def test_dice_matches_hand_computed_value(labels, probs, plain, squared):
    labels, logits = np.array([labels]), _logits_of([probs])
    np.testing.assert_allclose(dice(labels, logits), [plain], atol=2e-5)
    np.testing.assert_allclose(squared_dice(labels, logits), [squared], atol=2e-5)


def test_an_absent_class_costs_what_the_smoothing_says():
    # P = 1 voxel in all, smooth = 1: 1 - (0 + 1) / (0 + 1 + 1) = 1/2.
    logits = _logits_of([[0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_allclose(dice(np.zeros((1, 4), int), logits, smooth=1.0), [0.5], rtol=1e-6)


def test_background_enters_the_mean_only_on_request():
    # Class 0: 1 - 2*1/(2+1) = 1/3; class 1: 1 - 2*2/(2+3) = 1/5; mean 4/15.
    labels, logits = np.array([[0, 0, 1, 1]]), _logits_of([[0, 1, 1, 1]])
    np.testing.assert_allclose(dice(labels, logits, include_background=True), [4 / 15], atol=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_losses_equal_a_slow_loop(squared):
    labels, logits = _random()
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
        expected = 0.3 * np.mean(nats) + 0.7 * np.mean(terms)
        got = ce_dice(labels, logits, alpha=0.3, squared=squared, smooth=smooth)
        np.testing.assert_allclose(got[b], expected, rtol=1e-5)


def test_ce_dice_equals_nnunet():
    # nnU-Net 2.8.1, DC_and_CE_loss(batch_dice=False, smooth=1e-5, do_bg=False), classes on axis 1.
    logits = (2 * np.sin(0.37 * np.arange(720))).astype("float32").reshape(2, 3, 4, 5, 6)
    labels = (7 * np.arange(240) % 3).reshape(2, 4, 5, 6)
    nnunet = 0.8781185150146484
    ours = ce_dice(labels, np.moveaxis(logits, 1, -1))
    np.testing.assert_allclose(np.mean(ours), (nnunet + 1) / 2, rtol=1e-6)


def test_soft_cross_entropy_matches_hand_computed_value():
    # Voxel 1: -(.25 ln .5 + .75 ln .5) = ln 2; voxel 2: -(.5 ln .25 + .5 ln .75) = ln 4 - ln 3 / 2.
    soft = np.array([[[0.25, 0.75], [0.5, 0.5]]], "float32")
    loss = cross_entropy(soft, _logits_of([[0.5, 0.75]]))
    np.testing.assert_allclose(loss, [(math.log(2) + math.log(4) - math.log(3) / 2) / 2], rtol=1e-6)


def test_soft_dice_matches_hand_computed_value():
    # Class 1: t = 1/2, 1 and p = 1/2, 1/2; overlap 3/4.
    # Plain: 1 - (3/2) / (3/2 + 1) = 2/5; squared: 1 - (3/2) / (5/4 + 1/2) = 1/7.
    soft = np.array([[[0.5, 0.5], [0.0, 1.0]]], "float32")
    logits = _logits_of([[0.5, 0.5]])
    np.testing.assert_allclose(dice(soft, logits), [2 / 5], atol=1e-5)
    np.testing.assert_allclose(squared_dice(soft, logits), [1 / 7], atol=1e-5)
    # Class 0: t = 1/2, 0; overlap 1/4; plain 1 - (1/2) / (3/2) = 2/3.
    both = dice(soft, logits, include_background=True)
    np.testing.assert_allclose(both, [(2 / 5 + 2 / 3) / 2], atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_soft_labels_of_0_and_1_cost_what_indices_cost(name, dtype):
    labels, logits = _random((3, 4, 5, 6), classes=4)
    soft = np.eye(4, dtype=dtype)[labels]
    loss = build_loss(name)
    np.testing.assert_allclose(loss(soft, logits), loss(labels, logits), rtol=1e-6)
    if name in ("dice", "squared_dice"):
        np.testing.assert_array_equal(loss(soft, logits), loss(labels, logits))


def test_cross_entropy_is_linear_in_soft_labels():
    labels, logits = _random((2, 4, 5))
    others, _ = _random((2, 4, 5), seed=1)
    first, second = (np.eye(3, dtype="float32")[x] for x in (labels, others))
    mixed = cross_entropy(0.3 * first + 0.7 * second, logits)
    expected = 0.3 * cross_entropy(labels, logits) + 0.7 * cross_entropy(others, logits)
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "best"), [("cross_entropy", 0.6), ("squared_dice", 0.6), ("dice", 1)]
)
def test_what_prediction_suits_a_soft_label_best(name, best):
    # One voxel that is foreground with probability 0.6; plain Dice wants it sure.
    probs = np.linspace(0, 1, 51)
    soft = np.tile(np.array([0.4, 0.6], "float32"), (51, 1, 1))
    losses = build_loss(name)(soft, _logits_of(probs[:, None]))
    np.testing.assert_allclose(probs[np.argmin(losses)], best)
    if name == "squared_dice":
        np.testing.assert_allclose(np.min(losses), 0, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_with_soft_labels_is_finite_and_that_of_the_indices(name):
    labels, logits = _random((2, 4, 5))
    logits *= 1e4  # probabilities of exactly 0
    hard, soft = (
        _gradient(build_loss(name), y_true, logits)
        for y_true in (labels, np.eye(3, dtype="float32")[labels])
    )
    assert np.isfinite(soft).all()
    np.testing.assert_allclose(soft, hard, atol=1e-6)


def test_a_voxel_without_any_class_pulls_the_cross_entropy_nowhere():
    nothing = np.zeros((2, 4, 5, 3), "float32")
    assert not _gradient(cross_entropy, nothing, _random((2, 4, 5))[1]).any()


@pytest.mark.parametrize("name", LOSSES)
def test_soft_loss_is_the_same_compiled_and_with_unknown_sides(name):
    _, logits = _random((2, 4, 6))
    soft = np.random.default_rng(1).dirichlet((1, 1, 1), (2, 4, 6)).astype("float32")
    loss = build_loss(name)
    spec = [tf.TensorSpec((None, None, None, 3))] * 2
    for compiled in (tf.function(loss, spec), tf.function(loss, jit_compile=True)):
        np.testing.assert_allclose(compiled(soft, logits), loss(soft, logits), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_gives_one_float32_value_per_example(name):
    labels, logits = _random((3, 2, 4, 5))
    for dtype in ("float16", "bfloat16", "float32"):
        loss = build_loss(name)(labels.astype("uint8"), tf.cast(logits, dtype))
        assert loss.shape == (3,)
        assert loss.dtype == tf.float32


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_a_batch_is_the_losses_of_its_parts(name):
    labels, logits = _random((4, 5, 6))
    loss = build_loss(name)
    halves = np.concatenate([loss(labels[:2], logits[:2]), loss(labels[2:], logits[2:])])
    np.testing.assert_allclose(loss(labels, logits), halves, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_the_same_compiled_and_with_unknown_sides(name):
    labels, logits = _random((2, 4, 6))
    loss = build_loss(name)
    spec = [tf.TensorSpec((None, None, None), "int32"), tf.TensorSpec((None, None, None, 3))]
    labels = labels.astype("int32")
    for compiled in (tf.function(loss, spec), tf.function(loss, jit_compile=True)):
        np.testing.assert_allclose(compiled(labels, logits), loss(labels, logits), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_finite_where_the_foreground_is_absent(name):
    logits = np.zeros((1, 4, 4, 2), "float32")
    gradient = _gradient(build_loss(name), np.zeros((1, 4, 4), int), logits)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_does_not_overflow_on_a_float16_volume(name):
    labels = np.zeros((1, 128, 128, 128), "uint8")
    labels[:, :64] = 1
    loss = build_loss(name)(labels, tf.zeros((*labels.shape, 2), "float16"))
    # p = 1/2 everywhere: cross-entropy ln 2; Dice 1 - 2*n/4 / (n/2 + n/2) = 1/2;
    # squared 1 - 2*n/4 / (n/2 + n/4) = 1/3.
    expected = {"cross_entropy": math.log(2), "dice": 1 / 2, "squared_dice": 1 / 3}
    expected["ce_dice"] = (math.log(2) + 1 / 2) / 2
    np.testing.assert_allclose(loss, [expected[name]], rtol=1e-4)


def test_loss_refuses_labels_of_another_shape():
    labels, logits = _random((2, 4, 5))
    with pytest.raises(ShapeError, match=r"class indices of shape \(2, 4, 5\).*Drop a last axis"):
        dice(labels[..., None], logits)
    with pytest.raises(ShapeError, match=r"got \(2, 4, 4\)"):
        cross_entropy(labels[..., :4], logits)


def test_loss_refuses_soft_labels_of_another_shape():
    labels, logits = _random((2, 4, 5))
    soft = np.eye(3, dtype="float32")[labels]
    wanted = r"float class probabilities of shape \(2, 4, 5, 3\)"
    for wrong in (soft[..., :2], soft[:, :3], soft[None]):
        with pytest.raises(ShapeError, match=wanted + r".* got \(.*\) of float32"):
            cross_entropy(wrong, logits)
    # Integers are indices: an RGB mask of 3 classes is not taken for probabilities.
    with pytest.raises(ShapeError, match="of uint8.*argmax of one-hot"):
        dice(soft.astype("uint8"), logits)


def test_loss_refuses_unknown_names_and_options():
    with pytest.raises(ConfigError, match="Did you mean 'ce_dice'"):
        build_loss("ce_dise")
    with pytest.raises(ConfigError, match="Did you mean 'smooth'"):
        build_loss("dice", smoth=1.0)
    with pytest.raises(ConfigError, match="alpha from 0 to 1, got 2"):
        build_loss("ce_dice", alpha=2.0)(*_random())
    with pytest.raises(ShapeError, match="include_background"):
        dice(np.zeros((1, 3), int), np.zeros((1, 3, 1)))
