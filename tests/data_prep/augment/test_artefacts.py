"""Artefacts against NumPy's Fourier transform, SciPy's Legendre polynomials and plain loops."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from data_prep.augment import artefacts
from segkit.errors import ConfigError
from tests.data_prep.augment.test_filters import make_inputs

WRAPPERS = ("bias_field", "spike", "ghosting", "cutout")


def make_image(shape=(3, 2, 8, 10, 9), seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def run(name, image, first=0, spacing=(1.0, 1.0, 1.0), **options):
    return getattr(artefacts, name)(*make_inputs(name, image, spacing, first), **options)(image)


def draw(name, patch=(8, 8, 8), spacing=(1.0, 1.0, 1.0), **options):
    """The parameters that a transform draws for many examples of two channels."""
    draws, space = make_inputs(name, tf.zeros((2000, 2, *patch)), spacing)
    getattr(artefacts, name)(draws, space, **options)
    return {key.split(".")[1]: value.numpy() for key, value in draws.log.items()}


def log_field(shape, coefficients, order):
    """The bias field's logarithm by loops, its polynomials less their mean over the patch."""

    def basis(degree, side):
        values = special.eval_legendre(degree, (np.arange(side) + 0.5) * 2 / side - 1)
        return values - values.mean() if degree else values

    field, terms = np.zeros(shape), iter(coefficients)
    for degrees in itertools.product(range(order + 1), repeat=3):
        if 1 <= sum(degrees) <= order:
            z, y, x = map(basis, degrees, shape)
            field += next(terms) * z[:, None, None] * y[:, None] * x
    return field


@pytest.mark.parametrize(("order", "terms"), [(1, 3), (2, 9), (3, 19)])
def test_a_bias_field_is_a_sum_of_legendre_polynomials(order, terms):
    image = make_image((2, 2, 6, 7, 8))
    coefficients = np.random.default_rng(1).uniform(-0.5, 0.5, (2, terms))
    result = artefacts.multiply_bias(image, tf.constant(coefficients, tf.float32), order=order)
    for n, c in itertools.product(range(2), range(2)):
        x = image[n, c].numpy()
        field = log_field(x.shape, coefficients[n], order)
        assert abs(field.mean()) < 1e-12
        expected = x.min() + (x - x.min()) * np.exp(field)
        np.testing.assert_allclose(result[n, c], expected, atol=1e-5)


def test_a_bias_field_by_hand():
    # the first term is P_1 along the width: at the middles of four voxels -3/4, -1/4, 1/4, 3/4
    line = tf.constant([0.0, 1.0, 1.0, 2.0])[None, None, None, None]
    result = artefacts.multiply_bias(line, tf.constant([[0.4, 0.0, 0.0]]), order=1)
    expected = [0, np.exp(-0.1), np.exp(0.1), 2 * np.exp(0.3)]
    np.testing.assert_allclose(result.numpy().ravel(), expected, rtol=1e-6)


def test_the_bias_is_relative_to_the_least_value():
    image = make_image((1, 1, 6, 7, 8))
    coefficients = tf.fill((1, 19), 0.3)
    result = artefacts.multiply_bias(image, coefficients, order=3)
    moved = artefacts.multiply_bias(image * 2 - 5, coefficients, order=3)
    np.testing.assert_allclose(moved, result * 2 - 5, atol=2e-5)
    assert np.argmin(result) == np.argmin(image)
    assert np.min(result) == np.min(image)


def test_the_bias_field_of_a_slice_has_no_terms_in_depth():
    image = make_image((1, 1, 1, 7, 8))
    coefficients = np.zeros((1, 9), np.float32)
    coefficients[0, 5:] = 0.5  # (1,0,0), (1,0,1), (1,1,0), (2,0,0)
    result = artefacts.multiply_bias(image, tf.constant(coefficients), order=2)
    np.testing.assert_array_equal(result, image)


def test_the_log_field_is_as_strong_as_stated():
    fields = [log_field((8, 8, 8), c, 3).std() for c in draw("bias_field")["coefficients"][:100]]
    assert 0.4 < np.sqrt(np.mean(np.square(fields))) < 0.55


def spike_in_k_space(x, cycles, phase, amplitude):
    spectrum = np.fft.fftn(x)
    value = amplitude * x.size / 2 * np.exp(1j * phase)
    spectrum[tuple(cycles)] += value
    spectrum[tuple(-cycles)] += np.conj(value)
    result = np.fft.ifftn(spectrum)
    np.testing.assert_allclose(result.imag, 0, atol=1e-9)
    return result.real


def test_a_spike_is_one_value_in_k_space_and_its_conjugate():
    image = make_image((1, 2, 6, 9, 8))
    # the last of the second channel lies at the highest frequency of both even sides
    cycles = np.array([[[1, 2, 3], [0, -4, 2]], [[-2, 0, 1], [-3, 1, -4]]])
    phase = np.array([[0.3, 2.0], [4.0, 6.0]])
    strength = np.array([[0.5, 0.2], [1.0, 0.7]])
    result = artefacts.add_spikes(
        image, *(tf.constant(v[None], tf.float32) for v in (cycles, phase, strength))
    )
    for c in range(2):
        expected = image[0, c].numpy().astype(float)
        std = expected.std()
        for s in range(2):
            expected = spike_in_k_space(expected, cycles[c, s], phase[c, s], strength[c, s] * std)
        np.testing.assert_allclose(result[0, c], expected, atol=1e-5)


