"""Whole images through a closed-form network."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.inference.predictor import Predictor
from segkit.inference.predictor import predict_volume
from segkit.volume import Volume

PREPROCESS = {
    "orientation": "SAR",
    "spacing_mm": [1.0, 1.0, 1.0],
    "crop_to_nonzero": True,
    "normalization": [{"scheme": "rescale", "low": 0, "high": 1}],
}
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*axes)
]


def threshold_model(patch_size, channels=1):
    """A 1x1 convolution whose class is 1 where the first channel exceeds 0.5."""
    inputs = keras.Input((*patch_size, channels), name="image")
    layer = keras.layers.Conv3D if len(patch_size) == 3 else keras.layers.Conv2D
    logits = layer(2, 1, name="logits")
    model = keras.Model(inputs, logits(inputs))
    kernel = np.zeros(logits.kernel.shape, np.float32)
    kernel[..., 0, 1] = 10
    logits.set_weights([kernel, np.array([0, -5], np.float32)])
    return model


@pytest.fixture(scope="module")
def predictor():
    return Predictor(threshold_model((4, 4, 4)), PREPROCESS, [4, 4, 4])


@pytest.fixture(scope="module")
def blocks():
    """A volume of two intensities with different spacings, empty at the borders."""
    array = np.zeros((7, 9, 8), np.float32)
    array[1:6, 1:8, 2:7] = 0.1
    array[2:5, 2:5, 3:6] = 0.9
    array[2, 6, 4] = 1
    return Volume(array, np.array([[0, 0, 1, 5], [0, 1, 0, -3], [1, 0, 0, 2], [0, 0, 0, 1.0]]))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_prediction_lies_on_the_source_grid(predictor, blocks, orientation):
    source = blocks.oriented(orientation)
    mask = predict_volume(predictor, source)
    np.testing.assert_array_equal(mask.array, source.array > 0.5)
    assert mask.array.dtype == np.uint8
    np.testing.assert_array_equal(mask.affine, source.affine)


def test_resampling_keeps_the_shape_and_the_volume():
    affine = np.array([[0, 0, 0.8, 0], [0, 0.8, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1.0]])
    grid = np.stack(np.meshgrid(*map(np.arange, (12, 40, 41)), indexing="ij"))
    centre = np.array([15, 16, 16.4])[:, None, None, None]
    inside = ((grid * np.array([2.5, 0.8, 0.8])[:, None, None, None] - centre) ** 2).sum(0) < 100
    source = Volume(np.where(inside, 1.0, 0.01).astype(np.float32), affine)
    predictor = Predictor(threshold_model((8, 8, 8)), PREPROCESS, (8, 8, 8))
    mask = predict_volume(predictor, source)
    assert mask.shape == source.shape
    overlap = 2 * (mask.array * inside).sum() / (mask.array.sum() + inside.sum())
    assert overlap > 0.97


def test_slices_of_colour_images_keep_their_size():
    preprocess = {
        "orientation": "SAR",
        "spacing_mm": None,
        "crop_to_nonzero": False,
        "normalization": [{"scheme": "rescale", "low": 0, "high": 255}] * 3,
    }
    predictor = Predictor(threshold_model((8, 8), channels=3), preprocess, (8, 8), mirror=True)
    photo = np.random.default_rng(0).integers(0, 256, (1, 13, 21, 3), np.uint8)
    mask = predict_volume(predictor, Volume(photo))
    np.testing.assert_array_equal(mask.array, photo[..., 0] > 127)


def test_probabilities_agree_with_the_mask(predictor, blocks):
    mask, probabilities = predict_volume(predictor, blocks, with_probabilities=True)
    assert probabilities.array.shape == (7, 9, 8, 2)
    np.testing.assert_allclose(probabilities.array.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(probabilities.array.argmax(-1), mask.array)
    # 0.9: logits 0 and 10 * 0.9 - 5 = 4
    assert probabilities.array[3, 3, 4, 1] == pytest.approx(1 / (1 + np.exp(-4)), rel=1e-4)


def test_a_prepared_image_gives_the_logits_of_the_network(predictor):
    image = np.random.default_rng(0).random((5, 6, 7, 1), np.float32)
    logits = predictor.logits(image)
    np.testing.assert_allclose(logits[..., 1], 10 * image[..., 0] - 5, atol=1e-5)


def test_each_weight_is_tracked_once(predictor):
    assert len(predictor.variables) == 2


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_an_impossible_overlap_is_refused(overlap):
    with pytest.raises(ConfigError, match="below 1"):
        Predictor(threshold_model((4, 4, 4)), PREPROCESS, (4, 4, 4), overlap=overlap)


def test_a_patch_of_other_rank_than_the_model_is_refused():
    with pytest.raises(ShapeError, match="does not fit"):
        Predictor(threshold_model((4, 4, 4)), PREPROCESS, (4, 4))


def test_preprocessing_for_other_channels_is_refused():
    with pytest.raises(ShapeError, match="takes 2 channel"):
        Predictor(threshold_model((4, 4), channels=2), PREPROCESS, (4, 4))


def test_an_image_with_other_channels_is_refused(predictor):
    with pytest.raises(ShapeError, match="takes 1 channel.*has 3"):
        predict_volume(predictor, Volume(np.zeros((4, 4, 4, 3), np.float32)))


def test_an_image_with_nan_is_refused(predictor):
    with pytest.raises(DataError, match="NaN"):
        predict_volume(predictor, Volume(np.full((4, 4, 4), np.nan, np.float32)))


def test_the_same_graph_takes_any_shape(predictor, blocks):
    signature = [tf.TensorSpec((None, None, None, 1)), tf.TensorSpec((3,))]
    graph = tf.function(predictor.segment, input_signature=signature)
    for shape in [(7, 9, 8), (3, 12, 5)]:
        image = np.random.default_rng(1).random((*shape, 1), np.float32)
        eager = predictor.segment(image, (1.0, 0.5, 2.0))
        np.testing.assert_array_equal(graph(image, (1.0, 0.5, 2.0)), eager)
    assert graph.experimental_get_tracing_count() == 1


@pytest.fixture(scope="module")
def region_predictor():
    """Regions where the intensity exceeds 0.5, and where it exceeds 0.95."""
    inputs = keras.Input((4, 4, 4, 1), name="image")
    logits = keras.layers.Conv3D(2, 1, name="logits")
    model = keras.Model(inputs, logits(inputs))
    logits.set_weights([np.full((1, 1, 1, 1, 2), 10, np.float32), np.float32([-5, -9.5])])
    return Predictor(model, PREPROCESS, (4, 4, 4), class_order=(300, 2))


def test_regions_paint_their_classes_one_after_another(region_predictor, blocks):
    mask = predict_volume(region_predictor, blocks)
    expected = np.select([blocks.array > 0.95, blocks.array > 0.5], [2, 300], 0)
    assert mask.array.dtype == np.uint16
    np.testing.assert_array_equal(mask.array, expected)


def test_probabilities_of_regions_are_those_of_each_channel(region_predictor, blocks):
    _, probabilities = predict_volume(region_predictor, blocks, with_probabilities=True)
    logits = 10 * blocks.array[..., None] - [5, 9.5]
    inside = blocks.array > 0
    expected = 1 / (1 + np.exp(-logits[inside]))
    np.testing.assert_allclose(probabilities.array[inside], expected, atol=1e-5)
