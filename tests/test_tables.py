import subprocess
import sys

import pytest

from segkit.errors import ConfigError
from segkit.tables import MISSING
from segkit.tables import check_options
from segkit.tables import check_type
from segkit.tables import load
from segkit.tables import named_options
from segkit.tables import options_of
from segkit.tables import parse_pairs

TABLE = {"join": "posixpath:join", "ghost": "posixpath:ghost"}
ENTRY = """
def thing(first, second=2, *, width: float = 1.0, kinds: list[int] | None = None, must: str):
    return None

class Thing:
    def __init__(self, *, size: int = 3):
        self.size = size
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    (tmp_path / "table_entry_for_test.py").write_text(ENTRY)
    monkeypatch.syspath_prepend(tmp_path)
    options_of.cache_clear()
    module = "table_entry_for_test"
    return {"thing": f"{module}:thing", "Thing": f"{module}:Thing", "ghost": f"{module}:ghost"}


def test_load_returns_the_object_behind_a_name():
    assert load(TABLE, "join", "path")("a", "b") == "a/b"


def test_options_are_read_without_importing_the_module(table):
    options = options_of(table["thing"])
    assert list(options) == ["first", "second", "width", "kinds", "must"]
    assert options["first"].default is MISSING
    assert options["second"].default == 2
    assert options["width"].default == 1.0
    assert options["width"].keyword_only
    assert not options["second"].keyword_only
    assert "table_entry_for_test" not in sys.modules


def test_a_class_stands_for_its_constructor(table):
    check_options(table, "Thing", {"size": 4}, "part")
    with pytest.raises(ConfigError, match="part.size must be int"):
        check_options(table, "Thing", {"size": 4.5}, "part")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"must": "x", "widht": 1}, "no option 'widht'. Did you mean 'width'"),
        ({"must": "x", "second": 1}, "no option 'second'"),
        ({}, "needs the option 'must'"),
        ({"must": 3}, "part.must must be str, got 3"),
        ({"must": "x", "kinds": [1, "a"]}, "part.kinds must be"),
    ],
)
def test_wrong_options_are_refused(table, options, message):
    with pytest.raises(ConfigError, match=message):
        check_options(table, "thing", options, "part")


def test_a_table_row_without_a_function_is_reported(table):
    with pytest.raises(ConfigError, match="defines no ghost"):
        check_options(table, "ghost", {}, "part")


def test_a_name_comes_with_options_or_without(table):
    given = {"name": "thing", "must": "x", "width": 2}
    assert named_options(given, "part", table) == ("thing", {"must": "x", "width": 2})
    assert given["name"] == "thing"
    assert named_options("Thing", "part", table) == ("Thing", {})
    assert named_options({"name": "unknown"}, "part") == ("unknown", {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("thign", "unknown part 'thign'. Did you mean 'thing'"),
        ("thing", "needs the option 'must'"),
        ({"name": "Thing", "siez": 1}, "no option 'siez'. Did you mean 'size'"),
        ({"size": 1}, "part.name is missing"),
        ({"name": 3}, "part.name is missing"),
    ],
)
def test_a_wrong_name_or_option_is_refused(table, value, message):
    with pytest.raises(ConfigError, match=message):
        named_options(value, "part", table)


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, "float", True),
        (True, "int", False),
        (True, "float", False),
        (None, "str | None", True),
        (None, "str", False),
        ([1, 2.5], "tuple[float, float]", True),
        ([1, 2, 3], "tuple[float, float]", False),
        ([1, 2, 3], "tuple[int, ...]", True),
        ("on", "bool | str", True),
        ({"a": 1}, "dict", True),
        ({"a": [1]}, "dict[str, list[int]]", True),
        ({"a": 1}, "dict[str, list[int]]", False),
        ({1: [1]}, "dict[str, list[int]]", False),
        ([[1]], "dict[str, list[int]]", False),
        (3, "SomethingElse", True),
    ],
)
def test_types_are_checked_against_the_annotation(value, annotation, fits):
    if fits:
        check_type(value, annotation, "x")
    else:
        with pytest.raises(ConfigError, match="x must be"):
            check_type(value, annotation, "x")


def test_a_model_typo_is_answered_without_keras():
    code = (
        "import sys\n"
        "from segkit.models import MODELS\n"
        "from segkit.tables import check_options\n"
        "try:\n    check_options(MODELS, 'unet', {'filtres': 1}, 'model')\n"
        "except ValueError as error:\n    print(error)\n"
        "print('keras' in sys.modules or 'tensorflow' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "Did you mean 'filters'" in out
    assert out.strip().endswith("False")


def test_pairs_of_a_command_line_are_yaml_but_for_text(table):
    declared = options_of(table["thing"])
    pairs = ["width=2", "kinds=[1, 2]", "must=12", "width=3", "new={a: 1}"]
    expected = {"width": 3, "kinds": [1, 2], "must": "12", "new": {"a": 1}}
    assert parse_pairs(declared, pairs, "--set") == expected
    for pair, message in (("width", "like key=value"), ("=2", "like key"), ("kinds=[", "YAML")):
        with pytest.raises(ConfigError, match=f"--set.*{message}"):
            parse_pairs(declared, [pair], "--set")
