"""Holes and degradations: what share they take, and that they are what the formulas say."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from segkit.layers.step_context import step_context
from segkit.training.adversarial.degrade import HOLES
from segkit.training.adversarial.degrade import add_gaussian_noise
from segkit.training.adversarial.degrade import add_rician_noise
from segkit.training.adversarial.degrade import draw_holes
from segkit.training.adversarial.degrade import lower_contrast
from segkit.training.adversarial.degrade import lower_resolution
from segkit.training.step import example_keys

SIDES = {2: (24, 30), 3: (8, 12, 10)}


def drawn(function, count, *args, first=0, **options):
    """What a function of this module makes of the examples from number `first` on."""
    with step_context(example_keys(3, tf.range(first, first + count, dtype=tf.int64))):
        return function(*args, **options).numpy()


def holes(count, sides, *, first=0, **options):
    options = {"share": (0.2, 0.2), "kinds": list(HOLES), **options}
    return drawn(draw_holes, count, count, sides, first=first, **options)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rank", SIDES)
@pytest.mark.parametrize("kind", HOLES)
def test_holes_cover_the_share_that_is_asked_for(kind, rank):
    sides = SIDES[rank]
    for share in (0.1, 0.25, 0.5):
        found = holes(200, sides, share=(share, share), kinds=[kind])
        assert found.shape == (200, *sides, 1)
        assert set(np.unique(found)) == {0, 1}
        shares = found.mean(axis=tuple(range(1, rank + 2)))
        # Whole rows, faces of boxes, and strokes along the edge are in or out.
        error = {"stroke": 0.02, "band": 0.5 / sides[0], "box": 2 / min(sides)}[kind]
        assert np.abs(shares - share).max() <= error + 1e-6
        assert shares.mean() == pytest.approx(share, abs=max(0.01, 0.5 / sides[0]))


def test_the_share_is_drawn_uniformly():
    shares = holes(1000, (24, 30), share=(0.1, 0.5), kinds=["stroke"]).mean(axis=(1, 2, 3))
    assert shares.min() >= 0.1 - 1e-3
    assert shares.max() <= 0.5 + 1e-3
    assert shares.mean() == pytest.approx(0.3, abs=3 * 0.4 / np.sqrt(12 * 1000))
    assert shares.std() == pytest.approx(0.4 / np.sqrt(12), rel=0.1)


def test_every_kind_looks_like_its_name():
    bands = holes(30, (24, 30), kinds=["band"])[..., 0]
    assert (bands == bands[..., :1]).all()
    boxes = holes(100, (24, 30), kinds=["box"])[..., 0]
    single = [b for b in boxes if ndimage.label(b)[1] == 1]
    filled = [b[ndimage.find_objects(b.astype(int))[0]].mean() for b in single]
    assert np.mean(np.equal(filled, 1)) > 0.3  # the others are overlapping boxes
    strokes = holes(100, (24, 30), kinds=["stroke"])[..., 0]
    filled = [b[ndimage.find_objects(b.astype(int))[0]].mean() for b in strokes]
    assert np.mean(np.equal(filled, 1)) < 0.05


def test_examples_differ_and_all_kinds_occur():
    found = holes(60, (24, 30))
    assert len({x.tobytes() for x in found}) >= 55  # bands are few
    whole_rows = (found == found[:, :, :1]).all(axis=(1, 2, 3))
    assert whole_rows.mean() == pytest.approx(1 / 3, abs=0.2)


@pytest.mark.parametrize("sides", SIDES.values())
def test_an_example_has_the_same_holes_alone_and_in_a_batch(sides):
    whole = holes(6, sides)
    np.testing.assert_array_equal(whole[4:], holes(2, sides, first=4))


def test_some_voxel_stays_known_where_only_whole_slices_could_go():
    assert holes(5, (1, 6, 6), share=(0.9, 0.9), kinds=["band"]).sum() == 0
    shares = holes(50, (2, 6, 6), share=(0.9, 0.9), kinds=["band"]).mean(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(shares, 0.5)


DEGRADATIONS = {
    "gaussian": (add_gaussian_noise, 0.3, 0.0),
    "rician": (add_rician_noise, 0.3, 0.0),
    "contrast": (lower_contrast, 0.5, 1.0),
    "resolution": (lower_resolution, 0.4, 1.0),
}


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_degradation_by_nothing_changes_no_bit(name):
    function, some, none = DEGRADATIONS[name]
    images = tf.constant(noise(2, 9, 12, 2))
    found = drawn(function, 2, images, tf.constant([some, none]))
    np.testing.assert_array_equal(found[1], images[1])
    assert np.abs(found[0] - images[0]).max() > 0.1


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_degradation_is_the_same_alone_and_in_a_batch_and_under_xla(name):
    function, some, _ = DEGRADATIONS[name]
    images, amounts = tf.constant(noise(4, 9, 12, 2)), tf.fill(4, some)
    whole = drawn(function, 4, images, amounts)
    alone = drawn(function, 1, images[2:3], amounts[2:3], first=2)
    np.testing.assert_allclose(alone[0], whole[2], atol=1e-6)
    compiled = tf.function(function, jit_compile=True, autograph=False)
    np.testing.assert_allclose(drawn(compiled, 4, images, amounts), whole, atol=1e-5)


def test_holes_are_the_same_under_xla():
    def draw():
        return draw_holes(5, (12, 16), share=(0.1, 0.4), kinds=list(HOLES))

    compiled = tf.function(draw, jit_compile=True, autograph=False)
    assert np.abs(drawn(compiled, 5) - drawn(draw, 5)).mean() < 0.01  # a voxel at the edge


def test_gaussian_noise_has_its_moments():
    found = drawn(add_gaussian_noise, 2, tf.zeros((2, 100, 100, 1)), tf.constant([0.1, 0.4]))
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0, atol=0.01)
    np.testing.assert_allclose(found.std(axis=(1, 2, 3)), [0.1, 0.4], rtol=0.03)
    kurtosis = ((found[1] / found[1].std()) ** 4).mean()
    assert kurtosis == pytest.approx(3, abs=0.15)


def test_rician_noise_has_the_moments_of_the_distribution():
    # Signal A over zero -1, std s: E[M^2] = A^2 + 2 s^2, and in air (A = 0) M is Rayleigh:
    # E[M] = s sqrt(pi / 2), var M = (2 - pi / 2) s^2.
    images = np.full((1, 200, 200, 1), 1.0, np.float32)
    images[:, :100] = -1.0
    found = drawn(add_rician_noise, 1, tf.constant(images), tf.constant([0.5]))[0, ..., 0] + 1.0
    air, tissue = found[:100], found[100:]
    assert air.mean() == pytest.approx(0.5 * np.sqrt(np.pi / 2), rel=0.01)
    assert air.var() == pytest.approx((2 - np.pi / 2) * 0.25, rel=0.03)
    assert (air**2).mean() == pytest.approx(2 * 0.25, rel=0.03)
    assert (tissue**2).mean() == pytest.approx(4 + 2 * 0.25, rel=0.01)


def test_less_contrast_brings_values_nearer_to_the_mean():
    images = np.array([[[1.0, 10], [3, 20]]], np.float32)[None]  # two channels: means 2 and 15
    found = drawn(lower_contrast, 1, tf.constant(images), tf.constant([0.4]))
    np.testing.assert_allclose(found[0, 0], [[1.6, 13], [2.4, 17]], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 0.4, 0.25])
@pytest.mark.parametrize("sides", [(16, 20), (8, 16, 12)])
def test_lower_resolution_is_scipys_blur_and_interpolation(scale, sides):
    images = noise(1, *sides, 1)
    found = drawn(lower_resolution, 1, tf.constant(images), tf.constant([scale]))[0, ..., 0]
    expected = images[0, ..., 0].astype(np.float64)
    for axis, side in enumerate(sides):
        expected = by_scipy(expected, axis, side, max(round(scale * side), 1))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def by_scipy(array, axis, side, coarse):
    factor = side / coarse
    blurred = ndimage.gaussian_filter1d(array, (factor - 1) / 2, axis, mode="mirror")

    def at(array, places):
        return np.apply_along_axis(lambda x: np.interp(places, np.arange(len(x)), x), axis, array)

    low = at(blurred, (np.arange(coarse) + 0.5) * factor - 0.5)
    return at(low, (np.arange(side) + 0.5) / factor - 0.5)
