import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model


def test_unet_weights_equal_the_count_by_hand():
    # Each normalized convolution: kernel * in * out, then gamma and beta.
    encoder = 9 * 2 * 8 + 16 + 9 * 8 * 8 + 16
    encoder += 9 * 8 * 16 + 32 + 9 * 16 * 16 + 32
    encoder += 9 * 16 * 32 + 64 + 9 * 32 * 32 + 64
    # Upsampling 2 x 2 with bias; the first convolution sees the skip and the upsampled map.
    decoder = 4 * 32 * 16 + 16 + 9 * 32 * 16 + 32 + 9 * 16 * 16 + 32
    decoder += 4 * 16 * 8 + 8 + 9 * 16 * 8 + 16 + 9 * 8 * 8 + 16
    logits = 8 * 3 + 3
    model = build_model("unet", 3, (None, None, 2), filters=8, downsamplings=2)
    assert model.count_params() == encoder + decoder + logits


def test_unet3d_weights_equal_the_count_by_hand():
    # Filters 4, then 6 at most; one biased convolution per stage.
    encoder = 27 * 1 * 4 + 4 + 27 * 4 * 6 + 6 + 27 * 6 * 6 + 6
    decoder = 8 * 6 * 6 + 6 + 27 * 12 * 6 + 6 + 8 * 6 * 4 + 4 + 27 * 8 * 4 + 4
    logits = 4 * 2 + 2
    model = build_model(
        "unet3d",
        2,
        (8, 8, 8, 1),
        filters=4,
        downsamplings=2,
        convs_per_stage=1,
        max_filters=6,
        normalization="none",
    )
    assert model.count_params() == encoder + decoder + logits


def test_dropout_acts_in_training_only():
    model = build_model("unet", 2, (16, 16, 1), filters=8, downsamplings=1, dropout=0.5)
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 1)).astype("float32")
    np.testing.assert_array_equal(model(image), model(image))
    assert not np.array_equal(model(image, training=True), model(image, training=True))


def test_translation_by_a_whole_stride_moves_the_prediction_along():
    # Circular shifts keep the instance statistics; far from the border nothing else may change.
    model = build_model("unet", 2, (64, 64, 1), filters=8, downsamplings=1, convs_per_stage=1)
    image = np.zeros((1, 64, 64, 1), "float32")
    image[0, 28:33, 29:35] = np.random.default_rng(0).normal(size=(5, 6, 1))
    moved = np.roll(image, (2, -4), (1, 2))
    inside = slice(16, 48)
    expected = np.roll(model(image), (2, -4), (1, 2))[:, inside, inside]
    np.testing.assert_allclose(model(moved)[:, inside, inside], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("unet", (64, 100, 1), "width that is a multiple of 16, got 100. Pad it to 112"),
        ("unet3d", (7, 16, 16, 1), "depth that is a multiple of 8, got 7. Pad it to 8"),
        ("unet", (8, 64, 64, 1), "unet is 2-D and needs input_shape .height, width, channels"),
        ("unet3d", (64, 64, 1), "or a network for 2-D"),
        ("unet", (64, 64, None), r"got \(64, 64, None\)"),
        ("unet", (0, 64, 1), "got 0. Pad it to 16"),
    ],
)
def test_unet_refuses_shapes_and_says_what_fits(name, shape, message):
    with pytest.raises(ShapeError, match=message):
        build_model(name, 2, shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"normalization": "layer"},
            "unknown normalization 'layer'.*Known: batch, group, instance",
        ),
        ({"stochastic_depth": 0.1}, "needs residual: true for stochastic_depth, got false"),
        ({"residual": True, "convs_per_stage": 1}, "convs_per_stage to be at least 2, got 1"),
        ({"deep_supervision": True, "downsamplings": 1}, "downsamplings to be at least 2, got 1"),
        ({"spatial_dropout": -0.1}, "spatial_dropout to be at least 0 and below 1"),
        ({"normalization": "group", "filters": 12}, "multiple of 8, got 12"),
        ({"filters": 0}, "filters to be at least 1, got 0"),
        ({"downsamplings": -1}, "downsamplings to be at least 0, got -1"),
        ({"dropout": 1.0}, "at least 0 and below 1, got 1.0"),
        ({"filters": 1.5}, "model.filters must be int, got 1.5"),
    ],
)
def test_unet_refuses_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        build_model("unet", 2, (64, 64, 1), **options)


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="at least 2 classes, got 1. Count the background"):
        build_model("unet", 1, (64, 64, 1))


def test_deep_supervision_scores_every_stage_of_the_expanding_path():
    model = build_model("unet", 3, (64, 96, 1), filters=4, downsamplings=3, deep_supervision=True)
    outputs = model(np.zeros((2, 64, 96, 1), np.float32))
    shapes = {name: tuple(x.shape) for name, x in outputs.items()}
    assert list(shapes) == ["logits", "logits_1", "logits_2"]
    assert shapes["logits"] == (2, 64, 96, 3)
    assert shapes["logits_1"] == (2, 32, 48, 3)
    assert shapes["logits_2"] == (2, 16, 24, 3)
    assert {x.dtype for x in outputs.values()} == {tf.float32}
    # The heads are 1 x 1 convolutions on stages of 8 and 16 filters to 3 classes, with bias.
    plain = build_model("unet", 3, (64, 96, 1), filters=4, downsamplings=3)
    assert model.count_params() - plain.count_params() == (8 * 3 + 3) + (16 * 3 + 3)


def test_a_residual_network_has_the_same_weights_and_adds_a_stage_s_first_result():
    options = {"filters": 4, "downsamplings": 1, "normalization": "none"}
    plain = build_model("unet", 2, (16, 16, 1), **options)
    residual = build_model("unet", 2, (16, 16, 1), residual=True, **options)
    assert residual.count_params() == plain.count_params()
    images = np.random.default_rng(0).normal(size=(1, 16, 16, 1)).astype(np.float32)
    stage = keras.Model(
        residual.inputs,
        [residual.get_layer(f"encoder0_{n}").output for n in ("relu1", "conv2", "relu2")],
    )
    first, last, result = stage(images)
    added = np.float32(first) + last
    np.testing.assert_allclose(result, np.where(added > 0, added, 0.01 * added), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.5}, {"spatial_dropout": 0.5}, {"stochastic_depth": 0.5, "residual": True}],
)
def test_random_layers_act_in_training_only(options):
    model = build_model("unet", 2, (16, 16, 1), filters=8, downsamplings=1, **options)
    images = np.random.default_rng(0).normal(size=(16, 16, 16, 1)).astype(np.float32)
    np.testing.assert_array_equal(model(images), model(images))
    assert not np.array_equal(model(images, training=True), model(images, training=True))
