import itertools

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.models import build_model
from segkit.models import fcn
from segkit.models.vgg16 import load_vgg16

# 3 x 3 convolutions of VGG-16 for 3 channels, then fc6 (7 x 7) and fc7, all with bias.
VGG16 = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
TRUNK = sum(9 * i * o + o for i, o in itertools.pairwise(VGG16))
TRUNK += 49 * 512 * 4096 + 4096 + 4096 * 4096 + 4096
# 1 x 1 scores with bias, upsampling of factor f with a kernel 2f x 2f without.
FCN32S = TRUNK + (4096 * 21 + 21) + 64 * 64 * 21 * 21
FCN16S = TRUNK + (4096 * 21 + 21) + (512 * 21 + 21) + (4 * 4 + 32 * 32) * 21 * 21
FCN8S = TRUNK + (4096 * 21 + 21) + (512 * 21 + 21) + (256 * 21 + 21)
FCN8S += (4 * 4 + 4 * 4 + 16 * 16) * 21 * 21


@pytest.mark.parametrize(
    ("name", "count"), [("fcn32s", FCN32S), ("fcn16s", FCN16S), ("fcn8s", FCN8S)]
)
def test_fcn_weights_equal_the_count_by_hand(name, count):
    # Shapes only, inside a graph that never runs: half a gigabyte of weights is not drawn.
    with tf.Graph().as_default(), keras.StatelessScope():
        model = build_model(name, 21, (None, None, 3))
    assert model.count_params() == count


def test_fcn8s_count_is_the_published_one():
    assert FCN8S == 134_489_759


def test_width_rounds_filters_to_multiples_of_eight():
    model = build_model("fcn8s", 2, (32, 32, 1), width=0.3, fc_kernel=1)
    # 64 * .3 = 19.2 -> 16; 128 * .3 = 38.4 -> 40; 4096 * .3 = 1228.8 -> 1232.
    assert model.get_layer("conv1_1").filters == 16
    assert model.get_layer("conv2_1").filters == 40
    assert model.get_layer("fc6").filters == 1232


def test_score_of_a_uniform_image_is_uniform_away_from_the_border():
    # 256 pixels: the middle sees no zero padding through fc_kernel 1 at stride 32.
    model = build_model("fcn32s", 2, (512, 512, 1), width=0.01, fc_kernel=1, dropout=0.0)
    logits = np.array(model(np.ones((1, 512, 512, 1), "float32")))[0, 240:272, 240:272]
    np.testing.assert_allclose(logits, np.broadcast_to(logits[0, 0], logits.shape), rtol=1e-4)
    assert np.ptp(logits[0, 0]) > 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((60, 64, 3), "height that is a multiple of 32, got 60. Pad it to 64"),
        ((32, 32, 32, 1), "fcn16s is 2-D"),
    ],
)
def test_fcn_refuses_shapes_and_says_what_fits(shape, message):
    with pytest.raises(ShapeError, match=message):
        build_model("fcn16s", 2, shape)


def test_fcn_refuses_options_out_of_range():
    with pytest.raises(ConfigError, match="fc_kernel to be at least 1, got 0"):
        build_model("fcn8s", 2, (32, 32, 1), fc_kernel=0)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """VGG-16 with random weights and biases, without its dense layers, and the file it is in."""
    keras.utils.set_random_seed(0)
    model = keras.applications.VGG16(weights=None, include_top=False)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(size=bias.shape)])
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.weights.h5"
    model.save_weights(path)
    yield model, str(path)
    path.unlink()


@pytest.fixture
def _narrow(monkeypatch):
    """fc6 and fc7 of 16 filters: a hundred million weights fewer."""
    monkeypatch.setattr(fcn, "FC_FILTERS", 16)


def _standardised(rgb):
    """What the network takes: each colour less ImageNet's mean, over its standard deviation."""
    return (rgb - [123.68, 116.779, 103.939]) / (255 * np.array([0.229, 0.224, 0.225]))


def _photograph(*shape):
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


