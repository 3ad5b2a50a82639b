"""The network as a whole."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.losses import build_loss
from segkit.models import build_model
from segkit.models.mask_rcnn import garden
from segkit.models.mask_rcnn.backbones import feature_network
from segkit.models.mask_rcnn.pretrained import load_resnet
from tests.models.mask_rcnn.scenes import CLASSES
from tests.models.mask_rcnn.scenes import small_network


def terms(model, batch, **kwargs):
    found = build_loss("mask_rcnn").parts(None, model(batch, **kwargs))
    return {name: value.numpy() for name, value in found.items()}


def test_outputs_have_the_shapes_that_are_promised(network, batch):
    outputs = network(batch)
    shapes = {
        "proposals": (2, 24, 4),
        "boxes": (2, 10, 4),
        "scores": (2, 10),
        "classes": (2, 10),
        "masks": (2, 10, 28, 28),
        "object_boxes": (2, 8, 4),
        "anchor_logits": (2, 32),
        "class_logits": (2, 1, 16, CLASSES),
        "mask_logits": (2, 4, 28, 28),
    }
    assert {name: tuple(outputs[name].shape) for name in shapes} == shapes
    scores = outputs["scores"].numpy()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores > 0).any()
    boxes = outputs["boxes"].numpy()
    assert (boxes >= 0).all()
    assert (boxes <= 64).all()
    assert set(np.unique(outputs["classes"])) <= {0, 1, 2}
    assert outputs["masks"].numpy().max() <= 1
    in_training = network(batch, training=True)
    assert not {"boxes", "masks"} & set(in_training)
    assert set(in_training) >= {"proposals", "object_boxes"}


def test_number_of_weights(network):
    # 1 channel: stem 9 * 8 and its normalization 16; C2 of 8 filters, C3 of 16, each two
    # convolutions, a projection, and their normalizations.
    backbone = 9 * 8 + 16
    backbone += (9 * 8 * 8 + 16) * 2 + (8 * 8 + 16)
    backbone += (9 * 8 * 16 + 32) + (9 * 16 * 16 + 32) + (8 * 16 + 32)
    three = 9 * 8 * 8 + 8  # a convolution from 8 to 8 channels
    pyramid = (8 * 8 + 8) + (16 * 8 + 8) + 2 * (three + 16)
    proposal = three + (8 * 3 + 3) + (8 * 12 + 12)
    box = (49 * 8 * 16 + 16) + (16 * 16 + 16) + (16 * 3 + 3) + (16 * 4 + 4)
    mask = three + 16 + (4 * 8 * 8 + 8) + (8 * 2 + 2)
    assert network.count_params() == backbone + pyramid + proposal + box + mask
    cascade = small_network(cascade=True, class_agnostic_masks=True)
    assert cascade.count_params() == network.count_params() + 2 * box - (8 + 1)


def test_an_image_alone_gives_the_detections_of_the_batch(network, batch):
    expected, found = network(batch), network(batch["image"])
    assert set(found) == {"proposals", "boxes", "scores", "classes", "masks"}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_images_of_any_size_are_predicted_with_unknown_sides(network, batch):
    predict = tf.function(network, [tf.TensorSpec((None, None, None, 1))])
    image = batch["image"][:1, :41, :50]
    found, expected = predict(image), network(image)
    assert (found["boxes"].numpy() <= (41, 50, 41, 50)).all()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4)


def test_examples_do_not_see_each_other(network, batch):
    together = terms(network, batch, training=True)
    alone = [terms(network, {k: v[i : i + 1] for k, v in batch.items()}) for i in range(2)]
    for name, value in together.items():
        np.testing.assert_allclose(value, np.concatenate([a[name] for a in alone]), rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"cascade": True, "levels": [3, 6]}])
def test_gradient_reaches_every_weight(options, batch):
    model = small_network(**options, anchor_sides=[16.0], normalization="batch")
    weights = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(build_loss("mask_rcnn")(None, model(batch, training=True)))
    gradients = tape.gradient(loss, [w.value for w in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient), weight.path


def test_a_cascade_moves_regions_from_stage_to_stage(batch):
    outputs = small_network(cascade=True)(batch, training=True)
    assert outputs["class_logits"].shape == (2, 3, 16, CLASSES)
    positive = np.sum(outputs["class_targets"].numpy() > 0, axis=2)
    assert (positive[:, 0] > 0).all()
    assert (positive[:, 2] <= positive[:, 0]).all()
    assert not np.allclose(outputs["box_targets"][:, 0], outputs["box_targets"][:, 1])


def test_an_image_without_objects_trains_and_predicts(network, batch):
    empty = {**batch, "label": batch["label"] * 0, "instance": batch["instance"] * 0}
    found = terms(network, empty, training=True)
    assert all(np.isfinite(value).all() for value in found.values())
    assert not any(found[name].any() for name in ("rpn_box", "box", "mask"))
    assert (found["rpn_score"] > 0).all()
    assert (found["class"] > 0).all()


def test_objects_to_be_ignored_teach_nothing_about_themselves(network, batch):
    ignored = {**batch, "label": np.where(batch["label"] > 0, np.int32(CLASSES), 0)}
    outputs = network(ignored, training=True)
    assert not (outputs["anchor_kinds"].numpy() == garden.POSITIVE).any()
    assert not (outputs["class_targets"].numpy() > 0).any()
    assert np.asarray(outputs["object_crowd"]).sum() == (outputs["object_ids"].numpy() > 0).sum()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_saved_model_loads_equal(policy, batch, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_network(cascade=True)
    finally:
        keras.config.set_dtype_policy("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.pyramid.layers[1].compute_dtype == policy.removeprefix("mixed_")
    expected, found = model(batch), loaded(batch)
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert value.dtype in (tf.float32, tf.int32, tf.bool)
        np.testing.assert_array_equal(found[name], value)
    assert all(np.isfinite(value).all() for value in terms(model, batch, training=True).values())


@pytest.mark.slow
def test_a_resnet_with_weights_computes_what_the_original_does(tmp_path):
    source = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(64, 64, 3))
    rng = np.random.default_rng(0)
    for layer in source.layers:  # statistics that matter
        if layer.name.endswith("_bn"):
            shapes = [w.shape for w in layer.get_weights()]
            layer.set_weights([rng.uniform(0.5, 1.5, shape) for shape in shapes])
    source.save(tmp_path / "source.keras")
    image = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
    scaled = (image * np.array([0.229, 0.224, 0.225]) * 255)[..., ::-1]  # blue first, as it takes
    names = ["conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"]
    expected = keras.Model(source.input, [source.get_layer(n).output for n in names])(scaled)
    for normalization in ("none", "batch"):
        model = feature_network("resnet50", 3, normalization=normalization)
        load_resnet(model, "resnet50", str(tmp_path / "source.keras"), normalization)
        for ours, theirs in zip(model(image), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_give_features_at_each_stride(name):
    model = feature_network(name, 5, normalization="group", filters=8)
    shapes = [tuple(x.shape[1:]) for x in model(np.zeros((1, 64, 64, 5), np.float32))]
    wide = 4 if name == "resnet50" else 1
    assert shapes == [(64 // 2**n, 64 // 2**n, wide * 2 * 2**n) for n in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet5"}, "unknown backbone 'resnet5'. Did you mean 'resnet50'"),
        ({"levels": [4, 3]}, "levels to be the first and the last level"),
        ({"levels": [2]}, "levels to be the first and the last level"),
        ({"anchor_sides": [20.0, 10.0]}, "anchor_sides in rising order"),
        ({"anchor_aspects": [0.0]}, "anchor_aspects to be numbers above 0"),
        ({"detection_overlap": 0.3}, "detection_overlap to be at least 0.5"),
        ({"region_samples": 0}, "region_samples to be at least 1"),
        ({"proposals": 200, "candidates": 100}, "200 proposals among 100 candidates"),
        ({"detections": 200}, "200 detections in 128 proposals"),
        ({"weights": "imagenet"}, "weights for the backbones resnet50, resnet101 only"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build_model("mask_rcnn", 2, (64, 64, 1), **options)


def test_weights_that_are_not_there_are_refused():
    with pytest.raises(DataError, match="no file nowhere.h5 with the weights of ResNet50"):
        build_model("mask_rcnn", 2, (64, 64, 1), backbone="resnet50", weights="nowhere.h5")


def test_sides_that_do_not_fit_are_refused(network, batch):
    with pytest.raises(ShapeError, match="height that is a multiple of 32, got 60"):
        build_model("mask_rcnn", 2, (60, 64, 1))
    with pytest.raises(ShapeError, match="is 2-D"):
        build_model("mask_rcnn", 2, (32, 64, 64, 1))
    cut = {name: value[:, :60] for name, value in batch.items()}
    with pytest.raises(ShapeError, match="multiples of 32.*Nearest to 60: 32 or 64"):
        network(cut, training=True)


def test_without_model_garden_one_line_says_what_to_install(monkeypatch):
    garden.require.cache_clear()
    monkeypatch.setitem(sys.modules, "official.vision.ops", None)
    try:
        with pytest.raises(ConfigError, match=r'pip install "segkit\[maskrcnn\]"') as error:
            build_model("mask_rcnn", 2, (64, 64, 1))
        assert "\n" not in str(error.value)
    finally:
        garden.require.cache_clear()
