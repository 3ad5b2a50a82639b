"""Policies: files and lists, the names of their steps, and what is said of mistakes."""

import math
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf
import yaml

from data_prep.augment import GEOMETRY
from data_prep.augment import INTENSITY
from data_prep.augment import MIXING
from data_prep.augment import POLICIES
from data_prep.augment import TRANSFORMS
from data_prep.augment.apply import Keys
from data_prep.augment.apply import augment_batch
from data_prep.augment.apply import check
from data_prep.augment.policy import FOLDER
from data_prep.augment.policy import Step
from data_prep.augment.policy import parse_policy
from data_prep.augment.policy import read_policy
from data_prep.augment.random import make_keys
from segkit.errors import ConfigError
from segkit.tables import load

MIXED = [
    {"gamma": {"probability": 0.3, "gamma": [0.5, 2]}},
    {"flip": None},
    {"gamma": {"probability": 1, "invert": True}},
    {"elastic": {}},
    {"gamma": {}},
]


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_by_name_is_its_file_and_its_list(name):
    entries = read_policy(name)
    with open(FOLDER / f"{name}.yaml", encoding="utf-8") as file:
        assert entries == yaml.safe_load(file)
    assert read_policy(entries) == read_policy(FOLDER / f"{name}.yaml") == entries
    assert [step.number for step in parse_policy(entries)] == list(range(len(entries)))


def test_every_policy_file_is_in_the_table():
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(POLICIES)


def test_the_tables_are_apart_and_hold_what_can_be_loaded():
    assert len(TRANSFORMS) == len(GEOMETRY) + len(INTENSITY) + len(MIXING)
    for name in TRANSFORMS:
        assert load(TRANSFORMS, name, "augmentation").__name__ == name


def test_steps_keep_their_order_and_those_of_one_name_have_their_own_label():
    assert parse_policy(MIXED) == [
        Step("gamma", 0.3, {"gamma": [0.5, 2]}, "gamma", 0),
        Step("flip", 1.0, {}, "flip", 1),
        Step("gamma", 1.0, {"invert": True}, "gamma 2", 2),
        Step("elastic", 1.0, {}, "elastic", 3),
        Step("gamma", 1.0, {}, "gamma 3", 4),
    ]
    assert MIXED[0]["gamma"]["probability"] == 0.3  # what was given stays as it is


def draws_of(entries, batch=50):
    """What the steps of a policy draw, by name."""
    keys, log = make_keys(7, tf.range(batch, dtype=tf.int64)), {}
    augment_batch(
        tf.ones((batch, 4, 4, 4, 2)),
        tf.zeros((batch, 4, 4, 4), tf.int32),
        Keys(keys, keys),
        parse_policy(entries),
        patch=(4, 4, 4),
        spacing_mm=tf.ones((batch, 3)),
        num_classes=2,
        log=log,
    )
    return {name: value.numpy() for name, value in log.items()}


