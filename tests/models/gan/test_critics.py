"""Critics: shapes, sizes, conditions, and derivatives of derivatives."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

import segkit.layers  # noqa: F401  (registers what .keras files name)
from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.layers.dtype_policy import dtype_policy
from segkit.layers.step_context import step_context
from segkit.models import CRITICS
from segkit.models import build_critic
from segkit.models.measure.graph import read_graph
from segkit.models.measure.receptive_field import receptive_field
from segkit.tables import options_of
from tests.models.under_jax import errors_under_jax

SHAPES = {"2-D": (16, 24, 1), "3-D": (8, 8, 12, 2)}
SMALL = {
    "patch": {"filters": 4, "downsamplings": 1, "scales": 2},
    "global": {"filters": 4, "downsamplings": 2, "minibatch_deviation": 2, "classes": 3},
}
# Every option, with a value other than that of SMALL or the default.
OTHER = {
    "patch": {
        "filters": 5,
        "max_filters": 4,
        "downsamplings": 2,
        "scales": 1,
        "normalization": "none",
        "spectral_norm": False,
    },
    "global": {
        "filters": 5,
        "max_filters": 4,
        "downsamplings": 1,
        "minibatch_deviation": 4,
        "classes": 0,
        "normalization": "instance",
        "spectral_norm": False,
    },
}
KEYS = np.zeros((4, 2), np.uint32)
every_critic = pytest.mark.parametrize("name", CRITICS)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def _build(name, shape=SHAPES["2-D"], condition_channels=3, **options):
    return build_critic(name, shape, condition_channels, **{**SMALL[name], **options})


def _inputs(model, batch=4):
    rng, drawn = np.random.default_rng(0), {}
    for name, tensor in model.input.items():
        shape = (batch, *tensor.shape[1:])
        if name == "class":
            drawn[name] = rng.integers(0, 3, shape).astype(np.int32)
        else:
            drawn[name] = rng.normal(size=shape).astype(np.float32)
    return {name: tf.constant(values) for name, values in drawn.items()}


def total(outputs):
    """A number that all logits are in, each with a factor of its own, and squared."""
    parts = [values for name, values in outputs.items() if name.startswith("logits")]
    factors = [
        2.0 + np.cos(np.arange(np.prod(part.shape)) + 1).reshape(part.shape) for part in parts
    ]
    return sum(tf.reduce_sum(f * part**2) for f, part in zip(factors, parts, strict=True))


@every_critic
@every_shape
def test_outputs_are_float32_logits_and_features_by_scale_and_layer(name, shape):
    model = _build(name, shape)
    found = model(_inputs(model))
    assert all(values.dtype == tf.float32 and values.shape[0] == 4 for values in found.values())
    sides = {"2-D": [(8, 12), (4, 6)], "3-D": [(4, 4, 6), (2, 2, 3)]}
    first, second = sides["2-D" if len(shape) == 3 else "3-D"]
    expected = {
        "patch": {
            "logits_0": (*first, 1),
            "logits_1": (*second, 1),
            "features_0_0": (*first, 4),
            "features_0_1": (*first, 8),
            "features_1_0": (*second, 4),
            "features_1_1": (*second, 8),
        },
        "global": {
            "logits_0": (1,),
            "features_0_0": (*shape[:-1], 4),
            "features_0_1": (*first, 8),
            "features_0_2": (*second, 16),
        },
    }[name]
    assert {key: tuple(values.shape[1:]) for key, values in found.items()} == expected


@every_critic
def test_inputs_are_image_and_what_is_asked_for(name):
    both = _build(name)
    assert both.input["image"].shape == (None, 16, 24, 1)
    assert both.input["condition"].shape == (None, 16, 24, 3)
    alone = _build(name, condition_channels=0)
    assert "condition" not in alone.input
    assert ("class" in alone.input) == (name == "global")
    with pytest.raises(ConfigError, match="condition_channels to be at least 0, got -1"):
        _build(name, condition_channels=-1)


def test_a_patch_critic_takes_images_of_any_size():
    model, inputs = _build("patch", (None, None, 1)), _inputs(_build("patch"))
    odd = {key: values[:, :13, :15] for key, values in inputs.items()}
    found = model(odd)
    # 13 and 15 over 2, rounded up: 7 and 8; and again: 4 and 4.
    assert found["logits_0"].shape == (4, 7, 8, 1)
    assert found["logits_1"].shape == (4, 4, 4, 1)


def test_images_too_small_for_the_critic_are_refused():
    with pytest.raises(ShapeError, match="sides of at least 8 for downsamplings 1 and scales 2"):
        _build("patch", (7, 16, 1))
    with pytest.raises(ShapeError, match="multiple of 4, got 13. Pad it to 16"):
        _build("global", (13, 16, 1))
    with pytest.raises(ShapeError, match="needs all sides"):
        _build("global", (None, 16, 1))
    for name in CRITICS:
        with pytest.raises(ShapeError, match="Use a patch of 2 or 3 sides"):
            _build(name, (16, 1))


def test_the_patch_critic_of_pix2pix_has_its_weights_and_its_receptive_field():
    # Isola et al. 2017, appendix 6.1.2, with 3 channels, kernel 4 and biases:
    #   16 * 3 * 64 + 64, 16 * 64 * 128 + 128, 16 * 128 * 256 + 256, 16 * 256 * 512 + 512,
    #   16 * 512 + 1: 2 764 737, "2.765 M" in the log of junyanz/pytorch-CycleGAN-and-pix2pix.
    model = build_critic(
        "patch", (128, 128, 3), 0, scales=1, normalization="none", spectral_norm=False
    )
    assert model.count_params() == 2764737
    logits = keras.Model(model.inputs, model.output["logits_0"])
    assert receptive_field(read_graph(logits)) == ((70, 70), [])


def test_the_parameters_of_critics_are_those_worked_out_by_hand():
    # Each scale: 16 * (1 + 3) * 4 + 4 and its vector of 4; 16 * 4 * 8, scale and offset of 8 and
    # the vector of 8; 16 * 8 + 1.
    scale = 16 * 4 * 4 + 4 + 4 + 16 * 4 * 8 + 16 + 8 + 16 * 8 + 1
    assert _build("patch").count_params() == 2 * scale
    # Convolutions with bias and vector: kernel 3 from 4 channels, kernel 4 twice, kernel 3 with
    # the channel of the deviation; then all of 4 * 6 positions to a vector, logit and classes.
    convs = (9 * 4 * 4 + 8) + (16 * 4 * 8 + 16) + (16 * 8 * 16 + 32) + (9 * 17 * 16 + 32)
    dense = (4 * 6 * 16 * 16 + 32) + (16 + 2) + (3 * 16 + 16)
    assert _build("global").count_params() == convs + dense


@every_critic
@every_shape
@pytest.mark.parametrize("normalization", ["none", "instance"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_gradient_reaches_every_weight(name, shape, normalization, spectral_norm):
    model = _build(name, shape, normalization=normalization, spectral_norm=spectral_norm)
    weights = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = total(model(_inputs(model), training=True))
    for weight, gradient in zip(
        weights, tape.gradient(loss, [w.value for w in weights]), strict=True
    ):
        assert isinstance(gradient, tf.Tensor), weight.path  # not sparse
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient), weight.path


def penalty(model, inputs, weights):
    """The mean squared gradient of all logits by the image, and its gradients by the weights."""
    with step_context(KEYS), tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(inputs["image"])
            logits = total(model(inputs, training=True))
        value = tf.reduce_sum(tf.square(inner.gradient(logits, inputs["image"])))
    zero = tf.UnconnectedGradients.ZERO
    return value, outer.gradient(value, weights, unconnected_gradients=zero)


def smoothed(model):
    """The critic with bends for the kinks of its LeakyReLUs, where derivatives jump."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.LeakyReLU):
            layer.call = lambda x: 0.2 * x + 0.8 * tf.nn.softplus(x)
        if hasattr(layer, "iterations"):
            layer.iterations = 15  # or else sigma moves with its vectors to first order
    return model


