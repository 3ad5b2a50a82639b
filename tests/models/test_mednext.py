import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model
from segkit.models.mednext import mednext
from segkit.models.mednext import upkern

SMALL = {"filters": 2, "strides": [1, 2]}

# MONAI 1.6.1, create_mednext(size, rank, 1, 2, kernel, deep_supervision). The paper's table 1, rank
# 3, in millions: S 5.6 and 5.9 (kernel 3 and 5), B 10.5 and 11.0, M 17.6 and 18.3, L 61.8 and 63.0.
MONAI = [
    ("S", 3, 3, True, 5_552_842),
    ("S", 2, 5, False, 5_542_146),
    ("B", 3, 5, False, 10_940_482),
    ("M", 3, 3, False, 17_533_506),
    pytest.param("L", 3, 5, False, 62_940_386, marks=pytest.mark.slow),
]
BLOCKS = {"S": (2, 2, 2, 2, 2), "B": (2, 2, 2, 2, 2), "M": (3, 4, 4, 4, 4), "L": (3, 4, 8, 8, 8)}


def _biases(size):
    """Biases of the depthwise convolutions, which the normalization removes: their channels."""
    *encoder, bottleneck = [32 * 2**i * n for i, n in enumerate(BLOCKS[size])]
    down, up = 32 + 64 + 128 + 256, 64 + 128 + 256 + 512
    return 2 * sum(encoder) + bottleneck + down + up


@pytest.mark.parametrize(("size", "rank", "kernel", "heads", "monai"), MONAI)
def test_weights_and_the_removed_biases_equal_monai(size, rank, kernel, heads, monai):
    options = {"size": size, "kernel_size": kernel, "deep_supervision": heads}
    with tf.Graph().as_default(), keras.StatelessScope():
        model = build_model("mednext", 2, (*[None] * rank, 1), **options)
    assert model.count_params() + _biases(size) == monai


def test_shapes_of_all_levels():
    options = {"filters": 4, "strides": [1, [1, 2, 2], 2], "deep_supervision": True}
    model = mednext(3, (6, 8, 12, 2), **options)
    assert list(model.output) == ["logits", "logits_1", "logits_2"]
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    assert shapes["stem"] == (6, 8, 12, 4)
    assert shapes["down1_depthwise"] == (6, 4, 6, 4)
    assert shapes["down1_compress"] == shapes["down1_residual"] == (6, 4, 6, 8)
    assert shapes["bottleneck2_block2_expand"] == (3, 2, 3, 32)
    assert shapes["up1_depthwise"] == (6, 4, 6, 16)
    assert shapes["up1_add"] == (6, 4, 6, 8)
    assert shapes["logits_2"] == (3, 2, 3, 3)
    assert shapes["logits_1"] == (6, 4, 6, 3)
    assert shapes["logits"] == (6, 8, 12, 3)


def test_a_block_equals_its_definition():
    # normalization "none": x + compress(gelu(expand(depthwise(x)))), a kernel of 1 x 1 throughout.
    model = mednext(2, (4, 4, 1), kernel_size=1, normalization="none", **SMALL)
    ends = ["encoder0_add1", "encoder0_add2"]
    block = keras.Model(model.input, [model.get_layer(n).output for n in ends])
    x, y = (np.array(v) for v in block(np.random.default_rng(0).normal(size=(1, 4, 4, 1))))
    parts = [f"encoder0_block2_{part}" for part in ("depthwise", "expand", "compress")]
    (d, d_bias), (e, e_bias), (c, c_bias) = (model.get_layer(n).get_weights() for n in parts)
    inner = (x * d[0, 0, 0] + d_bias) @ e[0, 0] + e_bias
    erf = tf.math.erf(inner / np.sqrt(2)).numpy()
    expected = x + (0.5 * inner * (1 + erf)) @ c[0, 0] + c_bias
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_upkern_of_three_weights_equals_the_interpolation_by_hand():
    # Centres of five cells over three: -0.2, 0.4, 1, 1.6, 2.2, held within 0 to 2.
    small = mednext(2, (None, None, 1), kernel_size=[3, 1], **SMALL)
    large = mednext(2, (None, None, 1), kernel_size=[5, 1], **SMALL)
    a, b, c = small.get_layer("down1_depthwise").kernel.numpy()
    upkern(large, small)
    expected = np.stack([a, 0.6 * a + 0.4 * b, b, 0.4 * b + 0.6 * c, c])
    np.testing.assert_allclose(large.get_layer("down1_depthwise").kernel, expected, atol=1e-6)


def test_upkern_takes_over_all_other_weights():
    small = mednext(2, (None, None, None, 1), **SMALL)
    large = mednext(2, (None, None, None, 1), kernel_size=5, **SMALL)
    upkern(large, small)
    for one, other in zip(small.weights, large.weights, strict=True):
        if one.shape == other.shape:
            np.testing.assert_allclose(one, other, err_msg=one.path, atol=1e-7)
        else:
            assert other.shape == (5, 5, 5, *one.shape[3:])


def test_upkern_of_a_constant_kernel_is_constant():
    small = mednext(2, (None, None, None, 1), **SMALL)
    large = mednext(2, (None, None, None, 1), kernel_size=[5, 3, 7], **SMALL)
    layer = small.get_layer("up0_depthwise")
    layer.set_weights([np.full(w.shape, 0.5) for w in layer.weights])
    upkern(large, small)
    kernel = large.get_layer("up0_depthwise").kernel
    np.testing.assert_allclose(kernel, np.full((5, 3, 7, 1, 4), 0.5), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "M"}, "same options but kernel_size"),
        ({"filters": 4}, r"cannot make weights of shape .1, 1, 1, 4. of .1, 1, 1, 2., in the"),
    ],
)
def test_upkern_refuses_networks_that_differ_otherwise(options, message):
    small = mednext(2, (None, None, 1), **SMALL)
    with pytest.raises(ShapeError, match=message):
        upkern(mednext(2, (None, None, 1), **{**SMALL, **options}), small)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "XL"}, "unknown size 'XL'.*Known: B, L, M, S"),
        ({"kernel_size": 4}, "odd numbers in kernel_size, got 4"),
        ({"strides": [1]}, "one entry of strides per stage, 2 to 5 in all, got \\[1\\]"),
        ({"strides": [1, ["2", 2]]}, "model.strides must be list.int"),
        ({"filters": 0}, "filters to be at least 1, got 0"),
    ],
)
def test_mednext_refuses_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        build_model("mednext", 2, (16, 16, 1), **options)


def test_mednext_names_the_size_that_fits():
    with pytest.raises(ShapeError, match="width that is a multiple of 8, got 20. Pad it to 24"):
        build_model("mednext", 2, (9, 8, 20, 1), strides=[1, [1, 2, 2], [3, 2, 2], [1, 2, 2]])
