import numpy as np
import pytest
from scipy import linalg

from segkit.errors import DataError
from segkit.metrics.generation.features import distance_blocks
from segkit.metrics.generation.precision_recall import precision_recall


def slowly(real, made, neighbours):
    def distance(x, y):
        return np.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))

    def share(examples, others):
        radii = [sorted(distance(x, y) for y in others)[neighbours] for x in others]
        pairs = [
            [distance(e, x) <= r for x, r in zip(others, radii, strict=True)] for e in examples
        ]
        return np.mean([any(row) for row in pairs])

    return share(made, real), share(real, made)


def test_points_on_a_line_by_hand():
    # Real 0, 1, 3: radii to the nearest other 1, 1, 2, so balls [-1, 1], [0, 2], [1, 5]. Made 4,
    # 4.5, 7: radii 0.5, 0.5, 2.5, so balls [3.5, 4.5], [4, 5], [4.5, 9.5].
    found = precision_recall([[0], [1], [3]], [[4], [4.5], [7]], neighbours=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == 0


def test_the_neighbours_widen_the_balls():
    # Of the second neighbours: real radii 3, 2, 3 cover up to 6; made radii 3, 2.5, 3 from 1 on.
    found = precision_recall([[0], [1], [3]], [[4], [4.5], [7]], neighbours=2)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_random_points_agree_with_the_slow_version(neighbours):
    rng = np.random.default_rng(neighbours)
    real, made = rng.normal(size=(30, 3)), rng.normal(0.7, 0.6, size=(25, 3))
    found = precision_recall(real, made, neighbours=neighbours)
    assert found == pytest.approx(slowly(real, made, neighbours))
    assert 0 < found.recall < found.precision < 1


def test_the_same_points_score_1_and_points_far_away_0():
    real = np.random.default_rng(0).normal(size=(40, 4))
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)


def test_one_mode_only_is_precise_with_little_recall():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(m, 0.3, size=(50, 2)) for m in (-5, 5)])
    made = rng.normal(5, 0.3, size=(100, 2))
    found = precision_recall(real, made)
    assert found.precision > 0.9
    assert 0.4 < found.recall <= 0.5


def test_a_collapsed_generator_has_no_recall():
    real = np.random.default_rng(0).normal(size=(40, 4))
    found = precision_recall(real, np.repeat(real[:1] + 1e-3, 40, axis=0))
    assert found == (1, 0)


def test_order_and_rotation_change_nothing():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(30, 4)), rng.normal(0.7, 0.6, size=(30, 4))
    turn = linalg.qr(rng.normal(size=(4, 4)))[0]
    expected = precision_recall(real, made)
    assert precision_recall(real @ turn, made @ turn) == pytest.approx(expected)
    assert precision_recall(rng.permutation(real), rng.permutation(made)) == expected


def test_too_few_examples_and_nan_are_refused():
    with pytest.raises(DataError, match="at least 4 real examples .* got 3"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
    with pytest.raises(DataError, match="NaN"):
        precision_recall(np.zeros((9, 2)), np.full((9, 2), np.nan))


def test_distances_are_exact_for_copies_however_large_the_features(monkeypatch):
    rng = np.random.default_rng(0)
    left = 1e6 + rng.normal(size=(11, 3))
    right = np.concatenate([left[:2], 1e6 + rng.normal(size=(5, 3))])
    monkeypatch.setattr("segkit.metrics.generation.features._BLOCK", 20)  # 2 rows at a time
    blocks = list(distance_blocks(left, right))
    assert len(blocks) == 6
    found = np.concatenate([distances for _, distances in blocks])
    np.testing.assert_allclose(found, linalg.norm(left[:, None] - right, axis=-1), atol=1e-9)
    assert found[0, 0] == found[1, 1] == 0