@every_critic
@pytest.mark.parametrize("spectral_norm", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_gradient_of_a_gradient_penalty_is_that_of_finite_differences(name, spectral_norm):
    model = smoothed(_build(name, spectral_norm=spectral_norm, normalization="instance"))
    inputs, weights = _inputs(model), [w.value for w in model.trainable_variables]
    find = tf.function(lambda: penalty(model, inputs, weights))
    for _ in range(10):
        model(inputs, training=True)
    value, gradients = find()
    assert value > 0
    rng, found, expected = np.random.default_rng(1), [], 0
    moves = [0.01 * np.std(w) * rng.normal(size=w.shape) for w in weights]
    for sign in (1, -2, 1):
        for weight, move in zip(weights, moves, strict=True):
            weight.assign_add(sign * move.astype(np.float32))
        found.append(float(find()[0]))
    expected = sum(np.sum(g * move) for g, move in zip(gradients, moves, strict=True))
    assert (found[0] - found[1]) / 2 == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
@every_critic
@every_shape
def test_second_derivatives_are_the_same_compiled_by_xla(name, shape):
    model = _build(name, shape)
    weights = [w.value for w in model.trainable_variables]
    inputs = _inputs(model)
    expected, gradients = penalty(model, inputs, weights)
    compiled = tf.function(lambda x: penalty(model, x, weights), jit_compile=True)
    found, compiled_gradients = compiled(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    largest = max(np.abs(g).max() for g in gradients)
    for a, b in zip(compiled_gradients, gradients, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-4 * largest)


@every_critic
def test_examples_do_not_see_each_other_but_for_their_group(name):
    model = _build(name, SHAPES["2-D"])
    inputs = _inputs(model)
    together = model(inputs)
    halves = [model({k: v[part] for k, v in inputs.items()}) for part in (slice(2), slice(2, 4))]
    for key, values in together.items():
        np.testing.assert_allclose(values, np.concatenate([h[key] for h in halves]), atol=1e-5)
    alone = {} if name == "patch" else {"minibatch_deviation": 0}
    model = _build(name, **alone)
    together = model(inputs)["logits_0"]
    for n in range(4):
        one = {k: v[n : n + 1] for k, v in inputs.items()}
        np.testing.assert_allclose(model(one)["logits_0"], together[n : n + 1], atol=1e-5)


def test_a_batch_that_is_not_whole_groups_is_refused():
    model = _build("global")
    with pytest.raises(ShapeError, match="groups of 2 examples, got 3"):
        model({key: values[:3] for key, values in _inputs(model).items()})


@every_critic
def test_condition_and_class_change_the_logits(name):
    model = _build(name)
    inputs = _inputs(model)
    before = model(inputs)["logits_0"]
    for key in set(inputs) - {"image"}:
        other = (inputs[key] + 1) % 3 if key == "class" else -inputs[key]
        changed = {**inputs, key: other}
        assert not np.allclose(model(changed)["logits_0"], before), key


def test_the_class_adds_the_product_of_its_embedding_and_the_vector_of_the_image():
    model = _build("global", spectral_norm=False)
    inputs, named = _inputs(model), {layer.name: layer for layer in model.layers}
    vector = keras.Model(model.input, named["vector_relu"].output)(inputs)
    weights = {name: layer.get_weights() for name, layer in named.items()}
    embedded = weights["class_embedding"][0][inputs["class"]]
    kernel, bias = weights["logits"]
    expected = vector @ kernel + bias + np.sum(embedded * vector, axis=-1, keepdims=True)
    np.testing.assert_allclose(model(inputs)["logits_0"], expected, atol=1e-5)


def test_the_coarser_scale_sees_the_mean_of_the_image():
    model = _build("patch", condition_channels=0)
    inputs = _inputs(model)
    checkers = tf.cast((tf.range(16)[:, None] + tf.range(24)) % 2 * 2 - 1, tf.float32)
    other = {"image": inputs["image"] + 0.1 * checkers[..., None]}
    before, after = model(inputs), model(other)
    moved = {
        n: np.std(after[f"features_{n}_0"] - before[f"features_{n}_0"])
        / np.std(before[f"features_{n}_0"])
        for n in (0, 1)
    }
    # A window of 9 voxels of a checkerboard has a mean of 1 / 9.
    assert moved[1] < 0.5 * moved[0]


@every_critic
def test_saved_critic_loads_equal(name, tmp_path):
    model = _build(name)
    inputs = _inputs(model)
    model(inputs, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    for key, values in model(inputs).items():
        np.testing.assert_array_equal(loaded(inputs)[key], values)


@every_critic
@every_shape
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_stay_float32_and_finite_under_mixed_precision(name, shape, policy):
    with dtype_policy(policy):
        model = _build(name, shape)
    exact = _build(name, shape)
    exact.set_weights(model.get_weights())
    inputs = _inputs(model)
    found, expected = model(inputs), exact(inputs)
    tolerance = {"mixed_float16": 0.02, "mixed_bfloat16": 0.2}[policy]
    for key, values in expected.items():
        assert found[key].dtype == tf.float32
        assert np.std(found[key] - values) < tolerance * np.std(values)
    assert any(layer.compute_dtype == policy.removeprefix("mixed_") for layer in model.layers)


def test_every_option_of_every_critic_is_tried_below():
    for name, entry in CRITICS.items():
        options = [key for key, option in options_of(entry).items() if option.keyword_only]
        assert options == list(OTHER[name])


@pytest.mark.parametrize(
    ("name", "option"), [(n, o) for n, values in OTHER.items() for o in values]
)
def test_every_option_changes_something(name, option):
    models = []
    for options in ({}, {option: OTHER[name][option]}):
        keras.utils.set_random_seed(0)
        models.append(_build(name, **options))
    shapes = [[w.shape for w in model.weights] for model in models]
    if shapes[0] != shapes[1]:
        return
    first, second = (model(_inputs(model))["logits_0"].numpy() for model in models)
    assert not np.allclose(first, second, rtol=1e-3)


@every_critic
def test_numbers_and_names_that_do_not_fit_are_refused(name):
    for option, value in OTHER[name].items():
        if isinstance(value, int) and not isinstance(value, bool):
            with pytest.raises(ConfigError, match=option):
                _build(name, **{option: -1})
    with pytest.raises(ConfigError, match="Known: instance, none"):
        _build(name, normalization="batch")
    with pytest.raises(ConfigError, match="Did you mean 'filters'"):
        _build(name, filtres=8)
    with pytest.raises(ConfigError, match=f"unknown critic '{name}e'. Did you mean '{name}'"):
        build_critic(f"{name}e", (16, 16, 1), 0)


def test_groups_and_classes_of_one_are_refused():
    with pytest.raises(ConfigError, match="one example has no deviation"):
        _build("global", minibatch_deviation=1)
    with pytest.raises(ConfigError, match="classes to be 0 or at least 2, got 1"):
        _build("global", classes=1)


UNDER_JAX = """
import json, sys
import keras, numpy as np
import segkit.layers
from segkit.models import build_critic
folder, shape, specs = json.loads(sys.argv[1])
errors = {"backend": keras.backend.backend(), "tensorflow": "tensorflow" in sys.modules}
for name, options in specs.items():
    model = build_critic(name, shape, 3, **options)
    model.load_weights(f"{folder}/{name}.weights.h5")
    inputs = dict(np.load(f"{folder}/{name} in.npz"))
    found = model.predict_on_batch(inputs)
    expected = np.load(f"{folder}/{name} out.npz")
    errors[name] = max(float(np.abs(found[key] - expected[key]).max()) for key in expected)
print(json.dumps(errors))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the package jax")
def test_every_critic_judges_alike_under_jax(tmp_path):
    for name in CRITICS:
        model = _build(name)
        inputs = {key: values.numpy() for key, values in _inputs(model, 2).items()}
        model.save_weights(tmp_path / f"{name}.weights.h5")
        np.savez(tmp_path / f"{name} in.npz", **inputs)
        np.savez(tmp_path / f"{name} out.npz", **model(inputs))
    errors = errors_under_jax(UNDER_JAX, [str(tmp_path), SHAPES["2-D"], SMALL])
    assert list(errors) == list(CRITICS)
    assert {name: error for name, error in errors.items() if error > 1e-4} == {}
