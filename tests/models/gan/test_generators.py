"""Weights of the generators, worked out by hand, and what their inputs do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.models import build_model
from segkit.models.gan.inpainter import GATED_SCALE

SPADE = {"filters": 4, "upsamplings": 1, "hidden": 2, "noise": 5}


def inputs_of(model, batch=2):
    rng = np.random.default_rng(0)
    return {
        name: tf.constant(rng.normal(size=(batch, *tensor.shape[1:])).astype(np.float32))
        for name, tensor in model.input.items()
    }


def spade(**options):
    keras.utils.set_random_seed(0)
    return build_model("spade", 3, (8, 8, 1), **{**SPADE, **options})


def labels(*classes):
    """Label maps of 8 x 8: of one class each, but for a square of the next class."""
    maps = np.zeros((len(classes), 8, 8), np.int32)
    for number, value in enumerate(classes):
        maps[number] = value
        maps[number, 2:5, 3:7] = (value + 1) % 3
    return tf.constant(maps)


def test_the_parameters_of_spade_are_those_worked_out_by_hand():
    def norm(channels):  # label and noise to hidden, hidden to scale and offset, kernel 3
        return 9 * 3 * 2 + 2 + 5 * 2 + 9 * 2 * 2 * channels + 2 * channels

    start = 5 * 4 * 4 * 8 + 4 * 4 * 8
    coarse = 2 * (norm(8) + 9 * 8 * 8 + 8)  # 8 to 8 channels: nothing beside
    beside = norm(8) + 8 * 4
    fine = norm(8) + 9 * 8 * 4 + 4 + norm(4) + 9 * 4 * 4 + 4
    made = 9 * 4 + 1
    assert spade(spectral_norm=False).count_params() == start + coarse + beside + fine + made
    # And a vector for each convolution of a block; and strength and seed of four noises.
    vectors = 8 + 8 + 4 + 4 + 4
    extra = spade().count_params() - spade(spectral_norm=False).count_params()
    assert extra == vectors
    noises = [w for w in spade(pixel_noise=True).trainable_weights if w.name == "strength"]
    assert len(noises) == 4


def test_an_image_follows_its_label_map():
    model = spade()
    noise = tf.constant(np.random.default_rng(0).normal(size=(1, 5)).astype(np.float32))
    made = [model({"label": labels(value), "noise": noise}).numpy() for value in range(3)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(made[first] - made[second]).max() > 0.1 * np.std(made[first])
    other = model({"label": labels(0), "noise": noise + 1.0})
    assert np.abs(other - made[0]).max() > 0.1 * np.std(made[0])


def test_noise_reaches_scale_and_offset_also_where_the_coarsest_map_is_alike_throughout():
    # A map that is alike throughout an image is 0 once it is normalized, whatever the noise.
    model = spade()
    start = model.get_layer("start")
    start.set_weights([np.zeros_like(w) for w in start.get_weights()])
    made = [model({"label": labels(0), "noise": tf.fill((1, 5), z)}).numpy() for z in (-1.0, 1.0)]
    assert np.abs(made[0] - made[1]).max() > 0.1 * np.std(made[0])


def test_a_permuted_label_map_gives_the_same_image_if_the_weights_are_permuted_alike():
    model, permuted = spade(), spade()
    new = np.array([2, 0, 1])  # class n is called new[n]
    for layer in permuted.layers:
        if layer.name.endswith("label_conv"):
            kernel, bias = layer.get_weights()
            moved = np.empty_like(kernel)
            moved[:, :, new] = kernel
            layer.set_weights([moved, bias])
    given = {"label": labels(0, 1), "noise": tf.ones((2, 5))}
    renamed = {**given, "label": tf.gather(new.astype(np.int32), given["label"])}
    expected = model(given)
    np.testing.assert_allclose(permuted(renamed), expected, atol=1e-5)
    assert not np.allclose(model(renamed), expected, atol=1e-2)


def test_a_single_voxel_reaches_the_coarsest_block():
    # Taking one voxel of four, as the paper does, would not see it.
    model = spade()
    first = next(m for m in model.layers if m.name == "block1_1_label_conv")
    seen = keras.Model(model.input["label"], first.output)
    small = np.zeros((1, 8, 8), np.int32)
    before = seen(tf.constant(small))
    small[0, 3, 3] = 1
    assert not np.allclose(seen(tf.constant(small)), before)


def test_a_label_that_is_no_class_belongs_to_none():
    model = spade()
    for layer in model.layers:
        if layer.name.endswith("label_conv"):
            layer.bias.assign(tf.zeros_like(layer.bias))
    unknown = tf.fill((1, 8, 8), 7)
    first = next(m for m in model.layers if m.name == "block1_1_label_conv")
    np.testing.assert_array_equal(keras.Model(model.input["label"], first.output)(unknown), 0)


def test_the_parameters_of_dcgan_are_those_worked_out_by_hand():
    # Radford et al. 2016, figure 1: 100 numbers, 4 x 4 x 1024, 512, 256, 128 channels and 3
    # channels of 64 x 64, here with kernel 4 and one convolution more after 64 channels.
    model = build_model("dcgan", 0, (64, 64, 3), filters=64, normalization="none")
    start = 101 * 4 * 4 * 1024
    ups = sum(16 * a * b + b for a, b in ((1024, 512), (512, 256), (256, 128), (128, 64)))
    assert model.count_params() == start + ups + 9 * 64 * 3 + 3
    # Normalized: scale and offset in place of biases, and of the start too.
    model = build_model("dcgan", 0, (64, 64, 3), filters=64, classes=7)
    normalized = start + 100 * 4 * 4 * 1024 + 2 * 1024 + ups + 512 + 256 + 128 + 64
    assert model.count_params() == normalized + 9 * 64 * 3 + 3 + 7 * 100


def test_the_parameters_of_style_are_those_worked_out_by_hand():
    model = build_model(
        "style",
        0,
        (8, 8, 2),
        filters=3,
        upsamplings=1,
        noise=5,
        style_size=7,
        mapping_layers=2,
        pixel_noise=False,
    )

    def styled(before, after, size):
        return size * before * after + after + 7 * before + before

    mapping = 5 * 7 + 7 + 7 * 7 + 7
    convs = styled(6, 6, 9) + styled(6, 3, 9) + styled(3, 3, 9)
    parts = styled(6, 2, 1) + styled(3, 2, 1)
    assert model.count_params() == mapping + 4 * 4 * 6 + convs + parts


def test_without_noise_per_voxel_style_depends_on_the_size_of_the_noise_no_more():
    model = build_model("style", 0, (8, 8, 1), filters=4, upsamplings=1, noise=5, style_size=6)
    inputs = inputs_of(model)
    made = model(inputs)
    np.testing.assert_allclose(model({"noise": 3 * inputs["noise"]}), made, rtol=1e-3, atol=1e-4)
    assert not np.allclose(model({"noise": -inputs["noise"]}), made, rtol=1e-2)


def test_the_translator_of_cyclegan_has_its_weights():
    # "11.378 M" in the log of junyanz/pytorch-CycleGAN-and-pix2pix, ResNet with 9 blocks: kernels
    # and biases of 64, 128, 256, 9 blocks twice 256, 128, 64 and 3 filters.
    kernels = 49 * 3 * 64 + 9 * (64 * 128 + 128 * 256) * 2 + 18 * 9 * 256 * 256 + 49 * 64 * 3
    filters = 64 + 128 + 256 + 18 * 256 + 128 + 64
    assert kernels + filters + 3 == 11378179
    # Scale and offset here in place of the biases that the normalization removes.
    model = build_model("translator", 0, (32, 32, 3))
    assert model.count_params() == kernels + 2 * filters + 3
    model = build_model("translator", 0, (32, 32, 3), normalization="none")
    assert model.count_params() == 11378179


def test_the_inpainter_does_not_see_what_is_in_holes():
    for convolution in ("gated", "partial"):
        model = build_model(
            "inpainter", 0, (8, 8, 1), filters=4, downsamplings=1, convolution=convolution
        )
        inputs = inputs_of(model)
        mask = tf.cast(inputs["mask"] > 0.5, tf.float32)
        assert 0 < np.mean(mask) < 1
        made = model({**inputs, "mask": mask})
        dirty = inputs["image"] * (1 - mask) + 100 * mask
        np.testing.assert_array_equal(model({"image": dirty, "mask": mask}), made)
        assert not np.allclose(model({**inputs, "mask": 0 * mask}), made)
        # A hole of a value that an image may have is not taken for that value.
        filled = {"image": inputs["image"] * (1 - mask), "mask": 0 * mask}
        assert not np.allclose(model(filled), made)


def test_gated_convolutions_keep_the_mean_square_of_features():
    rng = np.random.default_rng(0)
    features, gates = rng.normal(0, np.sqrt(GATED_SCALE), (2, 10**6))
    passed = np.where(features > 0, features, np.expm1(np.minimum(features, 0)))
    passed = passed / (1 + np.exp(-gates))
    assert np.mean(passed**2) == pytest.approx(1, abs=0.02)


def test_the_restorer_adds_a_correction_that_is_0_at_first():
    model = build_model("restorer", 0, (8, 8, 2), filters=4, downsamplings=1)
    inputs = inputs_of(model)
    np.testing.assert_array_equal(model(inputs), inputs["image"])
    layer = model.get_layer("correction")
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel + 1, bias])
    once = model(inputs) - inputs["image"]
    layer.set_weights([kernel + 2, bias])
    assert np.abs(once).max() > 0.1
    np.testing.assert_allclose(model(inputs) - inputs["image"], 2 * once, atol=1e-5)
