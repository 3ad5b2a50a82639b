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
from segkit.tables import parse_parts
from segkit.tables import result_of
from segkit.tables import short_name
from segkit.tables import source_of
from segkit.tables import target

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


OWN = """
from __future__ import annotations
import numpy as np
from typing import Literal, Optional
raise RuntimeError("imported")

def thing(
    first, second=2, *, sizes: Optional[list] = None, kind: Literal["a", "b"] = "a"
) -> np.ndarray:
    return None

def other(first, second, third):
    return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working directory, with a package whose modules cannot be imported, only read."""
    folder = tmp_path / "work"
    (folder / "own_package" / "inner").mkdir(parents=True)
    (folder / "own_package" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "own_package" / "inner" / "parts.py").write_text(OWN)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for cached in (options_of, result_of):
        cached.cache_clear()
    return folder


def test_a_name_with_a_colon_is_its_own_target_and_nothing_of_it_is_run(table, own):
    name = "own_package.inner.parts:thing"
    assert target(table, name, "part") == name
    assert source_of(name) == own / "own_package" / "inner" / "parts.py"
    assert result_of(name) == "np.ndarray"
    assert short_name(name) == short_name("thing") == "thing"
    check_options(table, name, {"sizes": [1], "kind": "b"}, "part")
    with pytest.raises(ConfigError, match="has no option 'knid'. Did you mean 'kind'"):
        check_options(table, name, {"knid": "b"}, "part")
    assert not any(module.startswith("own_package") for module in sys.modules)


def test_a_function_of_ones_own_is_called_as_those_of_the_table_are(table, own):
    with pytest.raises(
        ConfigError, match=r"\(first, second, \*, options\), got \(first, second, th"
    ):
        check_options(table, "own_package.inner.parts:other", {}, "part")


def test_modules_in_the_working_directory_hide_no_other(table, own):
    (own / "posixpath.py").write_text("def join(*, x: int):\n    return x\n")
    (own / "yaml.py").write_text("def join(*, x: int):\n    return x\n")
    target(table, "yaml:join", "part")
    target(table, "yaml:join", "part")
    assert [path for path in sys.path if path == str(own)] == sys.path[-1:]
    assert source_of("yaml:join").parent != own
    assert load(TABLE, "join", "path")("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_package.inner.parts:thign", "parts.py defines no thign. Did you mean 'thing'"),
        ("own_package.inner.prats:thing", "no module own_package.inner.prats"),
        ("own_package.inner.parts.thing:x", "no module own_package.inner.parts.thing"),
        ("own_package:thing", "__init__.py defines no thing. It defines no function at all"),
        ("own_package.inner:thing", "no module own_package.inner, or without Python source"),
        ("nowhere.at.all:thing", "no module nowhere.at.all"),
        ("sys:path", "no module sys, or without Python source"),
        ("__main__:thing", "no module __main__"),
        (".parts:thing", "must be like package.module:function"),
        ("parts:", "must be like package.module:function"),
        ("a:b:c", "must be like package.module:function"),
        ("C:/parts", "must be like package.module:function"),
        ("latin:thing", "latin.py is not valid Python"),
    ],
)
def test_a_wrong_name_of_ones_own_is_answered_in_one_line(table, own, name, message):
    (own / "latin.py").write_bytes("# caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as error:
        check_options(table, name, {}, "part")
    assert "\n" not in str(error.value)


def test_parts_of_a_sum_are_labelled_without_the_module(table, own):
    names = ["own_package.inner.parts:thing", "Thing", "own_package.inner.parts:thing"]
    parts = parse_parts(
        {"thing": table["thing"], "Thing": table["Thing"]}, [{n: {}} for n in names], "parts"
    )
    assert [part.label for part in parts] == ["thing", "Thing", "thing 2"]
    assert [part.name for part in parts] == names


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
        (3, "Optional[int]", True),
        ("a", "typing.Literal['a', 'b']", True),
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
