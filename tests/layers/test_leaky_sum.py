"""Networks give the same in a graph as without, also where TensorFlow's optimizer fuses wrongly."""

import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import models

from segkit.layers.leaky_sum import LeakySum
from segkit.models import build_model


def graph_and_eager(model, inputs):
    graph = tf.function(lambda x: model(x, training=False), autograph=False)
    return graph(inputs).numpy(), model(inputs, training=False).numpy()


def test_values_below_0_are_multiplied_by_the_slope():
    found = LeakySum(0.25)(np.array([[-4.0, 0, 3]], np.float32))
    np.testing.assert_array_equal(found, [[-1, 0, 3]])


def test_the_slope_is_saved(tmp_path):
    image = layers.Input((3,))
    models.Model(image, LeakySum(0.3)(image)).save(tmp_path / "x.keras")
    loaded = models.load_model(tmp_path / "x.keras")
    np.testing.assert_allclose(loaded(np.full((1, 3), -1.0)), -0.3, rtol=1e-6)


@pytest.mark.parametrize("sides", [(16, 16), (8, 8, 8)])
@pytest.mark.parametrize("name", ["restorer", "unet"])
def test_residual_stages_without_normalization_are_the_same_in_a_graph(name, sides):
    options = {"filters": 4, "downsamplings": 1, "normalization": "none"}
    named = name == "restorer"
    options |= {} if named else {"residual": True}
    model = build_model(name if len(sides) == 2 or named else "unet3d", 2, (*sides, 1), **options)
    image = np.random.default_rng(0).normal(size=(2, *sides, 1)).astype(np.float32)
    graph, eager = graph_and_eager(model, {"image": tf.constant(image)} if named else image)
    np.testing.assert_allclose(graph, eager, atol=1e-4)


@pytest.mark.parametrize("sides", [(16, 16), (8, 8, 8)])
def test_residual_encoders_without_normalization_are_the_same_in_a_graph(sides):
    stages = {"features_per_stage": [4, 8], "strides": [1, 2], "n_blocks_per_stage": [1, 1]}
    model = build_model("resenc_unet", 2, (*sides, 1), normalization="none", **stages)
    image = np.random.default_rng(0).normal(size=(2, *sides, 1)).astype(np.float32)
    graph, eager = graph_and_eager(model, image)
    np.testing.assert_allclose(graph, eager, atol=1e-4)
