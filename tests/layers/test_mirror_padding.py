import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.mirror_padding import CropLike
from segkit.layers.mirror_padding import MirrorPadding


@pytest.mark.parametrize("margin", [0, 1, 4, 5, 12])
def test_margins_are_those_of_numpy_however_wide(margin):
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    expected = np.pad(image, ((0, 0), (margin,) * 2, (margin,) * 2, (0, 0)), mode="reflect")
    np.testing.assert_array_equal(MirrorPadding(margin)(image), expected)


@pytest.mark.parametrize(
    ("side", "padded"),
    # Sides of 4, 12, 20, ... are enough; the margin adds 2 * 3.
    [(1, 10), (4, 10), (5, 18), (12, 18), (13, 26)],
)
def test_sides_are_raised_to_the_next_that_fits(side, padded):
    pad = MirrorPadding(3, multiple=8, offset=4)
    assert pad(np.zeros((1, side, 4, 1))).shape == (1, padded, 10, 1)
    assert pad.compute_output_shape((None, side, None, 1)) == (None, padded, None, 1)


def test_an_odd_voxel_goes_behind():
    row = np.arange(1, 4, dtype=np.float32).reshape(1, 3, 1)
    # 3 is raised to 6: one voxel before and two behind.
    padded = MirrorPadding(0, multiple=6)(row)
    np.testing.assert_array_equal(padded[0, :, 0], [2, 1, 2, 3, 2, 1])
    np.testing.assert_array_equal(CropLike()([padded, row]), row)


def test_sizes_may_be_unknown_until_the_graph_runs():
    pad, crop = MirrorPadding(7, multiple=4, offset=2), CropLike()

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 1))])
    def there_and_back(image):
        padded = pad(image)
        return padded, crop([padded, image])

    image = np.random.default_rng(0).normal(size=(2, 5, 9, 1)).astype(np.float32)
    padded, back = there_and_back(image)
    np.testing.assert_array_equal(padded, pad(image))
    np.testing.assert_array_equal(back, image)


def test_layers_are_saved_with_their_options(tmp_path):
    image = keras.Input((5, None, 2))
    padded = MirrorPadding(3, multiple=8, offset=4)(image)
    model = keras.Model(image, [padded, CropLike()([padded, image])])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    values = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    for one, other in zip(model(values), loaded(values), strict=True):
        np.testing.assert_array_equal(one, other)
