"""Weights of one run as the first weights of another: by name of the layer, and shape."""

import csv
from fnmatch import fnmatchcase
from typing import NamedTuple

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.training.run import load_run

STATUSES = {
    "transferred": "taken over",
    "skipped": "of another shape there",
    "left": "not in train.initial_layers",
    "new": "not there",
    "unused": "there alone",
}


class Tensor(NamedTuple):
    """What became of one tensor.

    Attributes:
        name: `layer/weight`.
        status: Key of `STATUSES`.
        shape: Its shape in the network that is trained; `None` where it has none (`unused`).
        source_shape: Its shape in the run it comes from; `None` where it has none (`new`).
    """

    name: str
    status: str
    shape: tuple | None
    source_shape: tuple | None


def read_weights(folder):
    """Returns the weights of a run's best model, dict `layer/weight` -> array.

    Args:
        folder: Run folder of tools/pretrain.py or tools/train.py.

    Raises:
        DataError: If the folder is no run, or has no model yet.
    """
    return {v.path: v.numpy() for v in load_run(folder).model.weights}


def transfer(model, weights, patterns=()):
    """Sets the weights of a model that have a counterpart of the same name and shape.

    Args:
        model: `keras.Model`.
        weights: From `read_weights`.
        patterns: Of names of layers, such as `encoder*`: others are left as they are. None: all
            layers.

    Returns:
        List of `Tensor`: those of the model in its order, then the unused ones.

    Raises:
        ConfigError: If there is none: the networks have nothing in common. Or a pattern names no
            layer of both.
    """
    report = []
    for variable in model.weights:
        shape, source = tuple(variable.shape), weights.get(variable.path)
        found = None if source is None else source.shape
        status = "new" if source is None else "transferred" if found == shape else "skipped"
        if status != "new" and patterns and not _among(variable.path, patterns):
            status = "left"
        if status == "transferred":
            variable.assign(source)
        report.append(Tensor(variable.path, status, shape, found))
    _check(model, weights, report, patterns)
    known = {tensor.name for tensor in report}
    report += [Tensor(n, "unused", None, w.shape) for n, w in weights.items() if n not in known]
    return report


def describe(report):
    """Returns the report as text: one line per status, with every tensor."""
    lines = []
    for status, meaning in STATUSES.items():
        tensors = [tensor for tensor in report if tensor.status == status]
        names = ", ".join(map(_described, tensors))
        if tensors:
            lines.append(f"  {status} ({meaning}) {len(tensors)}: {names}")
    return "\n".join(lines)


def write_report(path, report):
    """Writes a report as CSV: name, status, shape and source_shape, as `3x3x3x1x16`."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Tensor._fields)
        for name, status, *shapes in report:
            writer.writerow([name, status, *map(_shape, shapes)])


def _check(model, weights, report, patterns):
    """Asks that something was transferred, by each pattern if there are some."""
    there = {_layer(tensor.name) for tensor in report if tensor.name in weights}
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in there):
            raise ConfigError(
                f"train.initial_layers: no layer of both networks has the name {pattern!r}. "
                f"{nearest(pattern, there)}"
            )
    if not any(tensor.status == "transferred" for tensor in report):
        raise ConfigError(
            f"train.initial_weights: no weight there has a name and shape of {model.name}'s. "
            "Choose a run of the same family with the same model.filters and channels."
        )


def _layer(name):
    return name.partition("/")[0]


def _among(name, patterns):
    return any(fnmatchcase(_layer(name), pattern) for pattern in patterns)


def _described(tensor):
    if tensor.status != "skipped":
        return tensor.name
    return f"{tensor.name} ({_shape(tensor.shape)} here, {_shape(tensor.source_shape)} there)"


def _shape(shape):
    return "" if shape is None else "x".join(map(str, shape)) or "scalar"
