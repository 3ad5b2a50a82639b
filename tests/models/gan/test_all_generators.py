"""What every generator of the table must do."""

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
from segkit.models import GENERATORS
from segkit.models import MODELS
from segkit.models import build_model
from segkit.tables import options_of
from tests.models.under_jax import errors_under_jax

CLASSES = 3
SHAPES = {"2-D": (8, 12, 2), "3-D": (4, 8, 12, 1)}
SMALL = {
    "spade": {"filters": 4, "upsamplings": 2, "hidden": 4, "noise": 5},
    "dcgan": {"filters": 8, "upsamplings": 2, "noise": 5, "classes": 3},
    "style": {
        "filters": 4,
        "upsamplings": 2,
        "noise": 5,
        "classes": 3,
        "mapping_layers": 2,
        "style_size": 6,
    },
    "inpainter": {"filters": 8, "downsamplings": 2},
    "restorer": {"filters": 8, "downsamplings": 2},
    "translator": {"filters": 8, "downsamplings": 1, "blocks": 1},
}
# Every option, with a value other than that of SMALL or the default.
OTHER = {
    "spade": {
        "filters": 5,
        "max_filters": 4,
        "upsamplings": 1,
        "hidden": 3,
        "noise": 4,
        "spectral_norm": False,
        "pixel_noise": True,
    },
    "dcgan": {
        "filters": 16,
        "max_filters": 8,
        "upsamplings": 1,
        "noise": 4,
        "classes": 0,
        "normalization": "none",
    },
    "style": {
        "filters": 5,
        "max_filters": 4,
        "upsamplings": 1,
        "noise": 4,
        "classes": 0,
        "mapping_layers": 1,
        "style_size": 5,
        "pixel_noise": False,
    },
    "inpainter": {
        "filters": 4,
        "max_filters": 8,
        "downsamplings": 1,
        "convs_per_stage": 1,
        "convolution": "partial",
        "normalization": "instance",
    },
    "restorer": {
        "filters": 4,
        "max_filters": 8,
        "downsamplings": 1,
        "convs_per_stage": 3,
        "normalization": "instance",
    },
    "translator": {
        "filters": 4,
        "max_filters": 8,
        "downsamplings": 0,
        "blocks": 2,
        "normalization": "group",
    },
}
# Beside those of SMALL: what runs through other layers.
VARIANTS = [
    ("inpainter", {"convolution": "partial"}),
    ("inpainter", {"normalization": "instance"}),
    ("inpainter", {"convolution": "partial", "normalization": "instance"}),
    ("restorer", {"normalization": "batch"}),
    ("spade", {"spectral_norm": False, "pixel_noise": True}),
    ("dcgan", {"normalization": "none"}),
]
CASES = [*((name, {}) for name in GENERATORS), *VARIANTS]

every_generator = pytest.mark.parametrize("name", GENERATORS)
every_case = pytest.mark.parametrize(("name", "options"), CASES)
every_network = pytest.mark.parametrize(
    ("name", "options", "shape"),
    [(*case, SHAPES["2-D"]) for case in CASES]
    + [(name, {}, SHAPES["3-D"]) for name in GENERATORS]
    + [("inpainter", {"convolution": "partial"}, SHAPES["3-D"])],
)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def _build(name, shape=SHAPES["2-D"], **options):
    model = build_model(name, CLASSES, shape, **{**SMALL[name], **options})
    if name == "restorer":  # its correction is 0 before training, and would hide the rest
        correction = model.get_layer("correction")
        correction.kernel.assign(keras.initializers.GlorotUniform(0)(correction.kernel.shape))
    return model


def _inputs(model, batch=4):
    """Noise, labels of all classes, and masks with holes, as the generator asks for them."""
    rng, drawn = np.random.default_rng(0), {}
    for name, tensor in model.input.items():
        shape = (batch, *tensor.shape[1:])
        if tensor.dtype == "int32":
            drawn[name] = rng.integers(0, CLASSES, shape).astype(np.int32)
        elif name == "mask":
            drawn[name] = (rng.random(shape) < 0.3).astype(np.float32)
        else:
            drawn[name] = rng.normal(size=shape).astype(np.float32)
    return {name: tf.constant(values) for name, values in drawn.items()}