@pytest.mark.slow
@pytest.mark.usefixtures("_narrow")
def test_features_with_imagenet_weights_are_those_of_vgg16(vgg16):
    peer, path = vgg16
    rgb = _photograph(1, 64, 32, 3)
    model = build_model("fcn32s", 2, (64, 32, 3), fc_kernel=1, weights=path)
    features = keras.Model(model.input, model.get_layer("pool5").output)
    expected = np.array(peer(keras.applications.vgg16.preprocess_input(rgb.copy())))
    np.testing.assert_allclose(
        features(_standardised(rgb)), expected, rtol=1e-3, atol=1e-4 * expected.max()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("_narrow")
@pytest.mark.parametrize("channels", [1, 2])
def test_equal_channels_give_the_features_of_a_grey_image(vgg16, channels):
    _, path = vgg16
    grey = _photograph(1, 32, 32, 1) / 255

    def features(number):
        model = build_model("fcn8s", 2, (32, 32, number), fc_kernel=1, weights=path)
        layer = keras.Model(model.input, model.get_layer("conv1_1").output)
        return layer(np.repeat(grey, number, -1))

    np.testing.assert_allclose(features(channels), features(3), atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("_narrow")
def test_dense_layers_become_fc6_and_fc7(vgg16, tmp_path):
    trunk = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    trunk.set_weights(vgg16[0].get_weights())
    x = keras.layers.Flatten(name="flatten")(trunk.output)
    x = keras.layers.Dense(16, "relu", name="fc1")(x)
    x = keras.layers.Dense(16, "relu", name="fc2", bias_initializer="ones")(x)
    whole = keras.Model(trunk.input, x)
    whole.save(tmp_path / "vgg16.keras")
    model = build_model("fcn32s", 2, (224, 224, 3), weights=str(tmp_path / "vgg16.keras"))
    features = keras.Model(model.input, model.get_layer("fc7_relu").output)
    rgb = _photograph(1, 224, 224, 3)
    expected = np.array(whole(keras.applications.vgg16.preprocess_input(rgb.copy())))
    assert expected.any()
    # The middle of 7 x 7 features is where a kernel of 7 sees them all, as the dense layer does.
    result = features(_standardised(rgb))[:, 3, 3]
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.usefixtures("_narrow")
def test_weights_are_read_with_the_dense_layers_that_there_are(monkeypatch, tmp_path):
    asked = []

    def read(weights, include_top):
        asked.append((weights, include_top))
        raise Exception("URL fetch failure on https://...: None -- no route\nmore")

    monkeypatch.setattr(keras.applications, "VGG16", read)
    for fc_kernel in (7, 3):
        with pytest.raises(DataError, match=r"cannot fetch.*no route. Give the path of an .h5"):
            build_model("fcn8s", 2, (32, 32, 3), fc_kernel=fc_kernel, weights="imagenet")
    path = str(tmp_path / "whole.h5")
    with h5py.File(path, "w") as file:
        file["fc1/kernel"] = np.zeros((7 * 7 * 512, 1))  # what the first dense layer takes in
    with pytest.raises(DataError):
        build_model("fcn8s", 2, (32, 32, 3), weights=path)
    assert asked == [("imagenet", True), ("imagenet", False), (path, True)]


@pytest.mark.usefixtures("_narrow")
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path):
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    other.save(tmp_path / "other.keras")
    other.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    model = build_model("fcn8s", 2, (32, 32, 3), fc_kernel=1)
    for name, message in {
        "missing.h5": "no file .*missing.h5 with VGG-16's weights. Give the path",
        "other.keras": "other.keras does not hold VGG-16: conv1_1 needs block1_conv1",
        "other.weights.h5": "other.weights.h5 does not hold VGG-16: ",
        "broken.h5": "broken.h5 does not hold VGG-16: ",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            load_vgg16(model, str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"width": 0.5}, {"normalization": "group"}])
def test_weights_need_the_network_that_they_were_trained_in(options):
    with pytest.raises(ConfigError, match="needs width 1.0 and normalization none for VGG-16"):
        build_model("fcn8s", 2, (32, 32, 3), weights="imagenet", **options)
