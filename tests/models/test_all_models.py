"""What every network of the table must do."""

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

FCN = ((64, 96, 2), {"width": 0.01, "fc_kernel": 3, "dropout": 0.0})
SMALL = {
    "unet": ((16, 24, 2), {"filters": 8, "downsamplings": 2}),
    "unet3d": ((8, 8, 12, 1), {"filters": 8, "downsamplings": 2}),
    "fcn32s": FCN,
    "fcn16s": FCN,
    "fcn8s": FCN,
    "fusion_unet": ((16, 24, 2), {"filters": 8, "downsamplings": 2}),
}
CLASSES = 3
LOSS = build_loss("ce_dice")

every_model = pytest.mark.parametrize("name", MODELS)


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
