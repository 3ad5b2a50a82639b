"""Lazy tables `name -> "module:function"`, and the options that an entry takes.

A table is a plain dictionary in a package's `__init__`. Names and options are checked by
reading the module's source, so a typo is answered without importing TensorFlow. Wherever a name
of a table is expected, `"module:function"` itself may stand: a function of the user's own.
"""

import ast
import importlib
import math
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

import yaml

from segkit.errors import ConfigError
from segkit.errors import nearest

MISSING = object()


@dataclass(frozen=True)
class Option:
    """One keyword argument of a table entry.

    Attributes:
        default: Its default value, or `MISSING`.
        annotation: Its annotation as source text, or `None`.
        keyword_only: `True` for arguments after `*`: those a config may set.
    """

    default: object
    annotation: str | None
    keyword_only: bool


class Part(NamedTuple):
    """One entry of a table as a part of a weighted sum.

    Attributes:
        name: Key of the table.
        weight: Its factor, above 0.
        options: Its keyword arguments.
        label: Unique name within the sum: `dice`, `dice 2`, ...
    """

    name: str
    weight: float
    options: dict
    label: str


def is_own(name):
    """Returns whether `name` is a function of the user's own, `"module:function"`."""
    return isinstance(name, str) and ":" in name


def short_name(name):
    """Returns a name without the module of a function of the user's own: fit for file names."""
    return name.rpartition(":")[2]


def target(table, name, what):
    """Returns the `"module:function"` that `name` stands for in `table`.

    Args:
        table: Mapping name -> `"module:function"`.
        name: Name to look up. `"module:function"` stands for itself; from then on modules are
            also looked for in the working directory.
        what: What the table holds, for the message: `"model"`, `"loss"`, ...

    Raises:
        ConfigError: If `name` is neither in the table nor of that form; names the nearest match.
    """
    if is_own(name):
        if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
            raise ConfigError(f"{what} {name!r} must be like package.module:function.")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # at the end, where it hides no installed package
        return name
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r}. {nearest(name, table)}")
    return table[name]


def load(table, name, what):
    """Imports and returns the object behind `name`. Raises `ConfigError` as `target` does."""
    module, _, attribute = target(table, name, what).partition(":")
    return getattr(importlib.import_module(module), attribute)


@lru_cache
def options_of(entry):
    """Returns the arguments of `"module:function"` without importing the module.

    Args:
        entry: `"module:function"`; a class stands for its `__init__`.

    Returns:
        Dict argument name -> `Option`, in order of declaration.

    Raises:
        ConfigError: There is no such module or function.
    """
    node = _definition(entry)
    if isinstance(node, ast.FunctionDef):
        return _arguments(node)
    methods = {child.name: child for child in node.body if isinstance(child, ast.FunctionDef)}
    return _arguments(methods["__init__"]) if "__init__" in methods else {}


@lru_cache
def result_of(entry):
    """Returns the annotation of what `"module:function"` returns, as source text, or `None`."""
    returns = getattr(_definition(entry), "returns", None)
    return None if returns is None else ast.unparse(returns)


def source_of(entry):
    """Returns the path of the source of `"module:function"`; runs nothing, no package either.

    Raises:
        ConfigError: If there is none.
    """
    module = entry.partition(":")[0]
    first, *inner = module.split(".")
    spec = next(filter(None, (finder.find_spec(first, None) for finder in sys.meta_path)), None)
    for part in inner:
        folders = spec and spec.submodule_search_locations
        spec = PathFinder.find_spec(part, list(folders)) if folders else None
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise ConfigError(
            f"{entry!r}: no module {module}, or without Python source. Start the command in the "
            "folder that holds it, set PYTHONPATH, or install its package."
        )
    return Path(spec.origin)


def check_options(table, name, options, what, also=()):
    """Checks the options of a config section against the entry's keyword-only arguments.

    An option declared as `list[dict]` holds parts, other entries of the same table, which are
    checked in turn.

    Args:
        table: Mapping name -> `"module:function"`.
        name: Name of the entry.
        options: Mapping option -> value, as read from YAML.
        what: Config section, for the message.
        also: Further keys that may stand beside the options, for the message.

    Raises:
        ConfigError: Unknown name, unknown option, missing option or value of the wrong type; or a
            function of the user's own that takes other arguments than those of the table.
    """
    declared = options_of(target(table, name, what))
    if is_own(name):
        _check_arguments(table, name, declared, what)
    known = {key: option for key, option in declared.items() if option.keyword_only}
    for key, value in options.items():
        if key not in known:
            hint = nearest(key, [*known, *also])
            raise ConfigError(f"{what} {name!r} has no option {key!r}. {hint}")
        annotation = known[key].annotation
        if annotation == "list[dict]" and isinstance(value, list | tuple):
            parse_parts(table, value, f"{what}.{key}")
        else:
            check_type(value, annotation, f"{what}.{key}")
    for key, option in known.items():
        if option.default is MISSING and key not in options:
            raise ConfigError(f"{what} {name!r} needs the option {key!r}; add {what}.{key}.")