def test_each_step_draws_its_own_numbers_whatever_else_the_policy_holds():
    draws = draws_of([{"gamma": {}}, {"rotation": {}}, {"gamma": {}}])
    assert (draws["gamma.gamma"] != draws["gamma 2.gamma"]).all()
    longer = draws_of([{"gamma": {}}, {"flip": {}}, {"gamma": {}}, {"brightness": {}}])
    for name in ("gamma.gamma", "gamma 2.gamma"):  # the same places
        assert (draws[name] == longer[name]).all()
    rare = draws_of([{"gamma": {"probability": 0.5}}])
    assert (rare["gamma.gamma"] == draws["gamma.gamma"]).all()
    assert 0 < rare["gamma.applied"].sum() < 50


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("patch", "channels"), [((16, 16), 1), ((8, 8, 8), 3), ((2, 8, 8), 4)])
def test_the_options_of_every_policy_make_sense(name, patch, channels):
    check(parse_policy(read_policy(name)), patch, channels, 2)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"gamma": {"gamma": [2, 1]}}], "gamma.gamma must be"),
        ([{"rotation": {"degrees": math.nan}}], "rotation.degrees must be"),
        ([{"hue": {"probability": 0}}], "hue needs 3 channels .* the data has 2"),
        ([{"copy_paste": {"classes": [1, 2]}}], r"copy_paste.classes .* got \[1, 2\]"),
        ([{"elastic": {}}, {"elastic": {"control_points": 5}}], "number of control points"),
    ],
)
def test_options_without_meaning_are_found_before_anything_is_augmented(entries, message):
    with pytest.raises(ConfigError, match=message):
        check(parse_policy(entries), (8, 8, 8), channels=2, num_classes=2)


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("- flip:\n- rotation: {degrees: 5}  # small\n", encoding="utf-8")
    expected = [{"flip": None}, {"rotation": {"degrees": 5}}]
    assert read_policy(path) == read_policy(str(path)) == expected
    path.write_text("# nothing yet\n", encoding="utf-8")
    assert read_policy(path) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"rotate": {}}, r"unknown augmentation 'rotate'. Did you mean 'rotation'\?"),
        ({3: {}}, r"unknown augmentation 3. Known: bias_field"),
        ({"rotation": {"degree": 3}}, r"rotation.* no option 'degree'. Did you mean 'degrees'\?"),
        ({"rotation": {"degrees": "x"}}, r"rotation.degrees must be float, got 'x' \(str\)"),
        ({"rotation": {"degrees": "1e1"}}, r"YAML reads 1e1 as text; write 10.0"),
        ({"rotation": {"degrees": True}}, r"rotation.degrees must be float, got True"),
        ({"scaling": {"field_of_view": 1.2}}, r"scaling.field_of_view must be list\[float\]"),
        ({"scaling": {"field_of_view": [1, "2"]}}, r"scaling.field_of_view must be list\[float\]"),
        ({"elastic": {"control_points": 5.5}}, r"elastic.control_points must be int, got 5.5"),
        ({"copy_paste": {}}, r"copy_paste.* needs the option 'classes'; add .*copy_paste.classes"),
        ({"flip": {"probability": 1.1}}, r"flip.probability must be between 0 and 1, got 1.1"),
        ({"flip": {"probability": -0.1}}, r"flip.probability must be between 0 and 1, got -0.1"),
        ({"flip": {"probability": math.nan}}, r"flip.probability must be between 0 and 1"),
        ({"flip": {"probability": "often"}}, r"flip.probability must be float, got 'often'"),
        ({"flip": {"probability": None}}, r"flip.probability must be float, got None"),
        ({"flip": [0.5, 0.5, 0.5]}, r"flip must be a mapping of options, got \[0.5, 0.5, 0.5\]"),
        ({"flip": {}, "gamma": {}}, r"entry 2 of the policy must be 'name: \{options\}'"),
        ({}, r"entry 2 of the policy must be 'name: \{options\}', got \{\}"),
        ("flip", r"entry 2 of the policy must be 'name: \{options\}', got 'flip'"),
        (None, r"entry 2 of the policy must be 'name: \{options\}', got None"),
    ],
)
def test_a_wrong_entry_is_named(entry, message):
    for read in (read_policy, parse_policy):
        with pytest.raises(ConfigError, match=message) as error:
            read([{"flip": {}}, entry])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- flip: {axes: [1\n- gamma:", r"mine.yaml is not a readable .* line 2, column"),
        (b"\xff\xfe\x00", "mine.yaml is not a readable augmentation policy"),
        ("flip: {}", "mine.yaml must hold a list of transforms, got dict"),
        ("flip", "mine.yaml must hold a list of transforms, got str"),
        ("- flips: {}", r"unknown augmentation 'flips'. Did you mean 'flip'\?"),
        ("- !!python/object/apply:os.getcwd []", "mine.yaml is not a readable"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as error:
        read_policy(path)
    assert "\n" not in str(error.value)


def test_a_file_or_policy_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml is not a readable .* No such file"):
        read_policy(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"unknown .* 'nnUnet'. Did you mean 'nnunet'\?"):
        read_policy("nnUnet")
    with pytest.raises(ConfigError, match=r"Known: heavy, light, nnunet, none"):
        read_policy("mine")


def test_policies_are_checked_without_tensorflow():
    code = (
        "import sys\n"
        "from data_prep.augment.policy import read_policy\n"
        "read_policy('heavy')\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
