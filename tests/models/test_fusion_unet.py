"""The fusion U-Net beyond what every network of the table must do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import segkit.layers  # noqa: F401  (registers what .keras files name)
from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model

SMALL = {"filters": 4, "downsamplings": 1, "convs_per_stage": 1}


def build(shape=(8, 8, 3), **options):
    keras.utils.set_random_seed(1)
    return build_model("fusion_unet", 2, shape, **{**SMALL, **options})


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_parameter_count_is_the_one_worked_out_by_hand():
    model = build(modalities=[1, 2], covariates=3, case_classes=5)
    # Encoders, without bias, with gamma and beta: 9*1*4 + 8 and 9*2*4 + 8, then twice 9*4*8 + 16.
    encoders = (36 + 8) + (72 + 8) + 2 * (288 + 16)
    fusion = 2 * (4 + 1) + 2 * (8 + 1)
    film = (3 * 64 + 64) + (64 * 16 + 16)
    decoder = (4 * 8 * 4 + 4) + (9 * 8 * 4 + 8) + (4 * 2 + 2)
    assert model.count_params() == encoders + fusion + film + decoder + (16 * 5 + 5)


def test_a_missing_modality_leaves_what_the_others_say():
    model = build(shape=(8, 8, 2))
    image = images(2, 8, 8, 2)
    image[..., 1] = 0
    before = np.array(model(image))
    for layer in model.layers:
        if layer.name.endswith(("_1_conv1", "_1_norm1")):
            layer.set_weights([7 * w + 1 for w in layer.get_weights()])
    np.testing.assert_array_equal(model(image), before)
    full = images(2, 8, 8, 2, seed=1)
    assert not np.allclose(model(full), model(full * [1, 0]), atol=1e-3)


def test_an_image_without_any_modality_gives_finite_logits():
    assert np.isfinite(build()(np.zeros((1, 8, 8, 3), np.float32))).all()


def test_modality_dropout_acts_in_training_only():
    model, image = build(modality_dropout=0.5), images(16, 8, 8, 3)
    plain = build()
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(model(image), plain(image), atol=1e-6)
    assert not np.allclose(model(image, training=True), plain(image, training=True), atol=1e-3)
    dropped = model.get_layer("modality_dropout")(image, training=True)
    assert 0 < (np.array(dropped) == 0).mean() < 0.6


def test_channels_of_one_modality_share_an_encoder():
    model = build(modalities=[1, 2])
    assert model.get_layer("encoder0_1_conv1").kernel.shape == (3, 3, 2, 4)
    image = images(1, 8, 8, 3)
    halved = image * [1, 1, 0]  # one channel of the second modality alone: it is there
    np.testing.assert_array_equal(model.get_layer("present")(halved), [[1, 1]])


def test_one_modality_needs_no_fusion():
    model = build(modalities=[3], modality_dropout=0.5)
    assert not [layer.name for layer in model.layers if "fusion" in layer.name]
    assert model(images(1, 8, 8, 3)).shape == (1, 8, 8, 2)


@pytest.mark.parametrize("shape", [(8, 8, 2), (4, 8, 8, 2)])
def test_covariates_and_case_classes_are_named_inputs_and_outputs(shape, tmp_path):
    model = build(shape=shape, covariates=3, case_classes=4)
    inputs = {"image": images(4, *shape), "covariates": images(4, 3)}
    outputs = model(inputs)
    assert list(outputs) == ["logits", "case_logits"]
    assert outputs["logits"].shape == (4, *shape[:-1], 2)
    assert outputs["case_logits"].shape == (4, 4)
    assert {x.dtype for x in outputs.values()} == {tf.float32}
    other = model({**inputs, "covariates": inputs["covariates"] + 1})
    for name in outputs:
        assert not np.allclose(outputs[name], other[name], atol=1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(inputs)["case_logits"], outputs["case_logits"])
    with tf.GradientTape() as tape:
        found = model(inputs, training=True)
        loss = sum(tf.reduce_mean(tf.square(x - 1)) for x in found.values())
    gradients = tape.gradient(loss, [w.value for w in model.trainable_variables])
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.any(gradient), weight.path


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modalities": [1, 1]}, ConfigError, "share out the 3 channels of the image, got .1, 1."),
        ({"modalities": [0, 3]}, ConfigError, "must be above 0 and add up to 3"),
        ({"modality_dropout": 1.0}, ConfigError, "modality_dropout to be at least 0 and below 1"),
        ({"covariates": -1}, ConfigError, "covariates to be at least 0"),
        ({"case_classes": 1}, ConfigError, "case_classes to be 0 or at least 2, got 1"),
        ({"filters": 0}, ConfigError, "filters to be at least 1"),
        ({"shape": (7, 8, 3)}, ShapeError, "Pad it to 8"),
        ({"shape": (8, 3)}, ShapeError, "Use a patch of 2 or 3 sides"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        build(**options)
