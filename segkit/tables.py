"""Lazy tables `name -> "module:function"`, and the options that an entry takes.

A table is a plain dictionary in a package's `__init__`. Names and options are checked by
reading the module's source, so a typo is answered without importing TensorFlow.
"""

import ast
import importlib
import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
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


def target(table, name, what):
    """Returns the `"module:function"` that `name` stands for in `table`.

    Args:
        table: Mapping name -> `"module:function"`.
        name: Name to look up.
        what: What the table holds, for the message: `"model"`, `"loss"`, ...

    Raises:
        ConfigError: If `name` is not in the table; names the nearest match.
    """
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
    """
    module, _, attribute = entry.partition(":")
    source = Path(_source_file(module)).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            return _arguments(node)
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            for child in node.body:
                if isinstance(child, ast.FunctionDef) and child.name == "__init__":
                    return _arguments(child)
            return {}
    raise ConfigError(f"table entry {entry!r}: {module} defines no {attribute}.")


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
        ConfigError: Unknown name, unknown option, missing option or value of the wrong type.
    """
    declared = options_of(target(table, name, what))
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
        seen[name] = seen.get(name, 0) + 1
        label = name if seen[name] == 1 else f"{name} {seen[name]}"
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
        if node.value.id == "dict":
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


def _source_file(module):
    """Path of a module's source; imports its parent packages only, which are tables."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"no module {module!r}: is the package installed?")
    return spec.origin


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
