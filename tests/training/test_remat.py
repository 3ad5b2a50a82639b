"""Recomputing activations in the backward pass changes no number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.layers.step_context import step_context
from segkit.losses import build_loss
from segkit.models import build_model
from segkit.training.remat import rematerialized

PLAN = {"features_per_stage": [4, 6, 8], "n_conv_per_stage_decoder": 1}
RANDOM = {"dropout": 0.3, "spatial_dropout": 0.2, "residual": True, "stochastic_depth": 0.3}
NETWORKS = {
    "random layers": ("unet", (8, 12, 1), {"filters": 4, "downsamplings": 1, **RANDOM}),
    "batch norm": ("unet", (8, 8, 1), {"filters": 4, "downsamplings": 1, "normalization": "batch"}),
    "several outputs": (
        "unet_plus_plus",
        (8, 12, 1),
        {**PLAN, "deep_supervision": True},
    ),
    "gates": ("attention_unet", (8, 8, 1), PLAN),
    "residual blocks": ("resenc_unet", (8, 8, 1), {**PLAN, "n_blocks_per_stage": 1}),
    "margins": ("unet2015", (7, 9, 1), {"filters": 4, "downsamplings": 1}),
    "fcn": ("fcn8s", (32, 64, 1), {"width": 0.01, "fc_kernel": 3}),
}
LOSS = build_loss("ce_dice")
KEYS = np.arange(8, dtype=np.uint32).reshape(4, 2)


def found(model, forward, shape, compiled=None):
    """Loss, gradients and updates of running statistics of a step on four examples."""
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=(4, *shape)), tf.float32)
    labels = tf.constant(rng.integers(0, 3, (4, *shape[:-1])), tf.int32)
    weights = [v.value for v in model.trainable_variables]

    def step():
        with step_context(tf.constant(KEYS)) as context, tf.GradientTape() as tape:
            loss = tf.reduce_mean(LOSS(labels, forward(images)))
        return loss, tape.gradient(loss, weights), dict(context.updates)

    compiled = {} if compiled is None else {"jit_compile": compiled}
    return tf.function(step, autograph=False, **compiled)()


@pytest.mark.parametrize("network", NETWORKS)
def test_loss_gradients_and_statistics_stay_the_same(network):
    name, shape, options = NETWORKS[network]
    model = build_model(name, 3, shape, **options)
    expected = found(model, lambda images: model(images, training=True), shape)
    result = found(model, rematerialized(model), shape)
    assert result[2].keys() == expected[2].keys()
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result, expected
    )


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_stays_the_same(precision):
    name, shape, options = NETWORKS["random layers"]
    keras.config.set_dtype_policy(precision)
    try:
        model = build_model(name, 3, shape, **options)
    finally:
        keras.config.set_dtype_policy("float32")
    expected = found(model, lambda images: model(images, training=True), shape)
    result = found(model, rematerialized(model), shape)
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), result, expected
    )
