"""Random numbers against a slow version of the hash, statistics, and the same ones everywhere."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from data_prep.augment import random
from data_prep.augment.random import Draws
from data_prep.augment.random import make_keys
from segkit.errors import ConfigError
from tests.test_hashing import WORD
from tests.test_hashing import slow_pcg4d

LARGE = [0, 1, 2**31 - 1, 2**31, 2**32, 2**40 + 3, 2**62 + 5, 2**63 - 1]


def slow_uniform(seed, index, salt, count):
    """What `uniform` gives for one example."""
    seed, index = seed % 2**64, index % 2**64
    key = slow_pcg4d(index % WORD, index // WORD, seed % WORD, seed // WORD)[:2]
    words = [slow_pcg4d(n, salt, *key) for n in range(-(-count // 4))]
    numbers = [(word >> 8) * 2.0**-24 for column in zip(*words, strict=True) for word in column]
    return numbers[:count]


def keys_of(count, seed=7, first=0):
    return make_keys(seed, tf.range(first, first + count, dtype=tf.int64))


def draws_of(count=1, *, salt=0, budget=64, seed=7, **options):
    return Draws(keys_of(count, seed), salt, budget, scope="test", **options)


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.mark.parametrize("index", [*LARGE, -1, -(2**33) - 1])
@pytest.mark.parametrize("seed", [0, 1, 2**32 + 1, 2**63 - 1])
def test_uniform_numbers_agree_with_the_slow_version(seed, index):
    keys = make_keys(tf.constant(seed, tf.int64), tf.constant([index], tf.int64))
    found = random.uniform(keys, 5, 11)
    np.testing.assert_array_equal(found[0], slow_uniform(seed, index, 5, 11))


def test_keys_have_the_shape_of_the_index_and_differ():
    index = tf.constant([LARGE, [-n - 1 for n in LARGE]], tf.int64)
    by_seed = [make_keys(tf.constant(seed, tf.int64), index) for seed in LARGE]
    assert {keys.shape.as_list() == [2, len(LARGE), 2] for keys in by_seed} == {True}
    pairs = np.reshape(by_seed, (-1, 2))
    assert len(np.unique(pairs, axis=0)) == len(LARGE) ** 2 * 2
    np.testing.assert_array_equal(
        make_keys(tf.constant([3, 4], tf.int64), tf.constant([8, 9], tf.int64))[1],
        make_keys(4, tf.constant([9], tf.int64))[0],
    )


def test_many_neighbouring_keys_have_no_two_equal():
    keys = keys_of(200_000).numpy().astype(np.uint64)
    assert len(np.unique(keys[:, 0] << np.uint64(32) | keys[:, 1])) == 200_000


def test_salts_drawn_together_are_those_drawn_apart():
    keys, salts = keys_of(3), [0, 4, 2]
    together = random.uniform(keys, salts, 10)
    assert together.shape == (3, 3, 10)
    for n, salt in enumerate(salts):
        np.testing.assert_array_equal(together[:, n], random.uniform(keys, salt, 10))


@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1), (4000, 100)])
def test_uniform_numbers_are_uniform(shape):
    numbers = random.uniform(keys_of(shape[0]), 0, shape[1]).numpy()
    assert numbers.shape == shape
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    np.testing.assert_array_equal(numbers * 2**24, np.floor(numbers * 2**24))
    counts = np.histogram(numbers, bins=1000, range=(0, 1))[0]
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4
    # the lowest of the 24 bits too is a fair coin
    odd = np.mean(np.mod(numbers * 2**24, 2))
    assert abs(odd - 0.5) < 4 * 0.5 / np.sqrt(numbers.size)


@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1)])
def test_normal_numbers_are_normal(shape):
    numbers = random.normal(keys_of(shape[0]), 1, shape[1]).numpy().ravel()
    assert numbers.dtype == np.float32
    assert np.isfinite(numbers).all()
    assert stats.kstest(numbers, "norm").pvalue > 1e-4
    # Standard errors of the first four moments of n normal numbers, times sqrt(n):
    # 1, sqrt(2), sqrt(15), sqrt(96).
    for power, (moment, error) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        found = np.mean(numbers.astype(np.float64) ** power)
        assert abs(found - moment) < 4 * np.sqrt(error / numbers.size)


def test_normal_numbers_stay_finite_at_both_ends_of_the_uniform_ones(monkeypatch):
    ends = [tf.constant([[x]]) for x in (0.0, 0.25, 1 - 2.0**-24, 0.5)]
    monkeypatch.setattr(random, "_units", lambda *_: ends)
    numbers = random.normal(None, 0, 4).numpy()[0]
    # sqrt(-2 log(2**-25)) = 5.887, the angle a quarter; log(1) = 0
    np.testing.assert_allclose(numbers, [0, 5.887, 0, 0], atol=1e-3)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_neighbours_of_every_kind_are_independent(kind):
    draw, count = getattr(random, kind), 200_000
    one = draw(keys_of(1), 0, count)
    many = draw(keys_of(count), 0, 1)
    pairs = {
        "salts": (one, draw(keys_of(1), 1, count)),
        "examples": (one, draw(keys_of(1, first=1), 0, count)),
        "seeds": (one, draw(keys_of(1, seed=8), 0, count)),
        "salts of many examples": (many, draw(keys_of(count), 1, 1)),
        "seeds of many examples": (many, draw(keys_of(count, seed=8), 0, 1)),
        "numbers in a row": (one[:, 1:], one[:, :-1]),
        "examples in a row": (many[1:], many[:-1]),
        "example and batch": (many, draw(keys_of(count, first=-count)[::-1], 0, 1)),
        "numbers of an example": draw(keys_of(count), 0, 2).numpy().T,
        "words of the hash": draw(keys_of(count), 0, 5).numpy().T[[0, 4]],
    }
    for name, (a, b) in pairs.items():
        assert abs(correlation(a, b)) < 4.5 / np.sqrt(count), name
        # and no dependence in size, which a correlation does not see
        a, b = (np.abs(x - np.mean(x)) for x in (a, b))
        assert abs(correlation(a, b)) < 4.5 / np.sqrt(count), name


def test_numbers_are_the_same_eagerly_in_a_graph_and_under_xla():
    def draw(seed, index):
        keys = make_keys(seed, index)
        return keys, random.uniform(keys, [0, 3], 50), random.normal(keys, 1, 1001)

    arguments = tf.constant(2**40 + 1, tf.int64), tf.constant([0, 5, -3, 2**50], tf.int64)
    keys, uniform, normal = draw(*arguments)
    for compiled in (False, True):
        found = tf.function(draw, jit_compile=compiled)(*arguments)
        np.testing.assert_array_equal(found[0], keys)
        np.testing.assert_array_equal(found[1], uniform)
        np.testing.assert_allclose(found[2], normal, atol=1e-5)


def test_draws_take_the_next_numbers_and_are_logged_by_name():
    log = {}
    draws = draws_of(3, log=log, salt=2)
    numbers = random.uniform(keys_of(3), 4, 64).numpy()
    first = draws.uniform("first", -1.0, 3.0, 2)
    second = draws.chance("second", 0.5)
    third = draws.uniform("third", 0.0, tf.constant([1.0, 10.0, 100.0]))
    np.testing.assert_allclose(first, 4 * numbers[:, :2] - 1, atol=1e-6)
    np.testing.assert_array_equal(second, numbers[:, 2] < 0.5)
    np.testing.assert_allclose(third, numbers[:, 3] * [1, 10, 100], rtol=1e-6)
    assert list(log) == ["test.first", "test.second", "test.third"]
    assert log["test.first"] is first
    again = draws_of(3, salt=2, numbers=tf.constant(numbers)).uniform("first", -1.0, 3.0, 2)
    np.testing.assert_array_equal(again, first)


def test_normals_are_apart_from_the_named_numbers_of_all_steps():
    streams = [random.uniform(keys_of(1), salt, 64).numpy()[0] for salt in range(6)]
    assert len(np.unique(streams)) > 6 * 64 - 3
    np.testing.assert_array_equal(
        draws_of(2, salt=1).normals(3, 4), tf.reshape(random.normal(keys_of(2), 3, 12), (2, 3, 4))
    )


def test_batchwise_draws_are_shared_by_the_batch():
    batch_keys = tf.tile(make_keys(7, tf.constant([-1], tf.int64)), [5, 1])
    shared = draws_of(5, log={}, batch_keys=batch_keys).batchwise()
    numbers = shared.uniform("number", 0.0, 1.0, 2).numpy()
    assert (numbers == numbers[0]).all()
    assert "test.number" in shared.log
    assert not np.isin(numbers, draws_of(5).uniform("number", 0.0, 1.0, 2)).any()


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_chance_is_true_as_often_as_asked(probability):
    count = 40_000
    share = np.mean(draws_of(count).chance("c", probability))
    assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / count)


@pytest.mark.parametrize("limits", [(0.7, 1.5), (0.75, 1.25), (0.99, 3.0)])
def test_half_of_the_factors_around_one_lie_below_it(limits):
    low, high = limits
    factors = draws_of(40_000).around_one("f", limits).numpy()
    below, above = factors[factors < 1], factors[factors >= 1]
    assert abs(below.size / factors.size - 0.5) < 4 * 0.5 / np.sqrt(factors.size)
    assert stats.kstest(below, stats.uniform(low, 1 - low).cdf).pvalue > 1e-4
    assert stats.kstest(above, stats.uniform(1, high - 1).cdf).pvalue > 1e-4


@pytest.mark.parametrize("limits", [(1.0, 1.5), (0.5, 1.0), (1.2, 1.4)])
def test_factors_on_one_side_of_one_are_uniform(limits):
    factors = draws_of(40_000).around_one("f", limits).numpy()
    assert stats.kstest(factors, stats.uniform(limits[0], np.ptp(limits)).cdf).pvalue > 1e-4


def test_limits_without_width_give_exactly_their_value():
    draws = draws_of(1000, budget=16)
    for value in (0.0, 1.0, 0.3, -7.7):
        assert (draws.uniform("u", value, value) == tf.constant(value)).numpy().all()
        assert (draws.around_one("a", (value, value)) == tf.constant(value)).numpy().all()


def test_whole_numbers_from_a_uniform_draw_stay_below_the_upper_limit():
    # The largest number below 1 times any n, rounded to float32, is still below n.
    n = np.arange(1, 1 << 16, dtype=np.float32)
    assert (np.floor(n * np.float32(1 - 2.0**-24)) == n - 1).all()


def test_more_numbers_than_the_budget_are_refused():
    draws = draws_of(budget=16)
    draws.uniform("a", 0.0, 1.0, 4, 4)
    with pytest.raises(ConfigError, match=r"test draws more than 16 numbers per example"):
        draws.uniform("b", 0.0, 1.0)
