"""Colour transforms against scikit-image and values by hand."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from skimage import color

from data_prep.augment import colour
from data_prep.augment.random import Draws
from data_prep.augment.random import make_keys
from data_prep.augment.space import make_space
from segkit.errors import ConfigError

# Function, its neutral parameters and strong ones, for a batch of 3.
ADJUSTMENTS = {
    "saturation": (colour.adjust_saturation, [np.ones(3)], [np.array([0.0, 0.6, 1.7])]),
    "hue": (colour.adjust_hue, [np.zeros(3)], [np.array([-170.0, 20.0, 90.0])]),
    "stain": (
        colour.adjust_stain,
        [np.ones((3, 3)), np.zeros((3, 3))],
        [np.linspace(0.6, 1.5, 9).reshape(3, 3), np.linspace(-0.2, 0.2, 9).reshape(3, 3)],
    ),
}


@pytest.fixture(params=ADJUSTMENTS)
def adjustment(request):
    change, neutral, strong = ADJUSTMENTS[request.param]
    as_tensors = [[tf.constant(p, tf.float32) for p in part] for part in (neutral, strong)]
    return change, *as_tensors


def make_image(batch=3):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(batch, 3, 1, 6, 7)).astype(np.float32)


def one_colour(*rgb):
    return tf.reshape(tf.constant(rgb, tf.float32), (1, 3, 1, 1, 1))


def last(image):
    return np.moveaxis(np.asarray(image, np.float64), 1, -1)


def draw(transform, batch=4000, channels=3, **options):
    """What a transform draws for a batch: name -> array, and its function of an image."""
    log = {}
    keys = make_keys(7, tf.range(batch, dtype=tf.int64))
    draws = Draws(keys, salt=0, budget=64, scope="it", log=log)
    space = make_space((1, 6, 7), tf.ones((batch, 3)), channels, 2)
    change = transform(draws, space, **options)
    return {name: value.numpy() for name, value in log.items()}, change


def test_the_neutral_parameters_are_the_identity_bit_by_bit(adjustment):
    change, neutral, _ = adjustment
    image = make_image() - 0.2
    for run in (change, tf.function(change, jit_compile=True)):
        np.testing.assert_array_equal(run(image, *neutral), image)


def test_a_batch_is_its_examples_one_by_one(adjustment):
    change, _, strong = adjustment
    image = make_image()
    changed = change(image, *strong).numpy()
    for n in range(3):
        alone = change(image[n : n + 1], *[p[n : n + 1] for p in strong])
        np.testing.assert_allclose(alone[0], changed[n], atol=1e-6)
        assert np.abs(changed[n] - image[n]).max() > 0.05


def test_eager_graph_and_xla_agree(adjustment):
    change, _, strong = adjustment
    image = make_image()
    for jit in (False, True):
        found = tf.function(change, jit_compile=jit)(image, *strong)
        np.testing.assert_allclose(found, change(image, *strong), atol=1e-5)


def test_black_white_and_values_out_of_range_stay_finite(adjustment):
    change, _, strong = adjustment
    for value in (0.0, 1.0, -3.0, 40.0):
        assert np.isfinite(change(tf.fill((3, 3, 1, 2, 2), value), *strong)).all()
    assert not change(tf.zeros((3, 3, 1, 2, 2)), *strong).numpy().any()


@pytest.mark.parametrize(
    # The luminance of red is 0.299: 0.5 * 1 + 0.5 * 0.299, 0.5 * 0 + 0.5 * 0.299
    ("factor", "expected"),
    [(0.0, [0.299, 0.299, 0.299]), (0.5, [0.6495, 0.1495, 0.1495]), (2.0, [1.701, -0.299, -0.299])],
)
def test_saturation_by_hand(factor, expected):
    found = colour.adjust_saturation(one_colour(1, 0, 0), tf.constant([factor]))
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-6)


def test_saturation_and_hue_agree_with_yiq_of_scikit_image():
    image = make_image()
    factor = np.array([0.3, 0.9, 1.6], np.float32)
    degrees = np.array([-140.0, 12.0, 75.0], np.float32)
    yiq = color.rgb2yiq(last(image))
    chroma = yiq[..., 1] + 1j * yiq[..., 2]
    # The angle of I and Q runs from red to blue to green.
    turned = chroma * np.exp(-1j * np.deg2rad(degrees.reshape(3, 1, 1, 1)))
    for new, found in (
        (chroma * factor.reshape(3, 1, 1, 1), colour.adjust_saturation(image, factor)),
        (turned, colour.adjust_hue(image, degrees)),
    ):
        expected = color.yiq2rgb(np.stack([yiq[..., 0], new.real, new.imag], axis=-1))
        np.testing.assert_allclose(last(found), expected, atol=1e-5)


def test_hue_goes_from_red_over_green_to_blue_and_back():
    red = one_colour(0.6, 0.3, 0.3)
    for degrees, brightest in ((0.0, 0), (120.0, 1), (240.0, 2), (360.0, 0)):
        turned = np.ravel(colour.adjust_hue(red, tf.constant([degrees])))
        assert turned.argmax() == brightest
    np.testing.assert_allclose(turned, [0.6, 0.3, 0.3], atol=1e-6)


def test_hue_and_saturation_do_the_same_in_any_scale():
    image = make_image()
    for change, value in ((colour.adjust_hue, 33.0), (colour.adjust_saturation, 1.4)):
        strength = np.full(3, value, np.float32)
        found = change(5 * image - 2, strength)
        np.testing.assert_allclose(found, 5 * change(image, strength) - 2, atol=1e-5)


def test_stain_agrees_with_scikit_image():
    # Amounts of 0 or more, which scikit-image keeps; its unit is a density of log(1e6).
    unit = np.log(1e6)
    amounts = np.random.default_rng(3).uniform(0.05, 0.9, (3, 1, 6, 7, 3))
    image = np.moveaxis(color.hed2rgb(amounts / unit), -1, 1).astype(np.float32)
    assert image.min() > 1 / 255
    alpha = np.array([[1.3, 0.8, 1.1], [0.5, 1.0, 2.0], [1.0, 1.0, 1.0]], np.float32)
    beta = np.array([[0.05, -0.03, 0.0], [0.1, 0.2, 0.3], [0.2, 0.0, 0.0]], np.float32)
    found = colour.adjust_stain(image, alpha, beta)
    stains = color.rgb2hed(last(image)) * unit
    stains = stains * alpha.reshape(3, 1, 1, 1, 3) + beta.reshape(3, 1, 1, 1, 3)
    np.testing.assert_allclose(last(found), color.hed2rgb(stains / unit), atol=1e-5)


def test_twice_the_hematoxylin_by_hand():
    # Density 0.5 * (0.65, 0.70, 0.29); twice of that squares what comes through.
    image = np.exp(-0.5 * np.array([0.65, 0.70, 0.29]))
    twice = tf.constant([[2.0, 1.0, 1.0]])
    found = colour.adjust_stain(one_colour(*image), twice, tf.zeros((1, 3)))
    np.testing.assert_allclose(np.ravel(found), image**2, rtol=1e-5)
    # Eosin has no part in it; 0.1 more of it takes its own colours.
    alpha, beta = tf.constant([[1.0, 5.0, 1.0]]), tf.constant([[0.0, 0.1, 0.0]])
    more = colour.adjust_stain(one_colour(*image), alpha, beta)
    np.testing.assert_allclose(
        np.ravel(more), image * np.exp(-0.1 * np.array([0.07, 0.99, 0.11])), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("transform", "name", "shape", "low", "high"),
    [
        (colour.saturation, "factor", (4000,), 0.7, 1.3),
        (colour.hue, "degrees", (4000,), -15, 15),
        (colour.stain, "alpha", (4000, 3), 0.95, 1.05),
        (colour.stain, "beta", (4000, 3), -0.05, 0.05),
    ],
)
def test_draws_fill_their_range_evenly(transform, name, shape, low, high):
    drawn = draw(transform)[0][f"it.{name}"]
    assert drawn.shape == shape
    assert low <= drawn.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < drawn.max() <= high
    # The share below the middle has standard deviation sqrt(0.25 / 4000) = 0.008.
    np.testing.assert_allclose((drawn < (low + high) / 2).mean(axis=0), 0.5, atol=0.032)


@pytest.mark.parametrize(
    ("transform", "options"),
    [
        (colour.saturation, {"factor": [1.0, 1.0]}),
        (colour.hue, {"degrees": 0.0}),
        (colour.stain, {"alpha": [1.0, 1.0], "beta": [0.0, 0.0]}),
    ],
)
def test_options_without_effect_change_nothing(transform, options):
    image = make_image()
    np.testing.assert_array_equal(draw(transform, batch=3, **options)[1](image), image)


@pytest.mark.parametrize("transform", [colour.saturation, colour.hue, colour.stain])
@pytest.mark.parametrize("channels", [1, 4])
def test_only_three_channels_have_colours(transform, channels):
    with pytest.raises(ConfigError, match=f"needs 3 channels .* has {channels}"):
        draw(transform, batch=1, channels=channels)


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        (colour.saturation, {"factor": [-1.0, 1.0]}, r"saturation\.factor .* 0 <= low"),
        (colour.hue, {"degrees": -5.0}, r"from 0 to 180, got -5\.0"),
        (colour.hue, {"degrees": 200.0}, "from 0 to 180"),
        (colour.stain, {"alpha": [1.05, 0.95]}, r"stain\.alpha .* 0 <= low"),
        (
            colour.stain,
            {"beta": [0.1, -0.1]},
            r"stain\.beta must be \[low, high\] with low <= high",
        ),
    ],
)
def test_nonsense_is_refused(transform, options, message):
    with pytest.raises(ConfigError, match=message):
        draw(transform, batch=1, **options)
