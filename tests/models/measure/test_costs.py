"""Multiply-adds and memory against numbers worked out by hand and TensorFlow's own count."""

import keras
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

from segkit.layers.film import FiLM
from segkit.layers.modality_fusion import ModalityFusion
from segkit.layers.modulated import ModulatedConvolution
from segkit.models import build_model
from segkit.models.measure.costs import measure_costs
from segkit.models.measure.graph import read_graph
from segkit.models.measure.network import measure_network


def costs_of(model):
    return measure_costs(model, read_graph(model))


def test_multiply_adds_are_those_worked_out_by_hand():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(x)  # 64 positions, 9 * 3 * 4 weights: 6912
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3, 2, padding="same")(x)  # 16 positions, 9 * 4: 576
    x = layers.Conv2D(4, 3, groups=2, padding="same")(x)  # 16, 9 * 2 * 4: 1152
    x = layers.Conv2D(4, 3, dilation_rate=1)(x)  # valid: 4, 9 * 4 * 4: 576
    x = layers.Conv2DTranspose(2, 2, 2)(x)  # 4 of the input, 4 * 2 * 4: 128
    x = layers.SeparableConv2D(6, 3, padding="same")(x)  # 16, 9 * 2 + 2 * 6: 480
    x = layers.Dense(5)(x)  # 16, 6 * 5: 480
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(7)(x)  # 5 * 7: 35
    costs = costs_of(keras.Model(inputs, x))
    assert costs.multiply_adds == 6912 + 576 + 1152 + 576 + 128 + 480 + 480 + 35
    assert costs.uncounted == []


def test_three_axes_and_layers_within_a_wrapper_count_alike():
    volume = keras.Input((4, 8, 8, 2))
    # Stride (1, 2, 2): 4 * 4 * 4 positions, 1 * 3 * 3 * 2 * 5 weights.
    strided = layers.Conv3D(5, (1, 3, 3), (1, 2, 2), padding="same")(volume)
    assert costs_of(keras.Model(volume, strided)).multiply_adds == 64 * 90
    # 4 slices of 8 * 8 positions, 3 * 3 * 2 * 5 weights.
    slices = layers.TimeDistributed(layers.Conv2D(5, 3, padding="same"))(volume)
    assert costs_of(keras.Model(volume, slices)).multiply_adds == 4 * 64 * 90


def test_a_network_within_a_network_counts_once_per_call_on_the_sides_that_it_is_called_on():
    any_side = keras.Input((None, None, 2))
    inner = keras.Model(any_side, layers.Conv2D(2, 3, padding="same", use_bias=False)(any_side))
    image = keras.Input((8, 4, 2))
    outer = keras.Model(image, layers.Add()([inner(inner(image)), image]))
    costs = costs_of(outer)
    assert costs.multiply_adds == 2 * 8 * 4 * 9 * 2 * 2
    assert costs.parameters == 9 * 2 * 2
    # The image, what each call gives, and the sum: 4 tensors of 8 * 4 * 2 values of 4 bytes.
    assert costs.training_bytes == 4 * 64 * 4
    # The image waits for the sum: it, what the first call gave and what the second gives.
    assert costs.forward_bytes == 3 * 64 * 4


def test_of_several_inputs_the_kernel_works_on_one():
    features, presence = [keras.Input((8, 8, 3)) for _ in range(2)], keras.Input((2,))
    fused = ModalityFusion()([*features, presence])  # 64 positions, 2 scores of 3 channels each
    assert costs_of(keras.Model([*features, presence], fused)).multiply_adds == 64 * 2 * 3
    vector = keras.Input((5,))
    scaled = FiLM()([features[0], vector])  # once, 5 values to 3 factors and 3 summands
    assert costs_of(keras.Model([features[0], vector], scaled)).multiply_adds == 5 * 2 * 3


class Table(layers.Layer):
    """Multiplies by weights that are not called a kernel."""

    def build(self, input_shape):
        self.entries = self.add_weight((input_shape[-1], 3), name="entries")

    def call(self, x):
        return ops.matmul(x, self.entries)


def test_products_that_are_not_counted_are_named():
    image = keras.Input((6, 4))
    table = Table(name="table")(image)
    attention = ops.matmul(table, ops.transpose(table, (0, 2, 1)))
    costs = costs_of(keras.Model(image, layers.Dense(2, name="dense")(attention)))
    assert costs.multiply_adds == 6 * 6 * 2
    assert len(costs.uncounted) == 2
    assert costs.uncounted[0].startswith("matmul")
    assert costs.uncounted[1] == "table"


def test_memory_is_that_worked_out_by_hand():
    x = image = keras.Input((8, 8, 3))  # 192 values
    x = layers.Conv2D(4, 3, padding="same")(x)  # 256
    skip = x = layers.ReLU()(x)  # 256
    x = layers.Conv2D(8, 3, 2, padding="same")(x)  # 128
    x = layers.UpSampling2D()(x)  # 512
    x = layers.Concatenate()([skip, x])  # 768
    costs = costs_of(keras.Model(image, x))
    assert costs.training_bytes == 4 * (192 + 256 + 256 + 128 + 512 + 768)
    # At the concatenation: its inputs and its result.
    assert costs.forward_bytes == 4 * (256 + 512 + 768)


def test_half_precision_halves_what_is_not_the_image_or_the_logits():
    options = {"filters": 4, "downsamplings": 1}
    full = measure_network("unet", 3, (8, 8, 1), **options).costs
    half = measure_network("unet", 3, (8, 8, 1), precision="mixed_bfloat16", **options).costs
    ends = 4 * (8 * 8 * 1 + 8 * 8 * 3)
    assert half.training_bytes - ends == (full.training_bytes - ends) / 2
    assert half[:2] == full[:2]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("unet", (32, 48, 2), {"filters": 4, "downsamplings": 3}),
        ("unet", (32, 48, 2), {"filters": 4, "downsamplings": 2, "deep_supervision": True}),
        ("fcn8s", (64, 96, 3), {"width": 0.05, "fc_kernel": 7}),
    ],
)
def test_multiply_adds_are_half_of_the_operations_that_tensorflow_counts(name, shape, options):
    model = build_model(name, 5, shape, **options)
    signature = tf.TensorSpec((1, *shape), tf.float32)
    graph = tf.function(model).get_concrete_function(signature).graph
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    settings = builder(builder.float_operation()).with_empty_output()
    settings = settings.with_accounted_types(["Conv2D", "Conv2DBackpropInput"]).build()
    counted = tf.compat.v1.profiler.profile(graph, options=settings).total_float_ops
    assert costs_of(model).multiply_adds == counted / 2
    assert measure_network(name, 5, shape, **options).costs == costs_of(model)


def test_parameters_are_those_of_the_network_without_a_value_for_any():
    found = measure_network("fcn8s", 21, (64, 64, 3))
    assert found.costs.parameters == 134_489_759  # worked out by hand in tests/models/test_fcn.py
    assert min(found.field) > 404


def test_a_style_beside_a_map_does_not_say_how_often_a_kernel_works():
    image, style = keras.Input((8, 4, 3)), keras.Input((3,))
    x = ModulatedConvolution(5, (3, 3))([image, style])  # 32 positions, 9 * 3 * 5: 4320
    x = FiLM()([x, style])  # 3 * 10, once: 30
    costs = costs_of(keras.Model([image, style], x))
    assert costs.multiply_adds == 4320 + 30
    assert costs.uncounted == []
