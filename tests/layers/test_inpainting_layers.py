"""Gated and partial convolution against slow ones in NumPy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from segkit.layers.gating import Gating
from segkit.layers.partial import PartialConvolution

RNG = np.random.default_rng(0)
SHAPES = {"2-D": (2, 7, 6, 2), "3-D": (2, 4, 5, 6, 2)}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def test_gating_is_that_worked_out_by_hand():
    # elu(2) = 2, sigmoid(0) = 1/2; elu(-ln 2) = 1/2 - 1, sigmoid(ln 3) = 3/4.
    values = np.array([[[[2.0, -np.log(2), 0.0, np.log(3)]]]], np.float32)
    np.testing.assert_allclose(Gating()(values), [[[[1.0, -0.375]]]], atol=1e-6)
    assert Gating().compute_output_shape((None, 5, 5, 8)) == (None, 5, 5, 4)


def test_gates_that_are_open_let_everything_through_and_closed_ones_nothing():
    features = RNG.normal(size=(1, 3, 3, 2)).astype(np.float32)
    for gate, expected in ((50, tf.nn.elu(features)), (-50, 0 * features)):
        gates = np.full_like(features, gate)
        found = Gating()(np.concatenate([features, gates], axis=-1))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def slow_partial(x, known, kernel, bias, strides):
    """Voxel by voxel, in float64, TensorFlow's "same" padding."""
    window, filters = kernel.shape[:-2], kernel.shape[-1]
    sides = x.shape[1:-1]
    after = [-(-n // s) for n, s in zip(sides, strides, strict=True)]
    numbers = zip(sides, after, window, strides, strict=True)
    margins = [max((m - 1) * s + k - n, 0) // 2 for n, m, k, s in numbers]
    made = np.zeros((len(x), *after, filters))
    seen = np.zeros((len(x), *after, 1))
    for place in itertools.product(range(len(x)), *map(range, after)):
        total, count = np.zeros(filters), 0
        for offset in itertools.product(*map(range, window)):
            where = [
                p * s + o - m
                for p, s, o, m in zip(place[1:], strides, offset, margins, strict=True)
            ]
            if any(not 0 <= w < n for w, n in zip(where, sides, strict=True)):
                continue
            voxel = (place[0], *where)
            count += known[voxel][0]
            total += known[voxel][0] * (x[voxel].astype(np.float64) @ kernel[offset])
        if count:
            made[place] = total * np.prod(window) / count + bias
            seen[place] = 1
    return made, seen


@every_shape
@pytest.mark.parametrize("stride", [1, 2])
def test_partial_convolution_is_that_of_numpy(shape, stride):
    rank = len(shape) - 2
    x = RNG.normal(size=shape).astype(np.float32)
    known = (RNG.random((*shape[:-1], 1)) < 0.3).astype(np.float32)
    known[0, :4, :4] = 0  # so that some windows know nothing
    layer = PartialConvolution(3, (3,) * rank, stride)
    layer.build([shape, known.shape])
    layer.bias.assign([1.0, -2.0, 3.0])
    expected, seen = slow_partial(
        x, known, layer.kernel.numpy(), layer.bias.numpy(), (stride,) * rank
    )
    found = layer([x, known])
    assert 0 < seen.mean() < 1
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    np.testing.assert_array_equal(found[1], seen)
    assert [tuple(part.shape) for part in found] == layer.compute_output_shape([shape, None])


@every_shape
def test_what_is_not_known_is_not_seen(shape):
    x = RNG.normal(size=shape).astype(np.float32)
    known = (RNG.random((*shape[:-1], 1)) < 0.5).astype(np.float32)
    layer = PartialConvolution(3, (3,) * (len(shape) - 2))
    other = np.where(known, x, 1e3).astype(np.float32)
    np.testing.assert_array_equal(layer([x, known])[0], layer([other, known])[0])
    assert not np.allclose(layer([x, np.ones_like(known)])[0], layer([other, 0 * known + 1])[0])


def test_where_all_is_known_it_is_a_convolution_in_the_middle():
    x = RNG.normal(size=SHAPES["2-D"]).astype(np.float32)
    layer, plain = PartialConvolution(3, (3, 3)), keras.layers.Conv2D(3, 3, padding="same")
    plain.build(x.shape)
    found, known = layer([x, np.ones((*x.shape[:-1], 1), np.float32)])
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], plain(x)[:, 1:-1, 1:-1], atol=1e-5)
    np.testing.assert_array_equal(known, np.ones_like(known))


def test_the_hole_shrinks_by_the_reach_of_the_kernel_and_then_is_gone():
    known = np.ones((1, 9, 9, 1), np.float32)
    known[:, 2:7, 2:7] = 0
    x, sides = np.zeros((1, 9, 9, 1), np.float32), []
    for number in range(3):
        x, known = PartialConvolution(1, (3, 3), name=f"conv{number}")([x, known])
        sides.append(int(np.sum(known.numpy() == 0)))
    assert sides == [9, 1, 0]


def test_models_with_them_are_saved_and_loaded(tmp_path):
    image, known = keras.Input((6, 6, 2)), keras.Input((6, 6, 1))
    features, seen = PartialConvolution(4, (3, 3), (2, 1), use_bias=False)([image, known])
    model = keras.Model([image, known], [Gating()(features), seen])
    given = [RNG.normal(size=(2, 6, 6, 2)), RNG.integers(0, 2, (2, 6, 6, 1))]
    given = [part.astype(np.float32) for part in given]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(loaded(given), model(given), strict=True):
        np.testing.assert_array_equal(a, b)
