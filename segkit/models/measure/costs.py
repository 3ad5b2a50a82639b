"""Parameters, multiply-adds and activation memory of a network, for one example."""

import math
import re
from typing import NamedTuple

from segkit.models.measure.graph import grid
from segkit.models.measure.graph import kernels
from segkit.models.measure.graph import size

PRODUCTS = ("Matmul", "Einsum", "Dot", "Tensordot", "Attention", "AdditiveAttention")


class Costs(NamedTuple):
    """What one example costs.

    Attributes:
        parameters: Number of weights; running statistics count, as in `keras.Model.count_params`.
        multiply_adds: See `multiply_adds`.
        forward_bytes: Most that the activations take at a time when each is freed after its last
            use, in the order in which the network was built.
        training_bytes: All activations together, which is what the backward pass may need. What a
            layer computes inside is not seen, and XLA may keep less.
        uncounted: Names of layers and operations whose products are not in `multiply_adds`.
    """

    parameters: int
    multiply_adds: int
    forward_bytes: int
    training_bytes: int
    uncounted: list


def measure_costs(model, graph):
    """Returns the `Costs` of a model.

    Args:
        model: `keras.Model`, all its sides known.
        graph: Its `Graph`.
    """
    return Costs(
        model.count_params(),
        sum(map(multiply_adds, graph.calls)),
        _peak(graph),
        sum(map(_bytes, _activations(graph))),
        sorted({call.operation.name for call in graph.calls if _is_uncounted(call)}),
    )


def multiply_adds(call):
    """Returns the multiply-adds of a call: those with the kernels of a layer, and no others.

    A kernel works once at each position of the output or, transposed, of the input: of the
    coarser of the two. So for convolutions of any kind (dense, grouped, depthwise, dilated,
    transposed, recurrent) and for dense layers, also within a layer that wraps others,

        multiply_adds = positions * number of weights of the kernels

    Positions outside of the image, in "same" padding, count like all others. Normalizations,
    activations, sums, pooling and interpolation count nothing.
    """
    return sum(_positions(call, kernel) * math.prod(kernel.shape) for kernel in kernels(call))


def _positions(call, kernel):
    """How often a kernel works; a vector beside a map, such as a style, says nothing of that."""
    tensors = [t for t in (*call.inputs, *call.outputs) if len(t.shape) >= len(kernel.shape)]
    return min(math.prod(grid(tensor)) for tensor in tensors or call.outputs)


def _is_uncounted(call):
    """Whether a call multiplies activations by each other, or by weights not named as kernels."""
    if type(call.operation).__name__ in PRODUCTS:
        return True
    matrices = [
        w for w in getattr(call.operation, "weights", []) if sum(side > 1 for side in w.shape) > 1
    ]
    return bool(matrices) and not kernels(call)


def _activations(graph):
    """All tensors that a network makes, once each, and its inputs."""
    tensors = [*graph.inputs, *(tensor for call in graph.calls for tensor in call.outputs)]
    return {id(tensor): tensor for tensor in tensors}.values()


def _peak(graph):
    last_use = {id(tensor): len(graph.calls) for tensor in graph.outputs.values()}
    for number, call in reversed(list(enumerate(graph.calls))):
        for tensor in (*call.outputs, *call.inputs):
            last_use.setdefault(id(tensor), number)
    alive = {id(tensor): _bytes(tensor) for tensor in graph.inputs}
    peak = sum(alive.values())
    for number, call in enumerate(graph.calls):
        alive.update({id(tensor): _bytes(tensor) for tensor in call.outputs})
        peak = max(peak, sum(alive.values()))
        alive = {key: value for key, value in alive.items() if last_use.get(key, -1) > number}
    return peak


def _bytes(tensor):
    bits = re.search(r"\d+$", tensor.dtype)
    return size(tensor) * (int(bits[0]) // 8 if bits else 1)