@every_network
def test_generator_gives_a_float32_image_of_the_shape_asked_for(name, options, shape):
    model = _build(name, shape, **options)
    made = model(_inputs(model))
    assert made.shape == (4, *shape)
    assert made.dtype == tf.float32
    assert model.name == name
    assert 1e-3 < np.std(made) < 50


@every_generator
def test_inputs_are_named_as_documented(name):
    expected = {
        "spade": {"label": ("int32", (None, 8, 12)), "noise": ("float32", (None, 5))},
        "inpainter": {
            "image": ("float32", (None, 8, 12, 2)),
            "mask": ("float32", (None, 8, 12, 1)),
        },
        "restorer": {"image": ("float32", (None, 8, 12, 2))},
        "translator": {"image": ("float32", (None, 8, 12, 2))},
    }
    noise = {"noise": ("float32", (None, 5)), "class": ("int32", (None,))}
    model = _build(name)
    found = {key: (tensor.dtype, tensor.shape) for key, tensor in model.input.items()}
    assert found == expected.get(name, noise)
    assert {tensor.name for tensor in model.inputs} == set(found)
    if "noise" in found:
        assert model.input["noise"].shape[-1] == 5


@pytest.mark.parametrize("name", ["inpainter", "restorer", "translator"])
def test_a_generator_from_images_takes_any_size_that_fits(name):
    model, fixed = _build(name, (None, None, 2)), _build(name)
    model.set_weights(fixed.get_weights())
    inputs = _inputs(fixed)
    np.testing.assert_allclose(model(inputs), fixed(inputs), atol=1e-5)
    wider = {key: tf.concat([values] * 2, axis=1) for key, values in inputs.items()}
    assert model(wider).shape == (4, 16, 12, 2)


@pytest.mark.parametrize("name", ["spade", "dcgan", "style"])
def test_a_generator_from_noise_needs_to_know_the_size(name):
    with pytest.raises(ShapeError, match="needs all sides, got \\(None, 12, 2\\)"):
        _build(name, (None, 12, 2))


@every_generator
def test_a_side_that_does_not_fit_is_refused_with_one_that_does(name):
    halvings = SMALL[name].get("upsamplings", SMALL[name].get("downsamplings"))
    with pytest.raises(ShapeError, match=f"multiple of {2**halvings}, got 13. Pad it to"):
        _build(name, (8, 13, 1))
    with pytest.raises(ShapeError, match="Use a patch of 2 or 3 sides"):
        _build(name, (8, 1))


@every_network
def test_gradient_reaches_every_weight(name, options, shape):
    model = _build(name, shape, **options)
    inputs, keys = _inputs(model), tf.ones((4, 2), tf.uint32)
    weights = model.trainable_variables
    with step_context(keys), tf.GradientTape() as tape:
        made = model(inputs, training=True)
        # Not a mean: that is blind to what a normalization takes away.
        loss = tf.reduce_sum(made * tf.random.stateless_normal(made.shape, (0, 1)))
    for weight, gradient in zip(
        weights, tape.gradient(loss, [w.value for w in weights]), strict=True
    ):
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient), weight.path


@every_case
def test_examples_do_not_see_each_other(name, options):
    # Batch normalization takes groups of two, which do not see each other either.
    group = 2 if options.get("normalization") == "batch" else 1
    model = _build(name, **options)
    inputs, keys = _inputs(model), np.arange(8, dtype=np.uint32).reshape(4, 2)

    def make(part):
        with step_context(tf.constant(keys[part])):
            return model({key: values[part] for key, values in inputs.items()}, training=True)

    alone = np.concatenate([make(slice(n, n + group)) for n in range(0, 4, group)])
    np.testing.assert_allclose(make(slice(4)), alone, atol=1e-5)


