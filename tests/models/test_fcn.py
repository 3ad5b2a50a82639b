import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model

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
