"""Layers for several modalities: which are there, which are dropped, how they become one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.film import FiLM
from segkit.layers.modality_dropout import ModalityDropout
from segkit.layers.modality_fusion import ModalityFusion
from segkit.layers.modality_presence import ModalityPresence
from segkit.layers.step_context import step_context

MODALITIES = [1, 2, 1]
KEYS = np.random.default_rng(0).integers(0, 2**32, (4096, 2), np.uint32)


def drop(rate, image, keys=KEYS):
    layer = ModalityDropout(rate, MODALITIES, name="drop")
    with step_context(tf.convert_to_tensor(keys[: len(image)])):
        return np.array(layer(image, training=True))


def kept(image):
    """Which modalities are left, `(batch, 3)`."""
    return np.array(ModalityPresence(MODALITIES)(image))


def test_a_modality_is_there_if_any_of_its_voxels_is_not_zero():
    image = np.zeros((3, 2, 2, 4), np.float32)
    image[0, 1, 0, 2] = -0.5
    image[1, ..., [0, 3]] = 1
    np.testing.assert_array_equal(kept(image), [[0, 1, 0], [1, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(kept(image[:, None]), kept(image))


def test_modalities_are_dropped_whole_at_their_rate_and_never_all():
    image = np.ones((4096, 2, 2, 4), np.float32)
    image[..., 1] = 0  # one channel of the second modality: the modality is there
    found = drop(0.3, image)
    assert set(np.unique(found)) == {0, 1}
    there = kept(found)
    np.testing.assert_array_equal(
        found, image * np.repeat(there, MODALITIES, axis=1)[:, None, None]
    )
    # Dropped below 0.3, unless all three are (0.027): then one of three stays.
    expected = 0.3 - 0.3**3 / 3
    deviation = np.sqrt(expected * (1 - expected) / 4096)
    np.testing.assert_allclose(1 - there.mean(axis=0), expected, atol=3.5 * deviation)
    assert there.sum(axis=1).min() == 1


def test_of_the_modalities_that_are_there_one_stays_at_any_rate():
    image = np.ones((512, 2, 2, 4), np.float32)
    image[:256, ..., 0] = 0
    image[:128, ..., 3] = 0
    there = kept(drop(0.999, image))
    assert set(there.sum(axis=1)) == {1}
    np.testing.assert_array_equal(there[:128], np.tile([0, 1, 0], (128, 1)))
    assert set(map(tuple, there[128:256])) == {(0, 1, 0), (0, 0, 1)}
    assert not kept(drop(0.5, np.zeros((2, 2, 2, 4), np.float32))).any()


def test_an_example_alone_drops_what_it_drops_in_a_batch_and_under_xla():
    image = np.ones((64, 2, 2, 4), np.float32)
    together = drop(0.5, image)
    np.testing.assert_array_equal(drop(0.5, image[:3], KEYS[5:8]), together[5:8])
    layer = ModalityDropout(0.5, MODALITIES, name="drop")

    @tf.function(jit_compile=True)
    def compiled(x, keys):
        with step_context(keys):
            return layer(x, training=True)

    np.testing.assert_array_equal(compiled(image, KEYS[:64]), together)


def test_nothing_is_dropped_outside_of_training_or_at_rate_zero():
    image = np.ones((8, 2, 2, 4), np.float32)
    np.testing.assert_array_equal(ModalityDropout(0.9, MODALITIES)(image), image)
    np.testing.assert_array_equal(drop(0.0, image), image)


def fused(features, there):
    """`ModalityFusion` in plain NumPy, and the layer's own result."""
    layer = ModalityFusion()
    inputs = [*map(tf.constant, features), tf.constant(there, tf.float32)]
    layer.build([x.shape for x in inputs])
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    kernel, bias = layer.get_weights()
    slow = np.zeros_like(features[0])
    for where in np.ndindex(slow.shape[:-1]):
        present = np.flatnonzero(there[where[0]]) if any(there[where[0]]) else range(len(kernel))
        scores = {m: features[m][where] @ kernel[m] + bias[m] for m in present}
        if not any(there[where[0]]):
            scores = dict.fromkeys(present, 0.0)
        total = sum(np.exp(score) for score in scores.values())
        for m, score in scores.items():
            slow[where] += np.exp(score) / total * features[m][where]
    return np.array(layer(inputs)), slow


def test_fusion_is_the_softmax_weighted_mean_over_those_that_are_there():
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(4, 2, 3, 5)).astype(np.float32) for _ in range(3)]
    found, slow = fused(features, [[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(found, slow, atol=1e-5)
    np.testing.assert_array_equal(found[2], features[1][2])


def test_a_missing_modality_has_no_part_in_the_result():
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(2, 2, 2, 2, 3)).astype(np.float32) for _ in range(2)]
    there = [[1, 0], [1, 0]]
    before, _ = fused(features, there)
    features[1][:] = 1e6
    np.testing.assert_array_equal(fused(features, there)[0], before)


def test_film_scales_and_shifts_each_channel():
    layer = FiLM()
    features, vector = np.ones((2, 3, 3, 2), np.float32), np.array([[1.0], [2.0]], np.float32)
    layer.build([features.shape, vector.shape])
    # gamma = (0.5 v, 0), beta = (0, 3 v + 1)
    layer.set_weights([np.array([[0.5, 0, 0, 3]]), np.array([0, 0, 0, 1.0])])
    found = np.array(layer([features, vector]))
    np.testing.assert_allclose(found[0], np.broadcast_to([1.5, 1 + 4], (3, 3, 2)))
    np.testing.assert_allclose(found[1], np.broadcast_to([2.0, 1 + 7], (3, 3, 2)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_fusion_keeps_the_compute_dtype_and_weights_of_zero(policy):
    dtype = policy.removeprefix("mixed_")
    layer = ModalityFusion(dtype=policy)
    features = [tf.ones((1, 2, 2, 4)), tf.fill((1, 2, 2, 4), 60000.0 if "b" not in dtype else 1e30)]
    found = layer([*features, tf.constant([[1.0, 0.0]])])
    assert found.dtype == dtype
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found).astype("float32"), 1.0)