def test_spikes_lie_anywhere_in_k_space():
    drawn = draw("spike", patch=(1, 8, 9), spikes=3, intensity=[0.2, 0.4])
    assert drawn["cycles"].shape == (2000, 2, 3, 3)
    for axis, expected in enumerate(([0], range(-4, 4), range(-4, 5))):
        cycles = np.floor(drawn["cycles"][..., axis])
        found, counts = np.unique(cycles, return_counts=True)
        assert found.tolist() == list(expected)
        share = 1 / len(found)
        assert np.all(abs(counts / cycles.size - share) < 5 * np.sqrt(share / cycles.size))
    assert 0.2 <= drawn["intensity"].min() < 0.21
    assert 0.39 < drawn["intensity"].max() <= 0.4
    assert abs(drawn["phase"].mean() - np.pi) < 4 * 2 * np.pi * 0.289 / drawn["phase"].size ** 0.5


def ghosts_in_k_space(x, axis, ghosts, strength, restore):
    spectrum = np.moveaxis(np.fft.fft(x, axis=axis), axis, 0).copy()
    side = x.shape[axis]
    for index in range(side):
        line = index if index < side / 2 else index - side
        if line % ghosts == 0 and line != 0 and abs(line) > restore * side / 2:
            spectrum[index] *= 1 - strength
    result = np.fft.ifft(np.moveaxis(spectrum, 0, axis), axis=axis)
    np.testing.assert_allclose(result.imag, 0, atol=1e-9)
    return result.real


