"""Intensity transforms against values by hand, NumPy and nnU-Net's own."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from data_prep.augment import intensity
from data_prep.augment.random import Draws
from data_prep.augment.random import make_keys
from data_prep.augment.space import make_space
from segkit.errors import ConfigError

# Function, a parameter without effect, and one with an effect: (batch, channels, ...).
ADJUSTMENTS = {
    "brightness": (intensity.adjust_brightness, np.ones((3, 4)), np.linspace(1.2, 1.8, 12)),
    "contrast": (intensity.adjust_contrast, np.ones((3, 4)), np.linspace(0.4, 0.8, 12)),
    "gamma": (intensity.adjust_gamma, np.ones((3, 4)), np.linspace(0.6, 1.8, 12)),
    "inverted gamma": (
        lambda image, g: intensity.adjust_gamma(image, g, invert=True, keep_statistics=False),
        np.ones((3, 4)),
        np.linspace(0.6, 1.8, 12),
    ),
    "histogram": (
        intensity.shift_histogram,
        np.zeros((3, 4, 5)),
        np.random.default_rng(1).uniform(-0.08, 0.08, 60),
    ),
}


@pytest.fixture(params=ADJUSTMENTS)
def adjustment(request):
    change, neutral, strong = ADJUSTMENTS[request.param]
    return change, neutral.astype("f4"), strong.reshape(neutral.shape).astype("f4")


def make_image(shape=(3, 4, 5, 6, 7)):
    rng = np.random.default_rng(0)
    offsets = rng.uniform(-3, 3, (*shape[:2], 1, 1, 1))
    return (rng.normal(size=shape) + offsets).astype(np.float32)


def one_channel(*values):
    return tf.reshape(tf.constant(values, tf.float32), (1, 1, 1, 1, -1))


def draw(transform, channels, batch=4000, **options):
    """What a transform draws for a batch: name -> array, and its function of an image."""
    log = {}
    keys = make_keys(7, tf.range(batch, dtype=tf.int64))
    draws = Draws(keys, salt=0, budget=16 + 16 * channels, scope="it", log=log)
    space = make_space((1, 2, 3), tf.ones((batch, 3)), channels, 2)
    change = transform(draws, space, **options)
    return {name: value.numpy() for name, value in log.items()}, change


def test_the_neutral_parameter_is_the_identity_bit_by_bit(adjustment):
    change, neutral, _ = adjustment
    image = make_image()
    for run in (change, tf.function(change, jit_compile=True)):
        np.testing.assert_array_equal(run(image, neutral), image)


def test_a_batch_is_its_examples_and_an_image_its_channels_one_by_one(adjustment):
    change, neutral, strong = adjustment
    image = make_image()
    changed = np.array(change(image, strong))
    assert np.abs(changed - image).max(axis=(2, 3, 4)).min() > 0.05
    for b in range(3):
        for c in range(4):
            one = (slice(b, b + 1), slice(c, c + 1))
            np.testing.assert_allclose(change(image[one], strong[one]), changed[one], atol=1e-5)
    strong[1, 2] = neutral[1, 2]
    np.testing.assert_array_equal(change(image, strong)[1, 2], image[1, 2])


def test_eager_graph_and_xla_agree(adjustment):
    change, _, strong = adjustment
    image = make_image()
    for jit in (False, True):
        found = tf.function(change, jit_compile=jit)(image, strong)
        np.testing.assert_allclose(found, change(image, strong), atol=1e-5)


def test_a_constant_channel_stays_finite(adjustment):
    change, _, strong = adjustment
    for value in (0.0, -2.5):
        for run in (change, tf.function(change, jit_compile=True)):
            found = run(tf.fill((3, 4, 1, 2, 2), value), strong).numpy()
            assert np.isfinite(found).all()
            if change is not intensity.adjust_brightness:
                np.testing.assert_allclose(found, value, atol=1e-6)


def test_brightness_by_hand():
    found = intensity.adjust_brightness(one_channel(0, -1, 2), tf.constant([[1.5]]))
    assert found.numpy().ravel().tolist() == [0, -1.5, 3]


@pytest.mark.parametrize(
    # mean 2: 2 + 0.5 * (0 - 2) = 1; 2 + 2 * (0 - 2) = -2, kept within 0..5
    ("factor", "expected"),
    [(0.5, [1, 1.5, 2, 3.5]), (2, [0, 0, 2, 5]), (0, [2, 2, 2, 2])],
)
def test_contrast_by_hand(factor, expected):
    found = intensity.adjust_contrast(one_channel(0, 1, 2, 5), tf.constant([[factor]], tf.float32))
    assert found.numpy().ravel().tolist() == expected


@pytest.mark.parametrize(
    # Printed by GammaTransform of batchgeneratorsv2 0.3.6. By hand: -1 + 4 * 0.25**1.5 = -0.5.
    ("invert", "keep", "expected"),
    [
        (False, False, [-1.0, -0.5, -0.081441, 1.598076, 3.0]),
        (False, True, [-0.644593, -0.16291, 0.240316, 1.858309, 3.208878]),
        (True, False, [-1.0, 0.401924, 1.023576, 2.5, 3.0]),
        (True, True, [-1.260155, 0.125765, 0.74032, 2.199889, 2.69418]),
    ],
)
def test_gamma_equals_nnunet(invert, keep, expected):
    image = one_channel(-1, 0, 0.5, 2, 3)
    found = intensity.adjust_gamma(image, tf.constant([[1.5]]), invert=invert, keep_statistics=keep)
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-5)


def test_gamma_keeps_mean_and_deviation_or_the_range():
    image, exponent = make_image(), np.full((3, 4), 1.4, np.float32)
    axes = (2, 3, 4)
    kept = intensity.adjust_gamma(image, exponent).numpy()
    np.testing.assert_allclose(kept.mean(axes), image.mean(axes), atol=1e-5)
    np.testing.assert_allclose(kept.std(axes), image.std(axes), atol=1e-5)
    free = intensity.adjust_gamma(image, exponent, keep_statistics=False).numpy()
    np.testing.assert_allclose(free.min(axes), image.min(axes), atol=1e-5)
    np.testing.assert_allclose(free.max(axes), image.max(axes), atol=1e-5)


def test_inverted_gamma_is_the_gamma_of_the_negative():
    image, exponent = make_image(), np.full((3, 4), 0.7, np.float32)
    found = intensity.adjust_gamma(image, exponent, invert=True)
    np.testing.assert_allclose(found, -intensity.adjust_gamma(-image, exponent), atol=1e-5)


def test_histogram_shift_equals_numpys_interpolation():
    image = make_image()
    moves = np.random.default_rng(2).uniform(-0.1, 0.1, (3, 4, 3)).astype(np.float32)
    found = intensity.shift_histogram(image, moves).numpy()
    for b in range(3):
        for c in range(4):
            low, span = image[b, c].min(), np.ptp(image[b, c])
            knots = np.linspace(0, 1, 5)
            curve = knots + np.pad(moves[b, c], 1)
            expected = low + span * np.interp((image[b, c] - low) / span, knots, curve)
            np.testing.assert_allclose(found[b, c], expected, atol=1e-5)


def test_a_drawn_histogram_shift_keeps_order_and_range():
    ramp = np.tile(
        np.linspace(-2, 5, 6, dtype=np.float32).reshape(1, 1, 1, 2, 3), (4000, 1, 1, 1, 1)
    )
    found = draw(intensity.histogram_shift, 1)[1](ramp).numpy().reshape(4000, 6)
    assert (np.diff(found) >= -1e-5).all()
    np.testing.assert_allclose(found[:, [0, -1]], [[-2, 5]] * 4000, atol=1e-5)
    # The curve's middle moves by up to an eighth of the range, uniformly.
    middle = draw(intensity.histogram_shift, 1)[0]["it.moves"][:, 0, 1]
    assert middle.std() == pytest.approx(0.125 / np.sqrt(3), rel=0.05)


@pytest.mark.parametrize(
    ("transform", "name", "low", "high"),
    [
        (intensity.brightness, "factor", 0.75, 1.25),
        (intensity.contrast, "factor", 0.75, 1.25),
        (intensity.gamma, "gamma", 0.7, 1.5),
    ],
)
def test_half_of_the_draws_lie_below_one_each_channel_its_own(transform, name, low, high):
    for channels in (1, 3, 4):
        drawn = draw(transform, channels)[0][f"it.{name}"]
        assert drawn.shape == (4000, channels)
        assert low <= drawn.min() < low + 0.01
        assert high - 0.01 < drawn.max() <= high
        # binomial: standard deviation of the share sqrt(0.25 / 4000) = 0.008
        np.testing.assert_allclose((drawn < 1).mean(axis=0), 0.5, atol=0.032)
        assert np.abs(np.corrcoef(drawn.T) - np.eye(channels)).max() < 0.07
    drawn = draw(transform, 1, **{name: [1.1, 1.2]})[0][f"it.{name}"]
    assert 1.1 <= drawn.min() < drawn.max() <= 1.2


@pytest.mark.parametrize(
    ("transform", "options"),
    [
        (intensity.brightness, {"factor": [1.0, 1.0]}),
        (intensity.contrast, {"factor": [1.0, 1.0]}),
        (intensity.gamma, {"gamma": [1.0, 1.0]}),
        (intensity.histogram_shift, {"strength": 0.0}),
    ],
)
def test_options_without_effect_change_nothing(transform, options):
    image = make_image((5, 3, 1, 2, 3))
    np.testing.assert_array_equal(draw(transform, 3, batch=5, **options)[1](image), image)


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        (intensity.brightness, {"factor": [1.2, 0.8]}, r"brightness\.factor .* got \[1\.2, 0\.8\]"),
        (intensity.brightness, {"factor": [-0.1, 0.8]}, "0 <= low"),
        (intensity.contrast, {"factor": [0.8]}, r"must be \[low, high\]"),
        (intensity.gamma, {"gamma": [0.0, 1.0]}, r"0\.01 <= low"),
        (intensity.gamma, {"gamma": [1.0, float("nan")]}, r"0\.01 <= low"),
        (intensity.histogram_shift, {"strength": 1.5}, r"got 1\.5 and 5"),
        (intensity.histogram_shift, {"control_points": 2}, "3 to 18"),
        (intensity.histogram_shift, {"control_points": 19}, "3 to 18"),
    ],
)
def test_nonsense_is_refused(transform, options, message):
    with pytest.raises(ConfigError, match=message):
        draw(transform, 1, batch=1, **options)


def test_the_most_control_points_fit_the_budget():
    assert draw(intensity.histogram_shift, 4, control_points=18)[0]["it.moves"].shape[1:] == (4, 16)
