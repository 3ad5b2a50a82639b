"""`plain_unet` and `resenc_unet` against nnU-Net's own networks.

Numbers of weights and outputs were computed with dynamic-network-architectures 0.4.4 on torch
2.13.0: `PlainConvUNet` and `ResidualEncoderUNet` with `conv_bias=True`, affine instance
normalization (eps 1e-5), LeakyReLU and `deep_supervision=True`.
"""

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.models import build_model


def strides(*coarser, rank=3):
    return [[1] * rank, *map(list, coarser)]


# Topologies of nnU-Net 2.8.1 for patches at some spacings, with a quarter of the filters.
PLANS = {
    "1 mm, 128^3": {
        "features_per_stage": [8, 16, 32, 64, 80, 80],
        "strides": strides(*[[2, 2, 2]] * 5),
        "kernel_sizes": [[3, 3, 3]] * 6,
    },
    "3 x 0.8 x 0.8 mm, 64 x 192 x 192": {
        "features_per_stage": [8, 16, 32, 64, 80, 80],
        "strides": strides([1, 2, 2], *[[2, 2, 2]] * 4),
        "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * 5],
    },
    "10 x 1.5 x 1.5 mm, 20 x 256 x 224": {
        "features_per_stage": [8, 16, 32, 64, 80, 80],
        "strides": strides([1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]),
        "kernel_sizes": [*[[1, 3, 3]] * 2, *[[3, 3, 3]] * 4],
    },
    "0.8 mm, 512 x 512": {
        "features_per_stage": [8, 16, 32, 64, 128, 128, 128, 128],
        "strides": strides(*[[2, 2]] * 7, rank=2),
        "kernel_sizes": [[3, 3]] * 8,
    },
}
UNEVEN = {
    "features_per_stage": [8, 12, 20, 24],
    "strides": strides([1, 2, 2], [2, 2, 2], [2, 1, 2]),
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 1, 5], [3, 3, 3]],
    "n_conv_per_stage_decoder": [3, 1, 2],
}


@pytest.mark.parametrize(
    ("plan", "plain", "resenc"),
    [
        ("1 mm, 128^3", 1_952_711, 6_405_319),
        ("3 x 0.8 x 0.8 mm, 64 x 192 x 192", 1_947_447, 6_400_055),
        ("10 x 1.5 x 1.5 mm, 20 x 256 x 224", 1_899_063, 6_337_847),
        ("0.8 mm, 512 x 512", 2_902_109, 8_770_669),
    ],
)
def test_weights_are_as_many_as_nnunet_has_for_the_same_plan(plan, plain, resenc):
    shape = (*[None] * len(PLANS[plan]["strides"][0]), 1)
    for name, count in (("plain_unet", plain), ("resenc_unet", resenc)):
        model = build_model(name, 3, shape, deep_supervision=True, **PLANS[plan])
        assert model.count_params() == count


def test_stages_may_differ_in_their_number_of_convolutions():
    shared = {"input_shape": (None, None, None, 2), "deep_supervision": True}
    plain = build_model("plain_unet", 4, n_conv_per_stage=[1, 2, 3, 1], **shared, **UNEVEN)
    resenc = build_model("resenc_unet", 4, n_blocks_per_stage=[1, 2, 3, 1], **shared, **UNEVEN)
    assert plain.count_params() == 73_736
    assert resenc.count_params() == 117_516


def test_plain_unet_is_by_default_nnunet_for_a_patch_of_128():
    model = build_model("plain_unet", 3, (128, 128, 128, 1))
    # The reference makes a head per stage of the decoder, used or not: filters 320, 256, 128, 64
    # to 3 classes, with bias.
    assert model.count_params() == 31_196_399 - 3 * (320 + 256 + 128 + 64) - 3 * 4


@pytest.mark.slow
def test_the_preset_has_the_weights_of_nnunet_s_planner():
    model = build_model("resenc_unet", 3, (None, None, None, 1))
    assert model.count_params() == 102_350_575 - 3 * (320 + 256 + 128 + 64) - 3 * 4


@pytest.mark.parametrize(
    ("preset", "rank", "multiple"),
    [("M", 3, 32), ("L", 3, 32), ("XL", 3, 32), ("M", 2, 128), ("L", 2, 128), ("XL", 2, 256)],
)
def test_presets_halve_as_often_as_nnunet_s_planners(preset, rank, multiple):
    # Planned for patches of 128^3, 192^3, 256 x 224 x 224; 512 x 512, 896 x 768, 1024 x 1024.
    with pytest.raises(ShapeError, match=f"a multiple of {multiple}, got 100"):
        build_model("resenc_unet", 3, (*[100] * rank, 1), preset=preset)


