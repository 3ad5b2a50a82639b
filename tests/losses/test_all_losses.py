"""What every loss of the table must do."""

import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses import LOSSES
from segkit.losses import build_loss
from segkit.tables import MISSING
from segkit.tables import options_of

# Options without a default. Regions of three classes: all, two that overlap it, none the same.
NEEDED = {
    "region_ce_dice": {"regions": {"a": [1, 2], "b": [2], "c": [0, 2]}},
    "weighted_sum": {"parts": [{"focal": {"weight": 0.3}}, {"squared_dice": {"weight": 2.0}}]},
}
SPATIAL = {"boundary", "cldice"}  # depend on where voxels lie
HARD_ONLY = {"boundary", "lovasz", "region_ce_dice"}

# These are no losses of voxels: test_mask_rcnn.py, test_adversarial.py.
NAMES = [name for name in LOSSES if name not in ("mask_rcnn", "adversarial")]
every_loss = pytest.mark.parametrize("name", NAMES)


def with_option(option):
    names = [name for name in NAMES if option in options_of(LOSSES[name])]
    return pytest.mark.parametrize("name", names)


def _build(name, **options):
    return build_loss(name, **NEEDED.get(name, {}), **options)


def _perfect(name, labels, certainty=20.0):
    """Logits of a prediction that is right everywhere."""
    if name == "region_ce_dice":
        regions = NEEDED[name]["regions"]
        truth = np.stack([np.isin(labels, region) for region in regions.values()], -1)
    else:
        truth = np.eye(3)[labels]
    return (certainty * (2 * truth - 1)).astype("float32")


