"""The graph of a network as a list of calls, nested networks opened."""

import math
from typing import NamedTuple

import keras


class Call(NamedTuple):
    """One call of a layer, or of an operation such as `keras.ops.add`.

    Attributes:
        operation: The layer or operation.
        inputs: `KerasTensor`s that it takes.
        outputs: `KerasTensor`s that it gives.
    """

    operation: object
    inputs: tuple
    outputs: tuple


class Graph(NamedTuple):
    """The calls between the inputs and the outputs of a network.

    Attributes:
        calls: List of `Call`, each after those whose outputs it takes.
        inputs: `KerasTensor`s.
        outputs: Dict name -> `KerasTensor`, full resolution first.
    """

    calls: list
    inputs: list
    outputs: dict


def read_graph(model):
    """Returns the `Graph` of a functional `keras.Model`.

    A network within it is opened, with the shapes that it is called on; a layer is one call,
    whatever it does inside.
    """
    outputs = model.output
    if not isinstance(outputs, dict):
        outputs = {tensor._keras_history.operation.name: tensor for tensor in model.outputs}
    calls, opened, done = [], {}, set()

    def final(tensor):
        while id(tensor) in opened:
            tensor = opened[id(tensor)]
        return tensor

    waiting = [(_node(tensor), False) for tensor in reversed(list(outputs.values()))]
    while waiting:
        node, ready = waiting.pop()
        if id(node) in done or node.is_input:
            continue
        inner = _open(node)
        if inner:
            opened.update({id(a): b for a, b in zip(node.outputs, inner, strict=True)})
            waiting += [(_node(tensor), False) for tensor in inner]
        elif ready:
            inputs = tuple(map(final, node.input_tensors))
            calls.append(Call(node.operation, inputs, tuple(node.outputs)))
        else:
            waiting.append((node, True))
            waiting += [(_node(tensor), False) for tensor in node.input_tensors]
            continue
        done.add(id(node))
    return Graph(calls, model.inputs, {name: final(tensor) for name, tensor in outputs.items()})


def grid(tensor):
    """Returns the sides of a tensor `(batch, *sides, channels)`."""
    return tuple(tensor.shape[1:-1])


def kernels(call):
    """Returns the weights that a layer multiplies by: `kernel`, `depthwise_kernel`, ..."""
    return [w for w in getattr(call.operation, "weights", []) if w.name.endswith("kernel")]


def size(tensor):
    """Returns the number of values of one example."""
    return math.prod(tensor.shape[1:])


def _node(tensor):
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index]


def _open(node):
    """What a network gives, as results of the layers in it; of anything else, nothing."""
    operation, given = node.operation, node.arguments
    if type(operation).__name__ == "ConvertToTensor":  # put before each input of a network
        return node.input_tensors
    if isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
        return keras.tree.flatten(operation.call(*given.args, **given.kwargs))
    return []