@every_case
def test_saved_generator_loads_equal(name, options, tmp_path):
    model = _build(name, **options)
    inputs = _inputs(model)
    model(inputs, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert set(loaded.input) == set(model.input)


@every_network
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_images_stay_float32_and_finite_under_mixed_precision(name, options, shape, policy):
    with dtype_policy(policy):
        model = _build(name, shape, **options)
    exact = _build(name, shape, **options)
    exact.set_weights(model.get_weights())
    inputs = _inputs(model)
    with step_context(tf.ones((4, 2), tf.uint32)):
        made, expected = model(inputs), exact(inputs)
    assert made.dtype == tf.float32
    tolerance = {"mixed_float16": 0.02, "mixed_bfloat16": 0.2}[policy]
    assert np.std(made - expected) < tolerance * np.std(expected)
    assert any(layer.compute_dtype == policy.removeprefix("mixed_") for layer in model.layers)


def test_every_option_of_every_generator_is_tried_below():
    for name, entry in GENERATORS.items():
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
    first, second = (model(_inputs(model)).numpy() for model in models)
    assert not np.allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize("name", ["dcgan", "style"])
def test_the_class_and_the_noise_change_the_image(name):
    model = _build(name)
    inputs = _inputs(model, 2)
    made = model(inputs)
    for key, other in {"class": [1, 1], "noise": tf.zeros((2, 5))}.items():
        changed = model({**inputs, key: tf.constant(other)})
        assert not np.allclose(changed[0], made[0], rtol=1e-3), key
    assert inputs["class"][0] != 1


@every_generator
def test_numbers_that_are_too_small_are_refused(name):
    for option, value in OTHER[name].items():
        if isinstance(value, int) and not isinstance(value, bool):
            with pytest.raises(ConfigError, match=option):
                _build(name, **{option: -1})
    with pytest.raises(ConfigError, match="Did you mean 'filters'"):
        _build(name, filtres=8)


@pytest.mark.parametrize("name", ["dcgan", "style"])
def test_a_single_class_is_refused(name):
    with pytest.raises(ConfigError, match="classes to be 0 or at least 2, got 1"):
        _build(name, classes=1)


def test_names_of_generators_and_networks_are_one_space():
    assert not set(GENERATORS) & set(MODELS)
    with pytest.raises(ConfigError, match="unknown model 'spad'. Did you mean 'spade'"):
        build_model("spad", 2, (8, 8, 1))


UNDER_JAX = """
import json, sys
import keras, numpy as np
import segkit.layers
from segkit.models import build_model
folder, classes, specs = json.loads(sys.argv[1])
errors = {"backend": keras.backend.backend(), "tensorflow": "tensorflow" in sys.modules}
for name, (shape, options) in specs.items():
    model = build_model(name.partition(" ")[0], classes, shape, **options)
    model.load_weights(f"{folder}/{name}.weights.h5")
    stored = dict(np.load(f"{folder}/{name}.npz"))
    expected = stored.pop("made")
    errors[name] = float(np.abs(model.predict_on_batch(stored) - expected).max())
print(json.dumps(errors))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the package jax")
def test_every_generator_makes_the_same_under_jax(tmp_path):
    specs = {name: (SHAPES["2-D"], options) for name, options in SMALL.items()}
    specs["inpainter partial"] = (*specs["inpainter"][:1], {"convolution": "partial"})
    specs["inpainter partial"][1].update(SMALL["inpainter"])
    for name, (shape, options) in specs.items():
        model = build_model(name.partition(" ")[0], CLASSES, shape, **options)
        inputs = {key: values.numpy() for key, values in _inputs(model, 2).items()}
        model.save_weights(tmp_path / f"{name}.weights.h5")
        np.savez(tmp_path / f"{name}.npz", made=model(inputs), **inputs)
    errors = errors_under_jax(UNDER_JAX, [str(tmp_path), CLASSES, specs])
    assert list(errors) == list(specs)
    assert {name: error for name, error in errors.items() if error > 1e-4} == {}
