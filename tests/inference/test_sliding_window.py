"""Tile starts and weights against numbers from nnU-Net; blending against whole-volume truth."""

import numpy as np
import pytest
import tensorflow as tf

from segkit.inference.sliding_window import gaussian_window
from segkit.inference.sliding_window import mirrored
from segkit.inference.sliding_window import sliding_window
from segkit.inference.sliding_window import tile_starts

SCALES = (1.0, -2.0, 3.0)


def voxelwise(tiles):
    """Three logits per voxel that depend on that voxel only."""
    return tf.concat([scale * tiles for scale in SCALES], axis=-1)


def image_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "patch", "step", "starts"),
    [  # nnunetv2 2.8.1, compute_steps_for_sliding_window
        (37, 16, 0.5, [0, 7, 14, 21]),
        (75, 32, 0.5, [0, 14, 29, 43]),
        (90, 32, 0.5, [0, 14, 29, 44, 58]),
        (110, 64, 0.5, [0, 23, 46]),
        (128, 128, 0.5, [0]),
        (512, 256, 0.5, [0, 128, 256]),
        (200, 96, 0.75, [0, 52, 104]),
        (300, 96, 0.75, [0, 68, 136, 204]),
        (310, 96, 0.75, [0, 71, 143, 214]),
    ],
)
def test_tile_starts_are_those_of_nnunet(size, patch, step, starts):
    assert tile_starts(size, patch, 1 - step).numpy().tolist() == starts


def test_gaussian_window_is_that_of_nnunet():
    # nnunetv2 2.8.1, compute_gaussian((16, 32, 32), sigma_scale=1/8)
    window = gaussian_window((16, 32, 32)).numpy()
    assert window.dtype == np.float32
    assert np.unravel_index(window.argmax(), window.shape) == (8, 16, 16)
    assert window.max() == 1
    assert window.min() == pytest.approx(3.775134371775124e-11, rel=1e-5)
    assert window.sum() == pytest.approx(503.87554931640625, rel=1e-5)
    line = [0.000335462624207139, 0.0008838262874633074, 0.002187491161748767]
    assert window[8, :3, 16] == pytest.approx(line, rel=1e-5)
    assert window[8, 25, 16] == pytest.approx(0.07955951243638992, rel=1e-5)


@pytest.mark.parametrize("shape", [(9, 11, 13), (4, 9, 17), (3, 2, 1), (8, 8, 8)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
def test_a_voxelwise_network_gives_the_same_in_tiles_as_at_once(shape, overlap):
    image = image_of(shape)
    logits = sliding_window(voxelwise, image, (4, 6, 8), 3, overlap=overlap)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, voxelwise(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 5, 16, 37])
def test_slices_go_through_a_2d_network_in_batches(depth):
    image, batches = image_of((depth, 9, 7)), []

    def network(tiles):
        batches.append(tiles.shape)
        return voxelwise(tiles)

    logits = sliding_window(network, image, (6, 6), 3)
    np.testing.assert_allclose(logits, voxelwise(image), rtol=1e-5, atol=1e-5)
    # 9 in steps of at most 3: 2 tiles; 7: 2 tiles.
    assert len(batches) == 4 * -(-depth // 16)
    assert set(batches) == {(min(depth, 16), 6, 6, 1)}


def test_overlapping_tiles_are_averaged_with_gaussian_weights():
    # Tiles of 8 at 0 and 4 on a line of 12; each answers its own number, 1 then 2.
    numbers = iter([1.0, 2.0])
    image = np.zeros((8, 8, 12, 1), np.float32)
    logits = sliding_window(lambda t: tf.fill(t.shape, next(numbers)), image, (8, 8, 8), 1)
    weight = np.exp(-((np.arange(8) - 4.0) ** 2) / 2)  # sigma = 8 / 8 = 1
    first, second = np.pad(weight, (0, 4)), np.pad(weight, (4, 0))
    expected = (first * 1 + second * 2) / (first + second)
    np.testing.assert_allclose(logits[3, 5, :, 0], expected, rtol=1e-5)


def test_a_small_image_is_centred_in_zeros():
    seen = []

    def network(tiles):
        seen.append(tiles.numpy())
        return tiles

    image = np.ones((2, 3, 4, 1), np.float32)
    logits = sliding_window(network, image, (4, 4, 4), 1)
    np.testing.assert_array_equal(logits, image)
    # 4 - 2 = 2: one before, one after; 4 - 3 = 1: none before, one after.
    expected = np.pad(image[..., 0], ((1, 1), (0, 1), (0, 0)))
    np.testing.assert_array_equal(seen[0][0, ..., 0], expected)


@pytest.mark.parametrize("patch_size", [(4, 6, 8), (6, 8)])
def test_a_graph_with_dynamic_shapes_gives_what_eager_gives(patch_size):
    kernel = np.random.default_rng(1).normal(size=(*[3] * len(patch_size), 1, 2)).astype("f")
    convolve = tf.nn.conv3d if len(patch_size) == 3 else tf.nn.conv2d

    def network(tiles):
        return convolve(tiles, kernel, [1] * (len(patch_size) + 2), "SAME")

    def run(image):
        return sliding_window(network, image, patch_size, 2)

    graph = tf.function(run, input_signature=[tf.TensorSpec((None, None, None, 1), tf.float32)])
    for shape in [(7, 13, 9), (20, 4, 8)]:
        image = image_of(shape)
        np.testing.assert_allclose(graph(image), run(image), rtol=1e-5, atol=1e-5)
    assert graph.experimental_get_tracing_count() == 1


def test_progress_counts_every_tile():
    seen = []
    sliding_window(voxelwise, image_of((6, 4, 4)), (4, 4, 4), 3, on_tile=lambda *a: seen.append(a))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("axes", "count"), [(2, 4), (3, 8)])
def test_mirroring_averages_over_all_flips(axes, count):
    calls = []

    def network(tiles):
        calls.append(1)
        # Position along the last axis: mirrored and averaged it is the same everywhere.
        return tiles * 0 + tf.range(4.0)[:, None]

    tiles = np.ones((1, *[4] * axes, 1), np.float32)
    logits = mirrored(network, axes)(tiles)
    assert len(calls) == count
    np.testing.assert_allclose(logits, np.full(tiles.shape, 1.5))  # (0 + 1 + 2 + 3) / 4


def test_mirroring_does_not_change_a_voxelwise_network():
    tiles = image_of((4, 4, 4))[None]
    np.testing.assert_allclose(mirrored(voxelwise, 3)(tiles), voxelwise(tiles), rtol=1e-6)
