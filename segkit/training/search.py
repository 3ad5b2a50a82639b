"""Search spaces over configuration keys, written as text; no TensorFlow, no Optuna.

train.learning_rate=log(0.0001, 0.01)     float, uniform on a logarithmic scale
loss.alpha=float(0, 1)                    float, uniform
train.batch_size=int(2, 16)               integer, uniform, both ends included
model.filters=choice(8, 16, 32)           one of the values, which may be names or lists
"""

import contextlib
import math
import re
from dataclasses import dataclass

import yaml

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.tables import check_type

KINDS = ("log", "float", "int", "choice")


@dataclass(frozen=True)
class Parameter:
    """One key that is searched over.

    Attributes:
        key: `section.key` of the configuration.
        kind: One of `KINDS`.
        values: Lowest and highest value, or the values to choose from.
    """

    key: str
    kind: str
    values: tuple


def parse_search(texts):
    """Returns the `Parameter`s of a search space.

    Args:
        texts: Strings `section.key=kind(value, ...)`.

    Raises:
        ConfigError: Malformed text, unknown kind, wrong number or type of values, empty range,
            or a key that is named twice.
    """
    parameters = [_parse(text) for text in texts]
    keys = [parameter.key for parameter in parameters]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--search names {key} twice. Name it once.")
    return parameters


def suggest(trial, parameters):
    """Returns the values of a trial, key -> value, drawn unless the trial has them already.

    Args:
        trial: `optuna.trial.Trial`. A choice is kept there as text, so that it may be a list.
        parameters: List of `Parameter`.
    """
    return {parameter.key: _suggest(trial, parameter) for parameter in parameters}


def as_text(value):
    """Returns a value as one line of YAML that reads back equal; YAML 1.1 reads 1e-05 as text."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]


def _parse(text):
    match = re.fullmatch(r"\s*(\w+\.\w+)\s*=\s*(\w+)\s*\((.*)\)\s*", text, re.DOTALL)
    if not match:
        raise ConfigError(
            "--search takes section.key=kind(value, ...), such as "
            f"train.learning_rate=log(0.0001, 0.01), got {text!r}."
        )
    key, kind, inner = match.groups()
    if kind not in KINDS:
        raise ConfigError(f"--search {text}: no kind {kind!r}. {nearest(kind, KINDS)}")
    try:
        values = yaml.safe_load(f"[{inner}]")
    except yaml.YAMLError:
        raise ConfigError(f"--search {text}: the values are not valid YAML.") from None
    try:
        values = _choices(values) if kind == "choice" else _bounds(kind, values)
    except ConfigError as error:
        raise ConfigError(f"--search {text}: {error}") from None
    return Parameter(key, kind, values)


def _choices(values):
    if len(values) < 2 or len(set(map(as_text, values))) < len(values):
        shown = ", ".join(map(as_text, values)) or "none"
        raise ConfigError(f"choice takes two or more different values, got {shown}.")
    return tuple(values)


def _bounds(kind, values):
    if len(values) != 2:
        raise ConfigError(f"{kind} takes the lowest and the highest value, got {len(values)}.")
    if kind == "int":
        for value in values:
            check_type(value, "int", "a bound")
        low, high = values
    else:
        low, high = map(_float, values)
    if not (-math.inf < low < high < math.inf):
        raise ConfigError(f"the lowest value must be below the highest, got {low} and {high}.")
    if kind == "log" and low <= 0:
        raise ConfigError(f"log takes values above 0, got {low}.")
    return low, high


def _float(value):
    """A bound as float, so that it is refused for a key that takes integers."""
    with contextlib.suppress(ValueError):
        value = float(value) if isinstance(value, str) else value  # YAML 1.1 leaves 1e-5 as text
    check_type(value, "float", "a bound")
    return float(value)


def _suggest(trial, parameter):
    if parameter.kind == "choice":
        texts = [as_text(value) for value in parameter.values]
        return yaml.safe_load(trial.suggest_categorical(parameter.key, texts))
    low, high = parameter.values
    if parameter.kind == "int":
        return trial.suggest_int(parameter.key, low, high)
    return trial.suggest_float(parameter.key, low, high, log=parameter.kind == "log")