@pytest.mark.parametrize("restore", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ghosts_are_weakened_lines_of_k_space(axis, restore):
    image = make_image((2, 2, 12, 15, 16))
    ghosts = np.array([[4, 3], [1, 5]])
    strength = np.array([[0.5, 1.0], [0.7, 0.25]])
    per_axis = np.zeros((2, 2, 3))
    per_axis[..., axis] = strength
    result = artefacts.add_ghosts(
        image, tf.constant(ghosts, tf.float32), tf.constant(per_axis, tf.float32), restore=restore
    )
    for n, c in itertools.product(range(2), range(2)):
        x = image[n, c].numpy().astype(float)
        expected = ghosts_in_k_space(x, axis, ghosts[n, c], strength[n, c], restore)
        np.testing.assert_allclose(result[n, c], expected, atol=1e-5)


def test_ghosts_are_cyclic_shifts_where_they_divide_the_side():
    image = make_image((1, 1, 1, 1, 12))
    result = artefacts.add_ghosts(image, tf.constant([[4.0]]), tf.constant([[[0.0, 0.0, 0.6]]]))
    line = image.numpy().ravel()
    copies = np.mean([np.roll(line, shift) for shift in (0, 3, 6, 9)], axis=0)
    expected = line - 0.6 * (copies - line.mean())
    np.testing.assert_allclose(result.numpy().ravel(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("patch", "spacing", "allowed"),
    [
        ((8, 8, 8), (1.0, 1.0, 1.0), (0, 1, 2)),
        ((1, 16, 16), (1.0, 1.0, 1.0), (1, 2)),
        ((8, 8, 8), (1.0, 5.0, 1.0), (0, 2)),
    ],
)
def test_ghosts_run_along_one_axis_that_is_not_thin(patch, spacing, allowed):
    image = make_image((60, 2, *patch))
    changed = run("ghosting", image, spacing=spacing, ghosts=[2, 3]) - image
    # along the axis of the ghosts the mean of what was added is 0, along others it is not
    means = [np.abs(np.mean(changed, axis=a + 2)).max(axis=(2, 3)) for a in range(3)]
    quiet = np.stack(means, axis=-1) < 1e-5
    assert np.all(quiet.sum(axis=-1) == 1)
    counts = np.bincount(np.argmax(quiet, axis=-1).ravel(), minlength=3)
    assert set(np.nonzero(counts)[0]) == set(allowed)
    share = 1 / len(allowed)
    assert np.all(abs(counts[list(allowed)] / 120 - share) < 4 * np.sqrt(share * (1 - share) / 120))


def test_numbers_of_ghosts_are_whole_and_include_both_ends():
    drawn = draw("ghosting", ghosts=[2, 5], intensity=[0.5, 1.0])
    numbers, counts = np.unique(np.floor(drawn["ghosts"]), return_counts=True)
    assert numbers.tolist() == [2, 3, 4, 5]
    assert np.all(abs(counts / 4000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000))
    assert abs(drawn["intensity"].mean() - 0.75) < 4 * 0.5 * 0.289 / 4000**0.5


def test_boxes_are_set_to_the_mean_of_each_channel():
    image = make_image((2, 2, 6, 7, 8))
    start = np.array([[[1, 2, 3], [-1, -1, 5]], [[0, 0, 0], [4, 4, 7]]])
    side = np.array([[[2, 3, 4], [2, 3, 9]], [[6, 1, 1], [5, 2, 0]]])
    result = artefacts.fill_boxes(
        image, tf.constant(start, tf.float32), tf.constant(side, tf.float32)
    )
    for n, c in itertools.product(range(2), range(2)):
        x = image[n, c].numpy()
        expected, mean = x.copy(), x.mean()
        for box, sides in zip(start[n], side[n], strict=True):
            expected[
                tuple(slice(max(b, 0), max(b + s, 0)) for b, s in zip(box, sides, strict=True))
            ] = mean
        np.testing.assert_allclose(result[n, c], expected, atol=1e-6)
        kept = expected == x
        np.testing.assert_array_equal(result[n, c].numpy()[kept], x[kept])


def test_boxes_have_the_size_asked_for_and_lie_everywhere():
    image = make_image((500, 1, 1, 10, 20))
    boxes = run("cutout", image, size=[0.5, 0.5]).numpy() != image.numpy()
    # half of 10 and of 20 voxels, where the box lies inside
    assert boxes.sum(axis=(1, 2, 3, 4)).max() == 5 * 10
    assert boxes.any(axis=(0, 1, 2)).all()
    assert boxes.sum(axis=(1, 2, 3, 4)).min() < 5 * 10


def test_all_channels_lose_the_same_boxes():
    image = make_image((20, 3, 6, 7, 8))
    boxes = run("cutout", image, boxes=3) != image
    np.testing.assert_array_equal(boxes, np.broadcast_to(boxes[:, :1], boxes.shape))


def test_zero_strength_is_exactly_the_identity():
    image = make_image()
    neutral = {
        "bias_field": {"coefficient": 0.0},
        "spike": {"intensity": [0.0, 0.0]},
        "ghosting": {"intensity": [0.0, 0.0]},
        "cutout": {"size": [0.0, 0.0]},
    }
    for name in WRAPPERS:
        for function in (run, tf.function(run), tf.function(run, jit_compile=True)):
            np.testing.assert_array_equal(function(name, image, **neutral[name]), image)
    np.testing.assert_array_equal(run("ghosting", image, restore=1.0), image)


@pytest.mark.parametrize("name", ["spike", "ghosting"])
def test_channels_draw_apart(name):
    one = make_image((4, 1, 20, 22, 24))
    result = run(name, tf.repeat(one, 2, axis=1)).numpy()
    assert np.all(np.abs(result[:, 0] - result[:, 1]).max(axis=(1, 2, 3)) > 1e-3)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_channel_does_not_see_the_others(name):
    image = make_image((2, 3, 20, 22, 24)).numpy()
    other = image.copy()
    other[:, 1] = 100 * other[:, 1] + 7
    result, changed = run(name, tf.constant(image)), run(name, tf.constant(other))
    np.testing.assert_allclose(result[:, ::2], changed[:, ::2], atol=1e-6)
    assert np.any(result[:, 0] != image[:, 0])


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_batch_is_its_examples_one_by_one(name):
    image = make_image((4, 3, 12, 20, 21))
    together = run(name, image)
    for n in range(4):
        np.testing.assert_allclose(run(name, image[n : n + 1], first=n)[0], together[n], atol=1e-6)


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("shape", [(2, 1, 18, 20, 22), (2, 4, 1, 24, 32)])
def test_the_same_eagerly_in_a_graph_and_under_xla(name, shape):
    image = make_image(shape)
    eager = run(name, image)
    for jit in (False, True):
        compiled = tf.function(lambda x: run(name, x), jit_compile=jit)
        np.testing.assert_allclose(compiled(image), eager, atol=1e-5)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_constant_image_stays_constant(name):
    image = tf.fill((2, 4, 6, 7, 8), 3.0)
    np.testing.assert_allclose(run(name, image), image, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bias_field", {"order": 4}, "bias_field.order must be between 1 and 3, got 4"),
        ("bias_field", {"coefficient": -1.0}, "bias_field.coefficient must be .* got -1.0"),
        ("spike", {"spikes": 0}, "spike.spikes must be between 1 and 3, got 0"),
        ("spike", {"intensity": [0.5]}, r"spike.intensity must be \[low, high\] .* got \[0.5\]"),
        ("ghosting", {"ghosts": [0, 4]}, "ghosting.ghosts must be .* 1 <= low <= high, got"),
        ("ghosting", {"intensity": [0.5, 2.0]}, "ghosting.intensity .* <= high <= 1, got"),
        ("ghosting", {"restore": -0.1}, "ghosting.restore must be between 0 and 1, got -0.1"),
        ("cutout", {"boxes": 6}, "cutout.boxes must be between 1 and 5, got 6"),
        ("cutout", {"size": [0.3, 0.1]}, r"cutout.size .* got \[0.3, 0.1\]"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        run(name, make_image((1, 1, 4, 4, 4)), **options)
