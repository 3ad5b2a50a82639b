"""Receptive fields against gradients, published numbers and numbers worked out by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from segkit.models import build_model
from segkit.models.measure.graph import grid
from segkit.models.measure.graph import read_graph
from segkit.models.measure.network import measure_network
from segkit.models.measure.receptive_field import receptive_field
from segkit.models.measure.receptive_field import trace_back


def chain(*parts, sides=(96, 80)):
    x = inputs = keras.Input((*sides, 1))
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def shortcut(*parts, join):
    """Layers in a row, and the input of the first joined with the result of the last."""

    def apply(x):
        y = x
        for part in parts:
            y = part(y)
        return join([x, y])

    return apply


def read(model, voxel):
    """The box in which the gradient of an output voxel is not 0, in a network of ones."""
    for variable in model.trainable_variables:
        variable.assign(tf.ones(variable.shape) / max(1, math.prod(variable.shape[:-1])))
    image = tf.ones((1, *model.input_shape[1:]))
    with tf.GradientTape() as tape:
        tape.watch(image)
        value = model(image)[(0, *voxel, 0)]
    used = np.argwhere(tape.gradient(value, image)[0, ..., 0].numpy())
    return [tuple(ends) for ends in zip(used.min(0), used.max(0), strict=True)]


NETWORKS = {
    "convolutions": lambda: chain(layers.Conv2D(1, 3), layers.Conv2D(1, (5, 1), padding="same")),
    "strides": lambda: chain(
        layers.Conv2D(1, 3, 2, padding="same"),
        layers.Conv2D(1, (2, 3), (3, 2), padding="valid"),
        layers.Conv2D(1, 3, padding="same"),
    ),
    "dilation": lambda: chain(
        layers.Conv2D(1, 3, padding="same", dilation_rate=(2, 3)), layers.AveragePooling2D(2)
    ),
    "transposed": lambda: chain(
        layers.Conv2D(1, 2, 2),
        layers.Conv2D(1, 3, padding="same"),
        layers.Conv2DTranspose(1, 2, 2),
        layers.Conv2D(1, 3, padding="same"),
    ),
    "wide transposed": lambda: chain(
        layers.AveragePooling2D(4, 4),
        layers.Conv2DTranspose(1, 8, 4, padding="same"),
        layers.Conv2DTranspose(1, 3, 2, padding="valid"),
    ),
    "pooling with overlap": lambda: chain(layers.AveragePooling2D(3, 2, padding="same")),
    "nearest": lambda: chain(layers.Conv2D(1, 3, 2, padding="same"), layers.UpSampling2D(2)),
    "bilinear": lambda: chain(
        layers.AveragePooling2D(2), layers.UpSampling2D(2, interpolation="bilinear")
    ),
    "padding": lambda: chain(layers.ZeroPadding2D(3), layers.Conv2D(1, 7), layers.Cropping2D(2)),
    "skips": lambda: chain(
        shortcut(
            layers.Conv2D(1, 3, 2, padding="same"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.Conv2DTranspose(1, 2, 2),
            join=layers.Concatenate(),
        ),
        layers.Conv2D(1, 3, padding="same"),
    ),
    "unet": lambda: build_model(
        "unet", 2, (64, 64, 1), filters=1, downsamplings=2, normalization="none"
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_box_is_that_of_the_gradient_at_every_phase(name):
    model = NETWORKS[name]()
    graph, unknown, widest = read_graph(model), set(), []
    output = next(iter(graph.outputs.values()))
    first = [side // 2 - 4 for side in grid(output)]  # away from the border, which cuts boxes off
    for phase in range(8):
        voxel = [place + phase for place in first]
        found = trace_back(graph, output, [(v, v) for v in voxel], unknown)
        expected = read(model, voxel)
        assert found == expected, voxel
        widest.append([high - low + 1 for low, high in expected])
    assert not unknown
    field, _ = receptive_field(graph)
    assert field == tuple(np.max(widest, axis=0))


def test_volumes_have_a_side_per_axis():
    options = {"filters": 1, "downsamplings": 1, "normalization": "none"}
    model = build_model("unet3d", 2, (20, 24, 24, 1), **options)
    boxes = np.array([read(model, (phase, phase, phase)) for phase in (10, 11)])
    widest = np.max(boxes[..., 1] - boxes[..., 0] + 1, axis=0)
    assert receptive_field(read_graph(model))[0] == tuple(widest)


def test_a_layer_within_a_wrapper_reads_along_its_own_axes():
    model = chain(layers.TimeDistributed(layers.Conv1D(1, 3)), sides=(8, 9))
    assert receptive_field(read_graph(model))[0] == (1, 3)


def test_fcn_32s_sees_what_vgg_16_sees_and_one_stride_more():
    # VGG-16's fc6 sees 404 pixels, pool5 212 (Araujo et al., Distill 2019, table of networks);
    # the upsampling by 64 pixels at stride 32 reads two neighbours, 32 pixels apart.
    found = measure_network("fcn32s", 2, (512, 512, 3), width=0.02)
    assert found.field == (404 + 32, 404 + 32)
    assert measure_network("fcn32s", 2, (512, 512, 3), width=0.02, fc_kernel=1).field[0] == 212 + 32


def test_normalization_is_taken_voxel_by_voxel_and_global_pooling_is_not():
    image = keras.Input((16, 16, 8))
    x = layers.GroupNormalization(2)(layers.Conv2D(8, 3, padding="same")(image))
    assert receptive_field(read_graph(keras.Model(image, x)))[0] == (3, 3)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Multiply()([x, layers.Dense(8, activation="sigmoid")(pooled)])
    assert receptive_field(read_graph(keras.Model(image, x)))[0] == (math.inf, math.inf)
    vector = layers.Dense(8)(layers.GlobalAveragePooling2D()(image))
    assert receptive_field(read_graph(keras.Model(image, vector)))[0] is None


class Blur(layers.Layer):
    """A convolution that does not say how wide it is."""

    def build(self, input_shape):
        self.kernel = self.add_weight((3, 3, input_shape[-1], 2), name="kernel")

    def call(self, x):
        return keras.ops.conv(x, self.kernel, padding="same")

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


def test_a_layer_of_which_it_is_not_known_what_it_reads_is_named():
    image = keras.Input((16, 16, 2))
    x = layers.Conv2D(2, 3, padding="same")(Blur(name="blur")(image))
    assert receptive_field(read_graph(keras.Model(image, x))) == (None, ["blur"])


def test_a_vector_beside_the_image_does_not_count():
    image, covariates = keras.Input((16, 16, 2), name="image"), keras.Input((3,), name="covariates")
    scale = layers.Reshape((1, 1, 2))(layers.Dense(2)(covariates))
    x = layers.Multiply()([layers.Conv2D(2, 3, padding="same")(image), scale])
    model = keras.Model({"image": image, "covariates": covariates}, {"logits": x, "case": scale})
    graph = read_graph(model)
    assert list(graph.outputs) == ["logits", "case"]
    assert receptive_field(graph)[0] == (3, 3)


def test_an_image_from_noise_has_no_receptive_field():
    model = build_model("dcgan", 0, (8, 8, 1), filters=8, upsamplings=1)
    assert receptive_field(read_graph(model)) == (None, [])
