import numpy as np
import pytest

from segkit.errors import DataError
from segkit.inference.features import Extractor
from segkit.inference.realism import describe_memorisation
from segkit.inference.realism import distinct
from segkit.inference.realism import score_realism
from segkit.metrics.generation.frechet_distance import frechet_distance
from segkit.metrics.generation.precision_recall import precision_recall

FIRST = Extractor("first three", lambda images: images.reshape(len(images), -1)[:, :3])
ALL = Extractor("all", lambda images: images.reshape(len(images), -1))


def images(seed, number=40, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, size=(number, 8, 8, 1)).astype("f4")


@pytest.fixture
def kinds():
    names = ("held_out", "made", "training", "all_training")
    found = {name: images(seed) for seed, name in enumerate(names)}
    found["made"] += 0.5
    return found


def test_each_extractor_has_its_scores(kinds):
    report, checks = score_realism(kinds, [FIRST, ALL])
    assert [entry["features"] for entry in report] == ["first three", "all"]
    assert [entry["size"] for entry in report] == [3, 64]
    first, second = report
    real, made, training = (FIRST(kinds[n]) for n in ("held_out", "made", "training"))
    assert first["made"]["frechet_distance"] == frechet_distance(real, made)
    assert first["training"]["frechet_distance"] == frechet_distance(real, training)
    assert first["made"]["frechet_distance"] > first["training"]["frechet_distance"]
    assert first["made"]["precision"] == precision_recall(real, made).precision
    assert first["made"]["recall"] == precision_recall(real, made).recall
    assert second["made"]["kernel_distance"] > 3 * abs(second["training"]["kernel_distance"])
    assert second["made"]["frechet_distance"] is None
    assert second["notes"] == [
        "The Fréchet distance needs more than 64 images of each kind on these features, there are "
        "40."
    ]
    assert first["notes"] == []
    assert [len(check.made) for check in checks] == [40, 40]


def test_kinds_are_compared_in_equal_numbers(kinds):
    more = {**kinds, "made": np.concatenate([kinds["made"], 100 + images(9)])}
    report = score_realism(more, [FIRST])[0][0]
    assert report["made"] == score_realism(kinds, [FIRST])[0][0]["made"]


def test_copies_raise_the_alarm(kinds):
    found, check = describe_memorisation({**kinds, "made": kinds["all_training"]}, ALL)
    assert found["features"] == "all"
    assert found["alarm"]
    assert found["ratio"] == found["distance"] == 0
    assert found["nearer_than_all_held_out"] == 40
    np.testing.assert_array_equal(check.nearest, np.arange(40))
    report = score_realism({**kinds, "made": kinds["all_training"]}, [ALL])[0][0]
    assert report["memorisation"] == {k: v for k, v in found.items() if k != "features"}
    assert not score_realism({**kinds, "made": images(7)}, [ALL])[0][0]["memorisation"]["alarm"]


def test_of_equal_images_one_counts():
    array = images(0)
    array[7] = array[3]
    kept = distinct(array)
    assert len(kept) == 39
    assert 3 in kept
    assert 7 not in kept
    array[5, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match="1 of 40 images hold NaN"):
        distinct(array)
