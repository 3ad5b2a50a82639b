"""The blocks of a network, for a drawing: calls at one resolution, and what joins them."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from dataclasses import field

from segkit.models.measure.graph import grid
from segkit.models.measure.graph import kernels


@dataclass
class Block:
    """Calls that follow each other at one resolution.

    Attributes:
        number: Place in the order in which blocks begin, from 0.
        column: One more than the largest of the blocks that its first call reads from.
        level: How often the resolution has been halved; `None` for vectors, which have none.
        sides: Sides of its last result.
        calls: Its `Call`s.
        sources: Numbers of the blocks that it reads from, in order.
        outputs: Names of the network's outputs that it gives.
    """

    number: int
    column: int
    level: int | None
    sides: tuple
    calls: list = field(default_factory=list)
    sources: list = field(default_factory=list)
    outputs: list = field(default_factory=list)

    @property
    def layers(self):
        """Its calls of layers with a kernel."""
        return [call for call in self.calls if kernels(call)]

    @property
    def channels(self):
        """Most channels that a layer with a kernel gives, or any of its calls where none has."""
        calls = self.layers or self.calls
        return max((call.outputs[0].shape[-1] for call in calls), default=None)

    @property
    def kernels(self):
        """`Counter` of the sides of its kernels, such as `(3, 3)`, in the order of its layers."""
        return Counter(tuple(w.shape[:-2]) for call in self.layers for w in kernels(call))

    @property
    def title(self):
        """What the names of most of its layers begin with, of those with a kernel if it has any."""
        names = [call.operation.name for call in self.layers or self.calls]
        beginnings = Counter(re.sub(r"_.*", "", name) for name in names)
        return max(beginnings, key=beginnings.get, default="input")


def find_blocks(graph):
    """Returns the `Block`s of a network, in the order in which they begin.

    A call belongs to the block of the input of its own resolution that has the longest way behind
    it; where no input has that, it begins a block. So a stage of an encoder is one block, and the
    stage of the decoder at the same resolution another, to which a skip leads.

    Args:
        graph: The `Graph` of a network, all its sides known.
    """
    blocks, home, depth = [], {}, {}
    for tensor in graph.inputs:
        home[id(tensor)] = _begin(blocks, tensor, [], 0)
        depth[id(tensor)] = 0
    for call in graph.calls:
        result, inputs = call.outputs[0], [t for t in call.inputs if id(t) in home]
        own = [t for t in inputs if _halvings(t, result) == 0]
        if own:
            block = home[id(max(own, key=lambda tensor: depth[id(tensor)]))]
        else:
            levels = [home[id(t)].level + _halvings(t, result) for t in inputs if _fit(t, result)]
            block = _begin(blocks, result, [home[id(t)] for t in inputs], max(levels, default=0))
        block.calls.append(call)
        block.sides = grid(result)
        sources = [home[id(t)].number for t in inputs if home[id(t)] is not block]
        block.sources += [number for number in sources if number not in block.sources]
        for tensor in call.outputs:
            home[id(tensor)] = block
            depth[id(tensor)] = 1 + max((depth[id(t)] for t in inputs), default=0)
    for name, tensor in graph.outputs.items():
        home[id(tensor)].outputs.append(name)
    return blocks


def _begin(blocks, tensor, sources, level):
    column = 1 + max((block.column for block in sources), default=-1)
    level = level if grid(tensor) else None
    blocks.append(Block(len(blocks), column, level, grid(tensor)))
    return blocks[-1]


def _fit(first, second):
    """Whether two tensors have as many axes, and sides at all."""
    return len(grid(first)) == len(grid(second)) > 0


def _halvings(first, second):
    """How often the second has half the sides of the first; what a margin takes off is nothing."""
    if not _fit(first, second):
        return 0 if grid(first) == grid(second) else None
    ratios = [math.log2(a / b) for a, b in zip(grid(first), grid(second), strict=True)]
    return round(max(ratios, key=abs))
