import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model

SMALL = {"filters": 16, "blocks": [1, 1, 1, 1], "pyramid_filters": 16}


def _conv(kernel, inputs, outputs):
    return kernel * inputs * outputs + 2 * outputs  # gamma and beta


def test_weights_equal_the_count_by_hand():
    count = _conv(9, 3, 32) + _conv(9, 32, 64)
    count += 4 * _conv(9, 64, 64)
    for width in (128, 256, 512):
        count += _conv(9, width // 2, width) + 3 * _conv(9, width, width)
        count += _conv(1, width // 2, width)
    # The pyramid: a point, three dilations, the mean (bias, no normalization), their joint.
    count += _conv(1, 512, 256) + 3 * _conv(9, 512, 256) + (512 * 256 + 256)
    count += _conv(1, 5 * 256, 256)
    count += _conv(1, 64, 48) + _conv(9, 256 + 48, 256) + _conv(9, 256, 256) + 256 * 21 + 21
    for output_stride in (16, 8):
        with tf.Graph().as_default(), keras.StatelessScope():
            model = build_model("deeplabv3plus", 21, (None, None, 3), output_stride=output_stride)
        assert model.count_params() == count == 16_617_877


@pytest.mark.parametrize(
    ("output_stride", "dilations", "pyramid"),
    [(16, (1, 1, 1, 2), (6, 12, 18)), (8, (1, 1, 2, 4), (12, 24, 36))],
)
def test_dilations_take_the_place_of_strides(output_stride, dilations, pyramid):
    with tf.Graph().as_default(), keras.StatelessScope():
        model = build_model("deeplabv3plus", 2, (64, 96, 1), output_stride=output_stride)
    for stage, dilation in enumerate(dilations, start=1):
        assert model.get_layer(f"stage{stage}_block2_conv1").dilation_rate == (dilation, dilation)
    for rate in pyramid:
        assert model.get_layer(f"pyramid_rate{rate}").dilation_rate == (rate, rate)
    side = (64 // output_stride, 96 // output_stride)
    assert model.get_layer("stage4_block2_add").output.shape[1:-1] == side
    assert model.get_layer("pyramid").output.shape[1:] == (*side, 5 * 256)
    assert model.get_layer("stage1_block2_add").output.shape[1:] == (16, 24, 64)
    assert model.get_layer("decoder").output.shape[1:] == (16, 24, 256 + 48)
    assert model.output.shape[1:] == (64, 96, 2)


def test_in_3d_the_logits_have_the_grid_of_the_image():
    model = build_model("deeplabv3plus", 2, (8, 16, 24, 1), output_stride=8, rates=[1], **SMALL)
    assert model(np.zeros((1, 8, 16, 24, 1))).shape == (1, 8, 16, 24, 2)
    assert model.get_layer("stage4_block1_add").output.shape[1:] == (1, 2, 3, 128)


def test_the_mean_over_the_image_reaches_every_pixel():
    # Without the dilated branches two far corners meet in the mean alone.
    model = build_model("deeplabv3plus", 2, (256, 256, 1), normalization="none", rates=[1], **SMALL)
    image = np.zeros((1, 256, 256, 1), "float32")
    changed = image.copy()
    changed[0, -8:, -8:] = 1.0
    assert not np.allclose(model(image)[0, 0, 0], model(changed)[0, 0, 0], atol=1e-7)
    model.get_layer("pyramid_image").set_weights([np.zeros((1, 1, 128, 16)), np.zeros(16)])
    np.testing.assert_array_equal(model(image)[0, 0, 0], model(changed)[0, 0, 0])


def test_scores_are_interpolated_linearly():
    model = build_model("deeplabv3plus", 2, (32, 48, 1), rates=[1], **SMALL)
    image = np.random.default_rng(0).normal(size=(1, 32, 48, 1)).astype("float32")
    scores = keras.Model(model.input, model.get_layer("scores").output)(image)
    expected = tf.image.resize(scores, (32, 48), "bilinear")
    np.testing.assert_allclose(model(image), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 32}, "output_stride of 16 or 8, got 32"),
        ({"blocks": [2, 2]}, "blocks of four stages, at least 1 each"),
        ({"rates": []}, "rates of at least 1, one or more, got"),
        ({"pyramid_filters": 40}, "pyramid_filters to be a multiple of 16, got 40"),
        ({"filters": 7}, "even number of filters, got 7"),
        ({"filters": 8}, "multiple of 8, got 4"),
    ],
)
def test_deeplab_refuses_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        build_model("deeplabv3plus", 2, (64, 64, 1), **options)


def test_deeplab_names_the_size_that_fits():
    with pytest.raises(ShapeError, match="height that is a multiple of 16, got 40. Pad it to 48"):
        build_model("deeplabv3plus", 2, (40, 64, 1))
