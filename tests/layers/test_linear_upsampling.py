import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from segkit.layers.linear_upsampling import LinearUpsampling


def test_a_line_is_interpolated_between_centres():
    # Factor 2: voxels lie at -1/4, 1/4, 3/4, 5/4, ... of the input; 0 and 4 go on outside.
    row = np.array([0, 4], np.float32).reshape(1, 2, 1)
    np.testing.assert_allclose(LinearUpsampling([2])(row)[0, :, 0], [0, 1, 3, 4])
    # Factor 3: at -1/3, 0, 1/3, 2/3, 1, 4/3.
    row = np.array([0, 3], np.float32).reshape(1, 2, 1)
    np.testing.assert_allclose(LinearUpsampling([3])(row)[0, :, 0], [0, 0, 1, 2, 3, 3], atol=1e-6)


@pytest.mark.parametrize("factors", [(2, 2), (1, 2), (3, 4)])
def test_2d_is_keras_own(factors):
    image = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    expected = keras.layers.UpSampling2D(factors, interpolation="bilinear")(image)
    np.testing.assert_allclose(LinearUpsampling(factors)(image), expected, atol=1e-6)


def test_3d_is_scipy_s_zoom_of_voxels():
    volume = np.random.default_rng(0).normal(size=(3, 4, 5))
    factors = (1, 2, 3)
    expected = ndimage.zoom(volume, factors, order=1, mode="nearest", grid_mode=True)
    result = LinearUpsampling(factors)(volume[None, ..., None].astype(np.float32))
    np.testing.assert_allclose(result[0, ..., 0], expected, atol=1e-5)


def test_sizes_may_be_unknown_until_the_graph_runs():
    layer = LinearUpsampling((2, 1, 3))
    volume = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 1)).astype(np.float32)
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, None, 1))])
    np.testing.assert_allclose(graph(volume), layer(volume), atol=1e-6)
    assert layer.compute_output_shape((None, 3, None, 5, 1)) == (None, 6, None, 15, 1)
