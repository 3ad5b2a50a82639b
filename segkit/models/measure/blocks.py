"""The blocks of a network, for a drawing: neighbouring calls on one grid, and what joins them."""

import re
from collections import Counter
from dataclasses import dataclass
from dataclasses import field

from segkit.models.measure.graph import grid
from segkit.models.measure.graph import kernels


@dataclass
class Block:
    """Calls that follow each other on one grid.

    Attributes:
        number: Place in the order in which blocks begin, from 0.
        column: One more than the largest of the blocks that its first call reads from.
        sides: Sides of its grid; empty for vectors.
        calls: Its `Call`s.
        sources: Numbers of the blocks that it reads from, in order.
        outputs: Names of the network's outputs that it gives.
    """

    number: int
    column: int
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

    A call belongs to the block of the input on its own grid that has the longest way behind it;
    where no input is on that grid, it begins a block. So a stage of an encoder is one block, and
    the stage of the decoder on the same grid another, to which a skip leads.

    Args:
        graph: The `Graph` of a network, all its sides known.
    """
    blocks, home, depth = [], {}, {}
    for tensor in graph.inputs:
        _begin(blocks, tensor, home, [])
        depth[id(tensor)] = 0
    for call in graph.calls:
        result, inputs = call.outputs[0], [t for t in call.inputs if id(t) in home]
        own = [t for t in inputs if grid(t) == grid(result)]
        if own:
            block = home[id(max(own, key=lambda tensor: depth[id(tensor)]))]
        else:
            block = _begin(blocks, result, home, [home[id(t)] for t in inputs])
        block.calls.append(call)
        sources = [home[id(t)].number for t in inputs if home[id(t)] is not block]
        block.sources += [number for number in sources if number not in block.sources]
        for tensor in call.outputs:
            home[id(tensor)] = block
            depth[id(tensor)] = 1 + max((depth[id(t)] for t in inputs), default=0)
    for name, tensor in graph.outputs.items():
        home[id(tensor)].outputs.append(name)
    return blocks


def _begin(blocks, tensor, home, sources):
    column = 1 + max((block.column for block in sources), default=-1)
    block = Block(len(blocks), column, grid(tensor))
    blocks.append(block)
    home[id(tensor)] = block
    return block