def wave(name, shape, scale):
    """Weights that are told apart: `scale * sin(0.7 * index + sum of the name's characters)`."""
    numbers = scale * np.sin(0.7 * np.arange(np.prod(shape)) + sum(map(ord, name)))
    return numbers.reshape(shape).astype(np.float32)


def set_weights_in_the_order_of_torch(model):
    """Fills all weights; kernels are mirrored along their spatial axes."""
    for layer in model.layers:
        if "norm" in layer.name:
            scale = 1 + wave(layer.name, layer.gamma.shape, 0.5)
            layer.set_weights([scale, wave(layer.name, layer.beta.shape, 0.1)])
        elif layer.weights:
            # Kernels here are (*spatial, in, out), or out and in for a transposed convolution;
            # torch has the last two swapped, in front.
            *sides, first, second = layer.kernel.shape
            kernel = wave(layer.name, (second, first, *sides), 0.3)
            if layer.name.startswith("decoder") and layer.name.endswith("conv1"):
                kernel = np.roll(kernel, first // 2, axis=1)  # torch joins the skip behind
            kernel = np.flip(kernel, range(2, kernel.ndim))
            kernel = np.moveaxis(kernel, (1, 0), (-2, -1))
            bias = [wave(layer.name, layer.bias.shape, 0.1)] if layer.use_bias else []
            layer.set_weights([kernel, *bias])


@pytest.mark.parametrize(
    ("name", "convs", "expected"),
    [
        (
            "plain_unet",
            {"n_conv_per_stage": [2, 1, 2]},
            {
                "logits": ([-0.09370047, -0.09162453], 0.33187404, [-0.14924658, 0.01527131]),
                "logits_1": ([-0.06839018, -0.11032782], 0.39794812, [-0.08346474, -0.07762007]),
            },
        ),
        (
            "resenc_unet",
            {"n_blocks_per_stage": [1, 2, 1]},
            {
                "logits": ([-0.09797131, -0.08657436], 0.33781052, [-0.60673838, 0.52418119]),
                "logits_1": ([-0.19706785, 0.04290638], 0.42783926, [-1.46105522, 1.60250148]),
            },
        ),
    ],
)
def test_logits_are_those_of_nnunet_s_network_on_the_mirrored_image(name, convs, expected):
    model = build_model(
        name,
        2,
        (4, 8, 8, 2),
        features_per_stage=[3, 4, 5],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        n_conv_per_stage_decoder=[1, 2],
        deep_supervision=True,
        **convs,
    )
    set_weights_in_the_order_of_torch(model)
    image = 2 * np.sin(0.37 * np.arange(2 * 2 * 4 * 8 * 8)).reshape(2, 2, 4, 8, 8)
    image = np.moveaxis(image, 1, -1)
    outputs = model(np.flip(image, (1, 2, 3)).astype(np.float32))
    for output, (first, mean, last) in expected.items():
        logits = np.flip(outputs[output], (1, 2, 3))
        np.testing.assert_allclose(logits[0, 0, 0, 0], first, atol=1e-5)
        np.testing.assert_allclose(np.abs(logits).mean(), mean, rtol=1e-5)
        np.testing.assert_allclose(logits[1, -1, -1, -2], last, atol=1e-5)


def test_stages_shrink_the_axes_that_their_strides_name():
    model = build_model(
        "plain_unet",
        3,
        (4, 16, 24, 1),
        features_per_stage=[4, 6, 8],
        strides=[1, [1, 2, 2], 2],
        kernel_sizes=[[1, 3, 3], 3, 3],
        deep_supervision=True,
    )
    shape = {layer.name: tuple(layer.output.shape) for layer in model.layers}
    assert shape["encoder0_relu2"] == (None, 4, 16, 24, 4)
    assert shape["encoder1_relu2"] == (None, 4, 8, 12, 6)
    assert shape["encoder2_relu2"] == (None, 2, 4, 6, 8)
    assert shape["up1"] == (None, 4, 8, 12, 6)
    assert shape["skip1"] == (None, 4, 8, 12, 12)
    assert shape["logits_1"] == (None, 4, 8, 12, 3)
    kernels = {name: tuple(model.get_layer(name).kernel.shape) for name in ("up0", "up1")}
    assert kernels == {"up0": (1, 2, 2, 4, 6), "up1": (2, 2, 2, 6, 8)}
    assert model.get_layer("encoder0_conv1").kernel.shape == (1, 3, 3, 1, 4)
    assert model.get_layer("decoder0_conv1").kernel.shape == (1, 3, 3, 8, 4)


def test_a_block_pools_where_it_has_a_stride_and_projects_where_filters_change():
    model = build_model(
        "resenc_unet", 2, (8, 8, 1), features_per_stage=[4, 4, 8], n_blocks_per_stage=2
    )
    beside = {
        layer.name for layer in model.layers if "pool" in layer.name or "beside" in layer.name
    }
    assert beside == {
        "encoder1_block1_pool",
        "encoder2_block1_pool",
        "encoder2_block1_beside_conv1",
        "encoder2_block1_beside_norm1",
    }


def test_dropout_of_resenc_unet_stands_after_the_first_convolution_of_a_block():
    model = build_model("resenc_unet", 2, (8, 8, 1), features_per_stage=[4, 8], spatial_dropout=0.5)
    assert [layer.name for layer in model.layers if "dropout" in layer.name] == [
        "encoder0_stem_dropout1",
        "encoder0_block1_dropout1",
        "encoder1_block1_dropout1",
        "encoder1_block2_dropout1",
        "encoder1_block3_dropout1",
        "decoder0_dropout1",
    ]
    images = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(model(images), model(images))
    assert not np.array_equal(model(images, training=True), model(images, training=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_per_stage": [8]}, r"at least 2 stages, got features_per_stage \[8\]"),
        ({"strides": [1, 2]}, r"one entry of strides per stage, 3 in all, got \[1, 2\]"),
        ({"strides": [1, [2], 2]}, r"one number per axis in strides, 2 in all, got \[2\]"),
        ({"strides": [2, 2, 2]}, r"stride of 1 in the first stage, got 2.*Start strides"),
        ({"kernel_sizes": [3, 3]}, "one number per stage in kernel_sizes"),
        ({"kernel_sizes": 0}, "numbers of at least 1 in kernel_sizes, got 0"),
        ({"features_per_stage": [8, 0, 8]}, "features_per_stage to be at least 1, got 0"),
        ({"n_conv_per_stage": [2, 2]}, "one number per stage in n_conv_per_stage"),
        ({"n_conv_per_stage": [2, 0, 2]}, "n_conv_per_stage to be at least 1, got 0"),
        ({"n_conv_per_stage_decoder": [2] * 3}, "n_conv_per_stage_decoder, 2 in all, got"),
        ({"spatial_dropout": 1.0}, "spatial_dropout to be at least 0 and below 1, got 1.0"),
        ({"normalization": "layer"}, "unknown normalization 'layer'"),
        ({"features_per_stage": [8, 9.5, 8]}, r"model.features_per_stage must be list\[int\]"),
    ],
)
def test_plans_that_do_not_fit_are_refused(options, message):
    plan = {"features_per_stage": [8, 8, 8], **options}
    with pytest.raises(ConfigError, match=message):
        build_model("plain_unet", 2, (16, 16, 1), **plan)


def test_presets_and_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="unknown preset 'S' of resenc_unet.*Known: L, M, XL"):
        build_model("resenc_unet", 2, (256, 256, 1), preset="S")
    with pytest.raises(ConfigError, match=r"one number per stage in n_blocks_per_stage, 2 in all"):
        build_model(
            "resenc_unet", 2, (16, 16, 1), features_per_stage=[8, 8], n_blocks_per_stage=[1]
        )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 16, 24, 1), "depth that is a multiple of 4, got 6. Pad it to 8"),
        ((4, 16, 20, 1), "width that is a multiple of 8, got 20. Pad it to 24"),
        (
            (16, 1),
            r"\(depth, height, width, channels\), got \(16, 1\). Use a patch of 2 or 3 sides",
        ),
    ],
)
@pytest.mark.parametrize("name", ["plain_unet", "resenc_unet", "attention_unet", "unet_plus_plus"])
def test_sides_are_multiples_of_the_strides_along_their_axis(name, shape, message):
    plan = {"features_per_stage": [8] * 4, "strides": [1, [1, 2, 2], 2, 2]}
    with pytest.raises(ShapeError, match=message):
        build_model(name, 2, shape, **plan)