def parse_pairs(declared, pairs, flag):
    """Returns the options that a command line sets, as a dict key -> value.

    Args:
        declared: Dict of `options_of`: what it declares as text is not read as YAML.
        pairs: Strings `key=value`, the value in YAML; later ones win.
        flag: Name of the command-line flag, for the message.

    Raises:
        ConfigError: A string is no such pair, or its value is not valid YAML.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{flag} must be like key=value, got {pair!r}.")
        is_text = key in declared and "str" in (declared[key].annotation or "")
        try:
            options[key] = value if is_text else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{flag} {key}: {value!r} is not valid YAML.") from error
    return options


def named_options(value, what, table=None):
    """Splits a config value that names a table entry, with options or without.

    Args:
        value: `"sgd"`, or `{"name": "sgd", "momentum": 0.9}`.
        what: Config key, for the message.
        table: Mapping name -> `"module:function"` to check against; `None`: do not check.

    Returns:
        `(name, options)`, such as `("sgd", {"momentum": 0.9})`.

    Raises:
        ConfigError: No name, or as `check_options`.
    """
    options = {"name": value} if isinstance(value, str) else dict(value)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{what}.name is missing: it says which {what} to build.")
    if table is not None:
        check_options(table, name, options, what)
    return name, options


def parse_parts(table, entries, what):
    """Returns the `Part`s of a weighted sum, checked.

    Args:
        table: Mapping name -> `"module:function"`.
        entries: List as read from YAML, of `{name: {weight: 1.0, option: value}}`.
        what: Where the list stands, for the message.

    Raises:
        ConfigError: An empty list, or a name, weight, option or value that does not exist or
            does not fit; names the nearest match.
    """
    if not entries:
        raise ConfigError(f"{what} is empty; add a line such as '- {next(iter(table))}: {{}}'.")
    parts, seen = [], {}
    for number, entry in enumerate(entries):
        name, options = _name_and_options(entry, f"{what}: entry {number + 1}")
        target(table, name, f"entry of {what}")
        weight = options.pop("weight", 1.0)
        check_type(weight, "float", f"{what}.{name}.weight")
        if not 0 < weight < math.inf:
            raise ConfigError(f"{what}.{name}.weight must be above 0, got {weight!r}.")
        check_options(table, name, options, f"{what}.{name}", also=("weight",))
        label = short_name(name)
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > 1:
            label += f" {seen[label]}"
        parts.append(Part(name, float(weight), options, label))
    return parts


def check_type(value, annotation, path):
    """Checks one YAML value against an annotation given as source text.

    Understands `int`, `float`, `bool`, `str`, `list[...]`, `tuple[...]`, `dict[..., ...]`, unions
    with `|` and `None`. An `int` passes for a `float`; a `bool` never passes for an `int`. Other
    annotations are not checked.

    Raises:
        ConfigError: Names `path`, the expected type and the value received.
    """
    if annotation is None or _fits(value, ast.parse(annotation, mode="eval").body):
        return
    message = f"{path} must be {annotation}, got {value!r} ({type(value).__name__})."
    if isinstance(value, str) and _is_float(value):
        number = repr(float(value))
        if "." not in number:  # 1e-05 is text to YAML too
            number = number.replace("e", ".0e")
        message += f" YAML reads {value} as text; write {number}."
    raise ConfigError(message)


def _fits(value, node):
    if isinstance(node, ast.BinOp):
        return _fits(value, node.left) or _fits(value, node.right)
    if isinstance(node, ast.Constant):
        return value is None if node.value is None else True
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        kind = getattr(node.value, "id", None)
        if kind not in ("dict", "list", "tuple"):
            return True
        if kind == "dict":
            key_kind, value_kind = inner
            return isinstance(value, dict) and all(
                _fits(k, key_kind) and _fits(v, value_kind) for k, v in value.items()
            )
        if not isinstance(value, list | tuple):
            return False
        inner = [n for n in inner if not (isinstance(n, ast.Constant) and n.value is Ellipsis)]
        if len(inner) == 1:
            return all(_fits(v, inner[0]) for v in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    name = getattr(node, "id", None)
    if name == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    kinds = {"bool": bool, "str": str, "dict": dict, "list": list | tuple, "tuple": list | tuple}
    return isinstance(value, kinds[name]) if name in kinds else True


def _name_and_options(entry, where):
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
        if isinstance(options, dict | None):
            return name, dict(options or {})
    raise ConfigError(f"{where} must be 'name: {{options}}', got {entry!r}.")


def _is_float(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _definition(entry):
    """The syntax tree of the function or class that an entry names."""
    source, name = source_of(entry), entry.partition(":")[2]
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{entry!r}: {source} is not valid Python: {error}.") from None
    kinds = ast.FunctionDef | ast.ClassDef
    found = {node.name: node for node in tree.body if isinstance(node, kinds)}
    if name not in found:
        hint = nearest(name, found) if found else "It defines no function at all."
        raise ConfigError(f"{entry!r}: {source} defines no {name}. {hint}")
    return found[name]


def _check_arguments(table, name, declared, what):
    """Refuses a function of the user's own that cannot be called as those of the table are."""
    example = options_of(next(iter(table.values())))
    needed, given = (
        [key for key, option in options.items() if not option.keyword_only]
        for options in (example, declared)
    )
    if len(given) != len(needed):
        raise ConfigError(
            f"{what} {name!r} must be a function of ({', '.join([*needed, '*'])}, options), "
            f"got ({', '.join(given)})."
        )


def _arguments(node):
    args = node.args
    names = [a for a in args.posonlyargs + args.args if a.arg != "self"]
    defaults = [MISSING] * (len(names) - len(args.defaults)) + list(args.defaults)
    found = {
        a.arg: Option(_literal(d), _text(a), False) for a, d in zip(names, defaults, strict=True)
    }
    for a, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        value = MISSING if default is None else _literal(default)
        found[a.arg] = Option(value, _text(a), True)
    return found


def _text(argument):
    return None if argument.annotation is None else ast.unparse(argument.annotation)


def _literal(node):
    if node is MISSING:
        return MISSING
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
