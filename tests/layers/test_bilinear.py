import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.bilinear import Bilinear


def test_kernel_for_factor_two_is_the_hand_derived_one():
    # Distances from the centre 1.5 are 1.5, .5, .5, 1.5; over the factor 2: .75, .25, .25, .75.
    line = np.array([0.25, 0.75, 0.75, 0.25])
    kernel = np.array(Bilinear()((4, 4, 2, 2)))
    np.testing.assert_allclose(kernel[:, :, 0, 0], np.outer(line, line))
    np.testing.assert_allclose(kernel[:, :, 1, 1], np.outer(line, line))
    assert not kernel[:, :, 0, 1].any()


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_upsampling_equals_bilinear_resize_inside_the_border(factor):
    x = tf.random.stateless_normal((2, 4, 5, 3), (0, 1))
    layer = keras.layers.Conv2DTranspose(
        3, 2 * factor, factor, padding="same", use_bias=False, kernel_initializer=Bilinear()
    )
    peer = tf.image.resize(x, (4 * factor, 5 * factor), "bilinear")
    inside = slice(factor // 2, -(factor // 2))
    np.testing.assert_allclose(layer(x)[:, inside, inside], peer[:, inside, inside], atol=1e-5)
    assert np.array_equal(
        np.argmax(layer(x), -1)[:, inside, inside], np.argmax(peer, -1)[:, inside, inside]
    )
