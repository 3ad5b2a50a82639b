import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model
from segkit.models.vnet import vnet

ENCODER, DECODER = (1, 2, 3, 3, 3), (3, 3, 2, 1)  # the paper's figure 2, fine to coarse to fine


def _count(encoder, decoder, rank, *, norm=0, extra_prelu=0, head5=0):
    """Weights for one channel and two classes, every convolution with bias and PReLU."""

    def conv(kernel, inputs, outputs):
        return kernel**rank * inputs * outputs + (2 + 2 * norm) * outputs

    total = conv(5, 1, 16) + (encoder[0] - 1) * conv(5, 16, 16)
    for level in (1, 2, 3, 4):
        width = 16 * 2**level
        total += conv(2, width // 2, width) + encoder[level] * conv(5, width, width)
        total += extra_prelu * width
    inputs = 256
    for level, convs in zip((3, 2, 1, 0), decoder, strict=True):
        width = 16 * 2**level  # of the upsampled map, to which the skip of the same width is joined
        total += conv(2, inputs, width) + convs * conv(5, 2 * width, 2 * width)
        total += extra_prelu * 2 * width
        inputs = 2 * width
    if head5:
        return total + conv(5, 32, 2) + 2 * 2 + 2
    return total + 32 * 2 + 2


@pytest.mark.parametrize(("rank", "count"), [(3, 65_175_314), (2, 13_275_346)])
def test_vnet_weights_equal_the_count_by_hand(rank, count):
    with tf.Graph().as_default(), keras.StatelessScope():
        model = build_model("vnet", 2, (*[None] * rank, 1))
    assert model.count_params() == count == _count(ENCODER, DECODER, rank)


@pytest.mark.parametrize(("rank", "monai"), [(3, 45_603_070), (2, 9_363_902)])
def test_the_difference_to_monai_is_explained(rank, monai):
    # MONAI 1.6.1, VNet(rank, 1, 2, act="prelu", bias=True): fewer convolutions, batch
    # normalization, one more PReLU per residual stage, a head of kernel 5; no bias in the
    # convolutions of the decoder, 2 * 256 + 2 * 128 + 64 + 32.
    count = _count((1, 1, 2, 3, 2), (2, 2, 1, 1), rank, norm=1, extra_prelu=1, head5=1)
    assert count - (2 * 256 + 2 * 128 + 64 + 32) == monai


def test_receptive_fields_are_those_of_the_paper():
    # Table 1: left stages 1 to 5, right stages 4 to 1.
    expected = [5, 22, 72, 172, 372, 476, 528, 546, 551]
    with tf.Graph().as_default(), keras.StatelessScope():
        model = vnet(2, (None, None, None, 1))
    field, step, fields = 1, 1, []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv3DTranspose):
            step //= layer.strides[0]
            field += (layer.kernel_size[0] - 1) * step
        elif isinstance(layer, keras.layers.Conv3D):
            field += (layer.kernel_size[0] - 1) * step
            step *= layer.strides[0]
        elif layer.name.endswith("_add"):
            fields.append(field)
    assert fields == expected


def test_shapes_are_those_of_the_paper():
    with tf.Graph().as_default(), keras.StatelessScope():
        model = vnet(2, (128, 128, 64, 1))
    shape = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    assert shape["encoder0_add"] == (128, 128, 64, 16)
    assert shape["encoder1_add"] == (64, 64, 32, 32)
    assert shape["encoder4_add"] == (8, 8, 4, 256)
    assert shape["up3"] == (16, 16, 8, 128)
    assert shape["decoder3_add"] == (16, 16, 8, 256)
    assert shape["decoder0_add"] == (128, 128, 64, 32)


def test_strides_and_kernels_may_differ_between_axes():
    options = {"filters": 4, "convs_per_stage": [1, 1, 1], "kernel_size": [1, 3, 3]}
    model = vnet(2, (5, 16, 8, 1), strides=[1, [1, 2, 2], [1, 4, 2]], **options)
    assert model.get_layer("encoder2_add").output.shape[1:] == (5, 2, 2, 16)
    assert model.get_layer("down2").kernel.shape == (1, 4, 2, 8, 16)
    assert model.get_layer("up1").kernel.shape == (1, 4, 2, 8, 16)
    assert model.get_layer("encoder0_conv1").kernel.shape == (1, 3, 3, 1, 4)
    assert model(np.zeros((1, 5, 16, 8, 1))).shape == (1, 5, 16, 8, 2)


def test_the_first_stage_adds_the_image_with_its_channels_repeated():
    model = vnet(2, (4, 4, 2), filters=5, convs_per_stage=[1, 1], kernel_size=1)
    stage = keras.Model(model.input, model.get_layer("encoder0_add").output)
    model.get_layer("encoder0_conv1").set_weights([np.zeros((1, 1, 2, 5)), np.zeros(5)])
    images = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype("float32")
    np.testing.assert_array_equal(stage(images), images[..., [0, 1, 0, 1, 0]])


def test_prelu_has_one_slope_per_channel_a_quarter_at_first():
    model = vnet(2, (None, None, 1), filters=6, convs_per_stage=[1, 1])
    (slope,) = model.get_layer("encoder0_prelu1").get_weights()
    np.testing.assert_array_equal(slope, np.full((1, 1, 6), 0.25, "float32"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convs_per_stage": [3]}, "at least 2 stages.*got convs_per_stage .3."),
        ({"convs_per_stage": [1, 0]}, "at least 1 convolution each"),
        ({"strides": [1, 2]}, "one entry of strides per stage, 5 in all, got \\[1, 2\\]"),
        ({"strides": [2, 2, 2, 2, 2]}, "stride of 1 in the first stage, got 2"),
        ({"strides": [1, 2, 2, 2, [1, 2]]}, "one number per axis in strides, 3 in all"),
        ({"strides": [1, 2, 2, 2, 0]}, "numbers of at least 1 in strides, got 0"),
        ({"kernel_size": [3, 3]}, "one number per axis in kernel_size, 3 in all, got .3, 3."),
        ({"filters": 0}, "filters to be at least 1, got 0"),
    ],
)
def test_vnet_refuses_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        build_model("vnet", 2, (16, 16, 16, 1), **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 1), r"vnet needs input_shape \(height, width, channels\) or \(depth, height"),
        ((24, 32, 32, 1), "depth that is a multiple of 16, got 24. Pad it to 32"),
    ],
)
def test_vnet_refuses_shapes_and_says_what_fits(shape, message):
    with pytest.raises(ShapeError, match=message):
        build_model("vnet", 2, shape)
