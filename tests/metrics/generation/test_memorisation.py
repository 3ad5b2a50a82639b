import math

import numpy as np
import pytest
from scipy import linalg

from segkit.errors import DataError
from segkit.metrics.generation.memorisation import memorisation


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def draw(rng, number):
    """Examples of twelve features on four clusters."""
    centres = np.repeat(np.arange(4.0), 3)[None] * np.eye(4).repeat(3, axis=1)
    return centres[rng.integers(4, size=number)] + rng.normal(size=(number, 12))


def test_fresh_examples_are_not_called_memorised(rng):
    training, held_out = draw(rng, 500), draw(rng, 200)
    found = [memorisation(training, held_out, draw(rng, 200)) for _ in range(10)]
    assert sum(f.p_value < 0.1 for f in found) <= 3
    assert not any(f.alarm for f in found)
    assert all(0.9 < f.ratio < 1.1 for f in found)


def test_copies_of_training_examples_are_found_with_what_they_copy(rng):
    training, held_out = draw(rng, 500), draw(rng, 200)
    chosen = rng.integers(500, size=200)
    found = memorisation(training, held_out, training[chosen])
    assert found.alarm
    assert found.ratio == 0
    assert found.p_value < 1e-20
    np.testing.assert_array_equal(found.made, 0)
    np.testing.assert_array_equal(found.relative, 0)
    np.testing.assert_array_equal(training[found.nearest], training[chosen])


def test_near_copies_are_found(rng):
    training, held_out = draw(rng, 500), draw(rng, 200)
    made = training[:200] + 0.3 * rng.normal(size=(200, 12))
    found = memorisation(training, held_out, made)
    assert found.alarm
    assert 0 < found.ratio < 0.6


def test_a_few_copies_among_fresh_examples_are_found(rng):
    training, held_out = draw(rng, 500), draw(rng, 200)
    made = np.concatenate([training[:14], draw(rng, 186)])
    found = memorisation(training, held_out, made)
    assert found.alarm
    assert found.ratio > 0.9  # the median says nothing of them
    assert found.nearer >= 14


def test_a_few_copies_are_found_where_held_out_examples_are_copies_too(rng):
    training = draw(rng, 500)
    training[-1] = 0  # an empty slice
    held_out = np.concatenate([draw(rng, 199), training[-1:]])
    found = memorisation(training, held_out, np.concatenate([training[:25], draw(rng, 175)]))
    assert found.nearer == 0
    assert found.alarm


def test_blurred_examples_are_near_to_all_and_not_memorised(rng):
    training, held_out = draw(rng, 500), draw(rng, 200)
    found = memorisation(training, held_out, training.mean(axis=0) + 0.3 * draw(rng, 200))
    assert found.ratio < 0.95
    assert not found.alarm


def test_distances_by_hand():
    training = np.arange(0, 200, 10.0)[:, None]  # 0, 10, ... 190
    held_out, made = training + 5, training + 1
    found = memorisation(training, held_out, made)
    np.testing.assert_allclose(found.made, 1)
    np.testing.assert_allclose(found.held_out, 5)
    np.testing.assert_array_equal(found.nearest, np.arange(20))
    # The nearest twentieth of 20 is one, so at least the second one: 9 away, 11 at the end.
    np.testing.assert_allclose(found.relative, [*[1 / 9] * 19, 1 / 11])
    assert found.ratio == pytest.approx(0.2)
    # All 20 made ones come first, one of the 40! / (20! 20!) orders; times 2 tests.
    assert found.nearer == 20
    assert found.p_value == pytest.approx(2 / math.comb(40, 20))


def test_the_number_of_first_ones_has_the_chance_of_an_urn():
    training = np.arange(0, 200, 10.0)[:, None]
    held_out, made = training + 4, training + 4.9
    made[:3] = training[:3] + 1  # relative distance 1/9; the other made ones are the farthest
    found = memorisation(training, held_out, made)
    assert found.nearer == 3
    # 20/40 * 19/39 * 18/38, times 2 tests; the lowest two say 20/40 * 19/39.
    assert found.p_value == pytest.approx(2 * 20 * 19 * 18 / (40 * 39 * 38))


def test_equal_distances_are_no_evidence():
    training = np.arange(0, 200, 10.0)[:, None]
    found = memorisation(training, training + 4, training + 4)
    assert found.p_value == 1
    assert found.ratio == 1


def test_order_and_rotation_change_nothing(rng):
    training, held_out, made = draw(rng, 100), draw(rng, 50), draw(rng, 40)
    turn = linalg.qr(rng.normal(size=(12, 12)))[0]
    expected = memorisation(training, held_out, made)
    turned = memorisation(training @ turn, held_out @ turn, made @ turn)
    np.testing.assert_allclose(turned.made, expected.made)
    assert turned.p_value == pytest.approx(expected.p_value)
    mixed = memorisation(rng.permutation(training), rng.permutation(held_out), made[::-1])
    np.testing.assert_allclose(mixed.made, expected.made[::-1])
    assert mixed.p_value == pytest.approx(expected.p_value)


def test_too_few_examples_and_nan_are_refused(rng):
    with pytest.raises(DataError, match="at least 20 held_out examples .* got 19"):
        memorisation(draw(rng, 50), draw(rng, 19), draw(rng, 50))
    broken = draw(rng, 50)
    broken[3, 3] = np.nan
    with pytest.raises(DataError, match="1 training examples hold NaN"):
        memorisation(broken, draw(rng, 50), draw(rng, 50))