def _value_and_gradient(loss):
    def function(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return value, tape.gradient(value, logits)

    return function


@every_loss
def test_loss_gives_one_float32_value_per_example(name, draw):
    labels, logits = draw((3, 2, 4, 5))
    for dtype in ("float16", "bfloat16", "float32"):
        loss = _build(name)(labels.astype("uint8"), tf.cast(logits, dtype))
        assert loss.shape == (3,)
        assert loss.dtype == tf.float32


@every_loss
def test_loss_is_the_sum_of_its_parts(name, draw):
    loss = _build(name)
    labels, logits = draw((3, 4, 5))
    parts = loss.parts(labels, logits)
    np.testing.assert_allclose(loss(labels, logits), sum(parts.values()), rtol=1e-6)
    assert all(part.shape == (3,) for part in parts.values())
    assert len(parts) > 1 or list(parts) == [name]


@every_loss
def test_loss_of_a_batch_is_the_losses_of_its_examples(name, draw):
    labels, logits = draw((3, 5, 6))
    loss = _build(name)
    alone = np.concatenate([loss(labels[i : i + 1], logits[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(loss(labels, logits), alone, rtol=1e-6)


@every_loss
def test_a_perfect_prediction_is_the_best(name, draw):
    labels, _ = draw((2, 6, 7))
    loss = _build(name)
    best = loss(labels, _perfect(name, labels)).numpy()
    if name != "boundary":  # a negative number of voxels
        np.testing.assert_allclose(best, 0, atol=1e-5)
    for seed in range(5):
        other = _perfect(name, draw((2, 6, 7), seed=seed + 1)[0])
        assert (loss(labels, other).numpy() > best + 1e-3).all()
        undecided = draw((2, 6, 7), seed=seed + 1)[1]
        assert (loss(labels, undecided).numpy() > best + 1e-3).all()


@every_loss
def test_a_step_down_the_gradient_lowers_the_loss_of_every_example(name, draw, gradient_of):
    labels, logits = draw((3, 6, 7))
    loss = _build(name)
    gradient = gradient_of(loss, labels, logits)
    assert np.isfinite(gradient).all()
    steps = gradient / np.abs(gradient).max(axis=(1, 2, 3), keepdims=True)
    assert (loss(labels, logits - 0.02 * steps) < loss(labels, logits)).numpy().all()


@every_loss
@pytest.mark.parametrize("certainty", [1e4, -1e4])
def test_gradient_is_finite_at_probabilities_of_0_and_1(name, certainty, draw, gradient_of):
    labels, _ = draw((2, 4, 5))
    gradient = gradient_of(_build(name), labels, _perfect(name, labels, certainty))
    assert np.isfinite(gradient).all()


@every_loss
@pytest.mark.parametrize("only", [0, 1])
def test_gradient_is_finite_where_all_voxels_are_of_one_class(name, only, gradient_of):
    labels = np.full((1, 4, 4), only)
    for logits in (np.zeros((1, 4, 4, 3), "float32"), _perfect(name, labels)):
        assert np.isfinite(_build(name)(labels, logits)).all()
        assert np.isfinite(gradient_of(_build(name), labels, logits)).all()


@every_loss
def test_loss_does_not_depend_on_the_order_of_voxels(name, draw):
    labels, logits = draw((2, 4, 5, 6))
    loss = _build(name)
    expected = loss(labels, logits)
    for axis in (1, 2, 3):
        flipped = loss(np.flip(labels, axis), np.flip(logits, axis))
        np.testing.assert_allclose(flipped, expected, rtol=1e-5)
    if name not in SPATIAL:
        order = np.random.default_rng(0).permutation(120)
        shuffled = loss(
            labels.reshape(2, 120)[:, order].reshape(labels.shape),
            logits.reshape(2, 120, 3)[:, order].reshape(logits.shape),
        )
        np.testing.assert_allclose(shuffled, expected, rtol=1e-5)


@every_loss
def test_loss_is_the_same_compiled_and_with_unknown_sides(name, draw):
    labels, logits = draw((2, 4, 6))
    labels, logits = tf.constant(labels, "int32"), tf.constant(logits)
    function = _value_and_gradient(_build(name))
    value, gradient = function(labels, logits)
    spec = [tf.TensorSpec((None, None, None), "int32"), tf.TensorSpec((None, None, None, 3))]
    for compiled in (tf.function(function, spec), tf.function(function, jit_compile=True)):
        compiled_value, compiled_gradient = compiled(labels, logits)
        np.testing.assert_allclose(compiled_value, value, rtol=1e-5)
        np.testing.assert_allclose(compiled_gradient, gradient, atol=1e-6)


@every_loss
def test_loss_does_not_overflow_on_a_float16_volume(name):
    values = []
    for side in (128, 4):
        labels = np.zeros((1, side, side, side), "uint8")
        labels[:, : side // 2] = 1
        channels = 3 if name == "region_ce_dice" else 2
        values.append(_build(name)(labels, tf.zeros((*labels.shape, channels), "float16")))
    assert np.isfinite(values[0]).all()
    if name not in SPATIAL:  # of the small volume the sums cannot overflow
        np.testing.assert_allclose(values[0], values[1], rtol=1e-4)


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_soft_labels_of_0_and_1_cost_what_indices_cost_or_are_refused(name, dtype, draw):
    labels, logits = draw((3, 4, 5, 6), classes=3)
    soft = np.eye(3, dtype=dtype)[labels]
    loss = _build(name)
    if name in HARD_ONLY:
        with pytest.raises(ConfigError, match="class indices, got class probabilities.*mixup"):
            loss(soft, logits)
    else:
        np.testing.assert_allclose(loss(soft, logits), loss(labels, logits), rtol=1e-6)


every_soft_loss = pytest.mark.parametrize("name", [n for n in NAMES if n not in HARD_ONLY])


@every_soft_loss
def test_gradient_with_soft_labels_is_finite_and_that_of_the_indices(name, draw, gradient_of):
    labels, logits = draw((2, 4, 5))
    logits *= 1e4  # probabilities of exactly 0
    hard, soft = (
        gradient_of(_build(name), y_true, logits)
        for y_true in (labels, np.eye(3, dtype="float32")[labels])
    )
    assert np.isfinite(soft).all()
    np.testing.assert_allclose(soft, hard, atol=1e-6)


@every_soft_loss
def test_soft_loss_is_the_same_compiled_and_with_unknown_sides(name, draw):
    _, logits = draw((2, 4, 6))
    soft = np.random.default_rng(1).dirichlet((1, 1, 1), (2, 4, 6)).astype("float32")
    loss = _build(name)
    spec = [tf.TensorSpec((None, None, None, 3))] * 2
    for compiled in (tf.function(loss, spec), tf.function(loss, jit_compile=True)):
        np.testing.assert_allclose(compiled(soft, logits), loss(soft, logits), rtol=1e-5)


@every_loss
def test_ignored_voxels_change_neither_value_nor_gradient(name, draw, gradient_of):
    labels, logits = draw((2, 6, 7))
    ignored = np.random.default_rng(1).random(labels.shape) < 0.3
    labels = np.where(ignored, 255, labels).astype("uint8")
    loss = _build(name, ignore_label=255)
    values, gradients = [], []
    for filling in (0.0, 3.0, np.nan):
        filled = np.where(ignored[..., None], np.float32([filling, -1, 2]), logits)
        values.append(loss(labels, filled))
        gradients.append(gradient_of(loss, labels, filled))
        assert not gradients[-1][ignored].any()
        assert gradients[-1][~ignored].any()
    for value, gradient in zip(values, gradients, strict=True):
        np.testing.assert_array_equal(value, values[0])
        np.testing.assert_array_equal(gradient, gradients[0])


@pytest.mark.parametrize("name", [n for n in NAMES if n not in SPATIAL])
def test_ignored_voxels_might_as_well_not_be_there(name, draw):
    labels, logits = draw((2, 6, 7))
    cut = np.where(np.arange(7) < 4, labels, 9)
    kept = _build(name)(labels[:, :, :4], logits[:, :, :4])
    np.testing.assert_allclose(_build(name, ignore_label=9)(cut, logits), kept, rtol=1e-5)


@every_loss
def test_an_example_that_is_ignored_throughout_costs_0(name, draw, gradient_of):
    labels, logits = draw((2, 4, 5))
    labels[1] = 255
    loss = _build(name, ignore_label=255)
    value, gradient = loss(labels, logits), gradient_of(loss, labels, logits)
    assert value[0] != 0
    assert value[1] == 0
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()


@every_loss
def test_an_ignored_label_is_refused_with_soft_labels(name, draw):
    labels, logits = draw()
    with pytest.raises(ConfigError, match="needs labels that are class indices"):
        _build(name, ignore_label=0)(np.eye(3, dtype="float32")[labels], logits)


@with_option("group_size")
def test_a_group_is_counted_like_one_large_example(name, draw):
    labels, logits = draw((4, 6, 5))
    grouped = _build(name, group_size=2).parts(labels, logits)
    joined = _build(name).parts(labels.reshape(2, 12, 5), logits.reshape(2, 12, 5, 3))
    single = _build(name).parts(labels, logits)
    for term in grouped:
        if term == "cross_entropy":
            np.testing.assert_array_equal(grouped[term], single[term])
        else:
            np.testing.assert_allclose(grouped[term], np.repeat(joined[term], 2), rtol=1e-5)
            assert not np.allclose(grouped[term], single[term], rtol=1e-3)


@with_option("group_size")
def test_two_replicas_give_what_one_gives(name, draw):
    labels, logits = draw((8, 4, 5))
    loss = _build(name, group_size=2)
    halves = np.concatenate([loss(labels[:4], logits[:4]), loss(labels[4:], logits[4:])])
    np.testing.assert_allclose(loss(labels, logits), halves, rtol=1e-6)


@with_option("group_size")
def test_a_group_that_does_not_fit_the_batch_is_refused_while_tracing(name, draw):
    labels, logits = draw((3, 4, 5))
    # AutoGraph would turn the error into one of its own.
    traced = tf.function(_build(name, group_size=2), autograph=False)
    with pytest.raises(ShapeError, match="multiple of group_size 2, got 3"):
        traced.get_concrete_function(labels, logits)
    with pytest.raises(ConfigError, match="group_size must be 1 or more, got 0"):
        _build(name, group_size=0)(labels, logits)


@with_option("class_weights")
def test_class_weights_change_the_loss_unless_they_are_equal(name, draw):
    labels, logits = draw()
    plain = _build(name)(labels, logits)
    equal = _build(name, class_weights=[1, 1.0, 1.0])(labels, logits)
    np.testing.assert_allclose(equal, plain, rtol=1e-6)
    other = _build(name, class_weights=[1.0, 0.5, 2.0])(labels, logits)
    assert not np.isclose(other, plain, rtol=1e-3).any()


@with_option("class_weights")
@pytest.mark.parametrize("weights", [[1.0, 2.0], [], [0.0, 0.0, 0.0], [1.0, 1.0, -1.0]])
def test_class_weights_that_do_not_fit_are_refused(name, weights, draw):
    with pytest.raises(ConfigError, match="class_weights must be 3 numbers"):
        _build(name, class_weights=weights)(*draw())


@every_loss
def test_logits_at_several_resolutions_are_weighted_by_halves(name, draw):
    labels, logits = draw((2, 8, 12))
    outputs = {"full": logits, "half": draw((2, 4, 6))[1], "quarter": draw((2, 2, 3))[1]}
    loss = _build(name)
    # 1 and 1/2, and 0 for the last, divided by their sum.
    full, half = loss(labels, logits), loss(labels[:, 1::2, 1::2], outputs["half"])
    np.testing.assert_allclose(loss(labels, outputs), (2 * full + half) / 3, rtol=1e-5)
    np.testing.assert_array_equal(loss(labels, {"logits": logits}), full)
    assert list(loss.parts(labels, outputs)) == list(loss.parts(labels, logits))


@every_loss
def test_labels_of_another_shape_are_refused(name, draw):
    labels, logits = draw((2, 4, 5))
    for wrong in (labels[..., None], labels[..., :4], labels[:1]):
        with pytest.raises(ShapeError, match=r"class indices of shape \(2, 4, 5\)"):
            _build(name)(wrong, logits)


@every_loss
def test_every_option_is_annotated_for_the_check_of_configs(name):
    for option, declared in options_of(LOSSES[name]).items():
        if declared.keyword_only:
            assert declared.annotation is not None, option
            assert (declared.default is MISSING) == (option in NEEDED.get(name, {}))
    assert "ignore_label" in options_of(LOSSES[name])
