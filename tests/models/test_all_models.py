"""What every network of the table must do."""

import importlib.util
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import segkit.layers  # noqa: F401  (registers what .keras files name)
from segkit.errors import ConfigError
from segkit.losses import build_loss
from segkit.models import MODELS
from segkit.models import build_model
from tests.models.under_jax import errors_under_jax

FCN = ((64, 96, 2), {"width": 0.01, "fc_kernel": 3, "dropout": 0.0})
# A volume whose first axis is coarse: it is halved once, the others twice.
PLAN = {"features_per_stage": [8] * 3, "strides": [1, [1, 2, 2], 2], "n_conv_per_stage_decoder": 1}
SMALL = {
    "unet": ((16, 24, 2), {"filters": 8, "downsamplings": 2}),
    "unet3d": ((8, 8, 12, 1), {"filters": 8, "downsamplings": 2}),
    "unet2015": ((15, 22, 2), {"filters": 8, "downsamplings": 1, "dropout": 0.0}),
    "plain_unet": ((6, 8, 12, 1), PLAN),
    "resenc_unet": ((6, 8, 12, 1), {**PLAN, "n_blocks_per_stage": [1, 2, 1]}),
    "attention_unet": ((6, 8, 12, 1), PLAN),
    "unet_plus_plus": ((6, 8, 12, 1), PLAN),
    "vnet": ((4, 8, 12, 2), {"filters": 8, "convs_per_stage": [1, 2], "kernel_size": 3}),
    "mednext": ((3, 8, 12, 1), {"filters": 8, "strides": [1, [1, 2, 2]]}),
    "deeplabv3plus": (
        (32, 48, 2),
        {"filters": 16, "blocks": [1, 1, 1, 1], "rates": [1, 2], "pyramid_filters": 16},
    ),
    "dpn": ((8, 8, 12, 1), {"filters": 8, "downsamplings": 2}),
    "fcn32s": FCN,
    "fcn16s": FCN,
    "fcn8s": FCN,
    "convlstm_unet": ((3, 8, 12, 1), {"filters": 8, "downsamplings": 2}),
    "fusion_unet": ((16, 24, 2), {"filters": 8, "downsamplings": 2}),
}
CLASSES = 3
LOSS = build_loss("ce_dice")

# Mask R-CNN gives boxes instead of logits, on TensorFlow only: tests/models/mask_rcnn.
NAMES = [name for name in MODELS if name != "mask_rcnn"]
every_model = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def _build(name, **options):
    shape, small = SMALL[name]
    return build_model(name, CLASSES, shape, **{**small, **options})


def _batch(name, size=3):
    """Smooth images, and labels that follow from them."""
    shape, _ = SMALL[name]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size, *shape)).astype("float32")
    labels = np.digitize(images[..., 0], [-0.5, 0.5])
    return images, labels


@every_model
def test_model_gives_float32_logits_on_the_grid_of_the_image(name):
    model = _build(name)
    images, labels = _batch(name)
    logits = model(images)
    assert logits.shape == (*labels.shape, CLASSES)
    assert logits.dtype == tf.float32
    assert model.inputs[0].name == "image"
    assert model.layers[-1].name == "logits"
    assert model.name == name


@every_model
def test_model_takes_images_of_any_size_that_fits(name):
    shape, small = SMALL[name]
    model = build_model(name, CLASSES, (*[None] * (len(shape) - 1), shape[-1]), **small)
    images, labels = _batch(name, size=1)
    images, labels = np.concatenate([images] * 2, 1), np.concatenate([labels] * 2, 1)
    assert model(images).shape == (*labels.shape, CLASSES)


@every_model
@pytest.mark.parametrize("normalization", ["none", "group", "instance", "batch"])
def test_gradient_reaches_every_weight(name, normalization):
    if normalization in ("instance", "batch") and name.startswith("fcn"):
        with pytest.raises(ConfigError, match="Known: group, none"):
            _build(name, normalization=normalization)
        return
    model = _build(name, normalization=normalization)
    images, labels = _batch(name, size=4)
    with tf.GradientTape() as tape:
        loss = LOSS(labels, model(images, training=True))
    weights = model.trainable_variables
    running = [v for v in model.variables if "moving" in v.path]
    assert len(weights) == len(model.variables) - len(running)
    for weight, gradient in zip(
        weights, tape.gradient(loss, [w.value for w in weights]), strict=True
    ):
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient), weight.path


@every_model
def test_one_step_lowers_the_loss(name):
    model = _build(name)
    images, labels = _batch(name)
    weights = [w.value for w in model.trainable_variables]
    with tf.GradientTape() as tape:
        before = tf.reduce_mean(LOSS(labels, model(images, training=True)))
    for weight, gradient in zip(weights, tape.gradient(before, weights), strict=True):
        weight.assign_sub(1e-3 * gradient)
    after = tf.reduce_mean(LOSS(labels, model(images, training=True)))
    assert after < before


@every_model
def test_examples_do_not_see_each_other(name):
    model = _build(name)
    images, _ = _batch(name)
    alone = np.concatenate([model(images[i : i + 1], training=True) for i in range(3)])
    np.testing.assert_allclose(model(images, training=True), alone, atol=1e-4)


@every_model
def test_saved_model_loads_equal(name, tmp_path):
    model = _build(name)
    images, _ = _batch(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(images), model(images))


@every_model
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_stay_float32_under_mixed_precision(name, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = _build(name)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.outputs[0].dtype == "float32"
    assert model.layers[2].compute_dtype == policy.removeprefix("mixed_")
    if policy == "mixed_float16":
        assert np.isfinite(model(_batch(name)[0])).all()


UNDER_JAX = """
import json, sys
import keras, numpy as np
import segkit.layers
from segkit.models import build_model
# Every shape of a random kernel would be compiled by itself, and all of them are loaded over.
zeros = lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype)
keras.initializers.VarianceScaling.__call__ = zeros
folder, classes, specs = json.loads(sys.argv[1])
errors = {"backend": keras.backend.backend(), "tensorflow": "tensorflow" in sys.modules}
for name, (shape, options) in specs.items():
    model = build_model(name, classes, shape, **options)
    model.load_weights(f"{folder}/{name}.weights.h5")
    expected = np.load(f"{folder}/{name}.npz")
    logits = model.predict_on_batch(expected["images"])
    errors[name] = float(np.abs(logits - expected["logits"]).max())
print(json.dumps(errors))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the package jax")
def test_every_network_gives_the_same_logits_under_jax(tmp_path):
    for name in NAMES:
        model, (images, _) = _build(name), _batch(name, size=2)
        model.save_weights(tmp_path / f"{name}.weights.h5")
        np.savez(tmp_path / f"{name}.npz", images=images, logits=model(images))
    arguments = [str(tmp_path), CLASSES, {name: SMALL[name] for name in NAMES}]
    errors = errors_under_jax(UNDER_JAX, arguments)
    assert list(errors) == NAMES
    assert {name: error for name, error in errors.items() if error > 1e-4} == {}


def test_typos_are_answered_without_keras():
    code = (
        "import sys\n"
        "from segkit.errors import ConfigError\n"
        "from segkit.models import build_model\n"
        "import segkit.losses, segkit.metrics\n"
        "try:\n"
        "    build_model('unet', 2, (16, 16, 1), filtres=8)\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "print('keras' in sys.modules, 'tensorflow' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Did you mean 'filters'" in run.stdout
    assert "False False" in run.stdout
