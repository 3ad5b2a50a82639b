"""Transforms of the user's own, by name: the same as built-in ones that do the same."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from data_prep.augment.apply import Keys
from data_prep.augment.apply import augment_batch
from data_prep.augment.apply import augment_record
from data_prep.augment.apply import check
from data_prep.augment.apply import mix
from data_prep.augment.policy import parse_policy
from data_prep.augment.random import make_keys
from segkit.errors import ConfigError

OWN = """
import tensorflow as tf
from data_prep.augment import geometry, intensity, mixing
from data_prep.augment.geometry import Motion


def factor(draws, space, *, factor: list[float] = (0.75, 1.25)):
    return intensity.brightness(draws, space, factor=factor)


def turn(draws, space, *, degrees: float = 30.0) -> geometry.Motion:
    return geometry.rotation(draws, space, degrees=degrees)


def cut(draws, space) -> "mixing.Mixing":
    return mixing.cutmix(draws, space)


def greedy(draws, space):
    drawn = draws.uniform("many", 0.0, 1.0, 16 + 16 * space.channels)
    return lambda image: image + drawn[:, :1, None, None, None]


def half(draws, space):
    return lambda image: tf.cast(image, tf.float16)


def no_shift(draws, space) -> Motion:
    return Motion(tf.eye(3, batch_shape=[draws.batch]), tf.zeros(3))


def soft(draws, space) -> mixing.Mixing:
    return mixing.mixup(draws, space)


def wrong_label(draws, space) -> mixing.Mixing:
    return lambda image, label: (image, tf.cast(label, tf.float32))
"""
MODULE = "own_transforms_for_test"
BUILT_IN = [
    {"rotation": {"degrees": 30.0, "probability": 0.7}},
    {"brightness": {"factor": [0.5, 1.5], "probability": 0.7}},
    {"cutmix": {"probability": 0.7}},
]
MINE = [
    {f"{MODULE}:turn": {"degrees": 30.0, "probability": 0.7}},
    {f"{MODULE}:factor": {"factor": [0.5, 1.5], "probability": 0.7}},
    {f"{MODULE}:cut": {"probability": 0.7}},
]


@pytest.fixture(autouse=True)
def _own_module(tmp_path, monkeypatch):
    (tmp_path / f"{MODULE}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(MODULE, None)


def test_the_annotation_of_the_result_says_the_kind():
    steps = parse_policy([*MINE, *BUILT_IN])
    assert [step.kind for step in steps] == 2 * ["geometry", "intensity", "mixing"]
    assert [step.label for step in steps[:3]] == ["turn", "factor", "cut"]
    assert [step.label for step in parse_policy(MINE[:1] * 2)] == ["turn", "turn 2"]


def batch(count=6):
    rng = np.random.default_rng(0)
    image = tf.constant(rng.normal(size=(count, 6, 8, 8, 2)), tf.float32)
    label = tf.constant(rng.integers(0, 3, (count, 6, 8, 8)), tf.int32)
    keys = Keys(make_keys(3, tf.range(count)), make_keys(4, tf.zeros(count, tf.int32)))
    return image, label, keys


def test_patches_on_devices_are_those_of_the_same_transforms_built_in():
    image, label, keys = batch()
    log = {}
    options = {"patch": (4, 8, 8), "spacing_mm": tf.ones((6, 3)), "num_classes": 3, "log": log}
    expected = augment_batch(image, label, keys, parse_policy(BUILT_IN), **options)
    found = augment_batch(image, label, keys, parse_policy(MINE), **options)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert np.abs(found[0] - image[:, 1:-1]).max() > 0.1
    np.testing.assert_array_equal(log["factor.factor"], log["brightness.factor"])


def test_patches_of_the_input_pipeline_are_those_of_the_same_transforms_built_in():
    image, label, keys = batch()
    record = {
        "image": image[0],
        "label": label[0],
        "slope": tf.ones(2),
        "intercept": tf.zeros(2),
        "spacing_mm": tf.ones(3),
    }
    start, one = tf.constant([1, 0, 0]), Keys(keys.example[:1], keys.batch[:1])
    expected, found = (
        augment_record(record, start, (4, 8, 8), one, parse_policy(policy), num_classes=3)
        for policy in (BUILT_IN, MINE)
    )
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    mixed = [
        mix(image, label, keys, parse_policy(policy), tf.ones((6, 3)), 3)
        for policy in (BUILT_IN, MINE)
    ]
    np.testing.assert_array_equal(mixed[1][0], mixed[0][0])
    assert np.any(mixed[1][0] != image)


def test_right_transforms_of_ones_own_pass_the_check():
    check(parse_policy([*MINE, {f"{MODULE}:soft": {}}]), (4, 8, 8), 2, 3)
    check(parse_policy(MINE), (8, 8), 1, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("greedy", "augment: greedy draws more than 48 numbers"),
        ("half", "dtype of the image, float32 .*, got float16"),
        ("no_shift", r"Motion of float32 matrix .* got float32 \(2, 3, 3\) and float32 \(3,\)"),
        ("wrong_label", "dtype of the label, int32 .* got float32"),
    ],
)
def test_wrong_ones_do_not(name, message):
    with pytest.raises(ConfigError, match=message):
        check(parse_policy([{f"{MODULE}:{name}": {}}]), (4, 8, 8), 2, 3)
