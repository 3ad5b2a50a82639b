from types import SimpleNamespace

import keras
import numpy as np
import pytest

from segkit.config import Component
from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.inference.features import network_of
from segkit.inference.features import of_intensities
from segkit.inference.features import of_network
from segkit.inference.features import of_random_convolutions
from segkit.metrics.random_features import random_features
from segkit.models import build_model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(40, 16, 16, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "options", "last", "size"),
    [
        ("unet", {"filters": 4, "downsamplings": 2}, "encoder2", 16),
        ("resenc_unet", {"features_per_stage": [4, 6]}, "encoder1", 6),
    ],
)
def test_features_are_the_mean_of_the_coarsest_map(images, name, options, last, size):
    if name == "resenc_unet":
        options = {**options, "n_blocks_per_stage": 1, "n_conv_per_stage_decoder": 1}
    model = build_model(name, 2, (16, 16, 1), **options)
    extractor = of_network(model, "runs/one")
    layer = extractor.name.removeprefix("runs/one, layer ")
    assert layer.startswith(last)
    found = extractor(images)
    network = keras.Model(model.input, model.get_layer(layer).output)
    expected = np.asarray(network(images)).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape == (40, size)


def test_the_layer_can_be_named_and_volumes_have_features(images):
    model = build_model("unet3d", 2, (8, 8, 8, 2), filters=4, downsamplings=1)
    volumes = np.random.default_rng(0).normal(size=(3, 8, 8, 8, 2)).astype(np.float32)
    extractor = of_network(model, "one", layer="logits")
    assert extractor.name == "one, layer logits"
    expected = np.asarray(model(volumes)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(extractor(volumes), expected, atol=1e-5)


def test_the_network_of_a_run_can_have_other_sides(images):
    options = {"filters": 4, "downsamplings": 1}
    model = build_model("unet", 3, (8, 24, 1), **options)
    config = SimpleNamespace(
        model=Component("unet", options),
        data=SimpleNamespace(patch_size=[8, 24]),
        pretext=None,
        task=None,
    )
    one = SimpleNamespace(model=model, config=config, outputs=SimpleNamespace(num_channels=3))
    assert network_of(one, (8, 24, 1)) is model
    other = network_of(one, (16, 16, 1))
    for weight, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert of_network(other, "one")(images).shape == (40, 8)
    with pytest.raises(ShapeError, match="unet"):
        network_of(one, (8, 8, 8, 1))


def test_random_features_do_not_depend_on_the_batch(images):
    found = of_random_convolutions()(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[35:], np.asarray(random_features(images[35:])), atol=1e-5)


def test_intensities_are_means_of_blocks():
    image = np.arange(64 * 33 * 2, dtype=np.float32).reshape(1, 64, 33, 2)
    found = of_intensities(2)(image)
    blocks = found.reshape(32, 17, 2)  # 33 columns in blocks of 2, the last one alone
    np.testing.assert_allclose(blocks[3, 5], image[0, 6:8, 10:12].mean(axis=(0, 1)))
    np.testing.assert_allclose(blocks[3, 16], image[0, 6:8, 32:].mean(axis=(0, 1)))
    small = np.arange(2 * 16**3, dtype=np.float32).reshape(2, 16, 16, 16, 1)
    np.testing.assert_array_equal(of_intensities(3)(small), small.reshape(2, -1))


def test_what_has_no_features_is_refused(images):
    model = build_model("unet", 2, (16, 16, 1), filters=4, downsamplings=1)
    with pytest.raises(ConfigError, match="no layer 'encoder9' .* Did you mean 'encoder"):
        of_network(model, "one", layer="encoder9")
    with pytest.raises(ShapeError, match=r"\[16, 16, 1\], got \[8, 16, 1\]"):
        of_network(model, "one")(images[:, :8])
    both = {"image": keras.Input((16, 16, 1)), "covariates": keras.Input((2,))}
    with pytest.raises(ConfigError, match="image, covariates"):
        of_network(keras.Model(both, both["image"]), "one")
    free = build_model("unet", 2, (None, None, 1), filters=4, downsamplings=1)
    with pytest.raises(ConfigError, match="sides that are known"):
        of_network(free, "one")
