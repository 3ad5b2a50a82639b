import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.step_context import step_context
from segkit.losses.adversarial import AUGMENTATIONS
from segkit.training.adversarial.differentiable_augment import augmented
from segkit.training.adversarial.differentiable_augment import cut_out
from segkit.training.adversarial.differentiable_augment import recoloured
from segkit.training.adversarial.differentiable_augment import translated
from segkit.training.replica import example_keys

SHAPES = [(64, 16, 8, 1), (64, 8, 8, 8, 2)]


def keys(count, first=0):
    return example_keys(0, tf.range(first, first + count, dtype=tf.int64))


def called(function, images):
    with step_context(keys(len(images))):
        return function(tf.constant(images)).numpy()


def noise(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_nothing_is_changed_without_a_kind():
    images = noise((2, 8, 8, 1))
    seen, condition = augmented(tf.constant(images), None, ())
    np.testing.assert_array_equal(seen, images)
    assert condition is None


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_moved_by_whole_voxels_up_to_an_eighth_of_each_side(shape):
    images = noise(shape)
    moved, shifts = called(translated, images), set()
    most = [round(side / 8) for side in shape[1:-1]]
    for before, after in zip(images, moved, strict=True):
        padded = np.pad(before, [*((m, m) for m in most), (0, 0)])
        fits = []
        for place in np.ndindex(*(2 * m + 1 for m in most)):
            window = tuple(slice(p, p + n) for p, n in zip(place, shape[1:-1], strict=True))
            if np.allclose(padded[window], after, atol=1e-6):
                fits.append(place)
        assert len(fits) == 1
        shifts |= set(fits)
    for axis, most_along in enumerate(most):
        assert {place[axis] for place in shifts} == set(range(2 * most_along + 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_of_half_of_each_side_is_cut_out(shape):
    holes = called(cut_out, np.ones(shape, np.float32))
    for hole in holes[..., 0] == 0:
        places = np.nonzero(hole)
        sides = [np.ptp(axis) + 1 for axis in places]
        assert hole.sum() == np.prod(sides)  # a full box
        for side, whole in zip(sides, shape[1:-1], strict=True):
            assert whole / 4 <= side <= whole / 2  # its centre is in the image
    assert any((hole == 0).sum() == np.prod(shape[1:-1]) / 2 ** (len(shape) - 2) for hole in holes)


def test_brightness_and_contrast_stay_within_their_range_and_differ():
    images = noise((64, 8, 8, 1))
    seen = called(recoloured, images)
    brighter = seen.mean((1, 2, 3)) - images.mean((1, 2, 3))
    contrast = seen.std((1, 2, 3)) / images.std((1, 2, 3))
    assert np.abs(brighter).max() <= 0.5
    assert np.ptp(brighter) > 0.8
    assert contrast.min() >= 0.5 - 1e-5
    assert contrast.max() <= 1.5 + 1e-5
    assert np.ptp(contrast) > 0.8


def test_saturation_is_for_three_channels_only():
    grey = np.repeat(noise((8, 4, 4, 1)), 3, axis=-1)
    seen = called(recoloured, grey)
    np.testing.assert_allclose(seen[..., 0], seen[..., 2], atol=1e-5)
    coloured = noise((64, 4, 4, 3))
    seen = called(recoloured, coloured)

    def spread(x):
        return (x - x.mean(-1, keepdims=True)).std((1, 2, 3))

    def contrast(x):
        return x.mean(-1).std((1, 2))

    saturation = (spread(seen) / spread(coloured)) / (contrast(seen) / contrast(coloured))
    assert saturation.min() >= 0
    assert saturation.max() <= 2 + 1e-4
    assert np.ptp(saturation) > 1.5


def test_condition_and_image_move_together_and_the_condition_keeps_its_values():
    images = noise((4, 16, 16, 1))
    with step_context(keys(4)):
        seen, condition = augmented(
            tf.constant(images), tf.constant(images), ("translation", "cutout")
        )
        _, coloured = augmented(tf.constant(images), tf.constant(images), ("color",))
    np.testing.assert_array_equal(seen, condition)
    assert not np.array_equal(seen, images)
    np.testing.assert_array_equal(coloured, images)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_what_is_drawn_belongs_to_the_example_and_gradients_pass(kind):
    images = tf.constant(noise((4, 16, 16, 1)))
    with step_context(keys(4)), tf.GradientTape() as tape:
        tape.watch(images)
        whole, _ = augmented(images, None, (kind,))
        total = tf.reduce_sum(tf.square(whole))
    with step_context(keys(2, first=2)):
        half, _ = augmented(images[2:], None, (kind,))
    np.testing.assert_allclose(whole[2:], half, atol=1e-6)
    gradient = tape.gradient(total, images).numpy()
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum((1, 2, 3)) > 0).all()
