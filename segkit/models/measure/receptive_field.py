"""How much of the input one voxel of the output depends on, through convolutions and pooling."""

import math

from segkit.models.measure.graph import grid
from segkit.models.measure.graph import kernels

PHASES = 64  # neighbouring outputs may see more or less than each other, as strides have it
EVERYTHING = (-math.inf, math.inf)


def receptive_field(graph):
    """Returns the sides of the box of input voxels on which one output voxel depends.

    The ranges of voxels that are read go from the output back to the input, layer by layer; at
    each tensor they are the smallest box around all. So the result is an upper bound, and exact
    where a path through the network reads without gaps. The box may be larger than the image.
    Normalizations are taken voxel by voxel, although those of instances and groups of channels
    read statistics of the whole image.

    Args:
        graph: The `Graph` of a network, all its sides known.

    Returns:
        `(sides, unknown)`: one number per spatial axis of the first output, the largest over its
        voxels, `math.inf` for all of an image; and names of layers of which it is not known what
        they read. `sides` is `None` if there are any, if the output has no sides, or if no input
        has as many axes as the output, as where an image is made from noise.
    """
    output = next(iter(graph.outputs.values()))
    sides, unknown = [0] * len(grid(output)), set()
    for phase in range(min(PHASES, max(grid(output), default=0))):
        voxel = [(min(phase, side - 1),) * 2 for side in grid(output)]
        box = trace_back(graph, output, voxel, unknown)
        if box:
            sides = [max(a, high - low + 1) for a, (low, high) in zip(sides, box, strict=True)]
    known = any(sides) and not unknown
    return (tuple(sides) if known else None), sorted(unknown)


def trace_back(graph, output, voxel, unknown):
    """Returns the box of input voxels that a box of output voxels is computed from.

    Args:
        graph: `Graph`.
        output: One of its tensors.
        voxel: First and last voxel per spatial axis of `output`.
        unknown: Set to which names of layers are added of which it is not known what they read.

    Returns:
        First and last voxel per axis, which may lie outside of the image, over all inputs that
        have as many axes as the output; empty if none is read.
    """
    needed = {id(output): voxel}
    for call in reversed(graph.calls):
        for result in call.outputs:
            if id(result) in needed:
                for tensor in call.inputs:
                    box = _read(call, tensor, result, needed[id(result)], unknown)
                    needed[id(tensor)] = _join(needed.get(id(tensor)), box)
    box = None
    for tensor in graph.inputs:
        if id(tensor) in needed and len(grid(tensor)) == len(voxel):
            box = _join(box, needed[id(tensor)])
    return box or []


def _join(first, second):
    if first is None:
        return second
    return [(min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(first, second, strict=True)]


def _read(call, tensor, result, box, unknown):
    """The box of one input that a call reads for a box of its result."""
    before, after = grid(tensor), grid(result)
    if len(before) != len(after):
        return [EVERYTHING] * len(before)
    operation = getattr(call.operation, "layer", call.operation)  # within a wrapper
    own = kernels(call)
    if any("recurrent" in w.name for w in own):
        return [EVERYTHING] * len(before)
    window = getattr(operation, "kernel_size", getattr(operation, "pool_size", None))
    if window is None:
        wide = any(max(w.shape[:-2], default=1) > 1 for w in own)
        thinned = any(n > m > 1 and n % m == 0 for n, m in zip(before, after, strict=True))
        if wide or thinned:
            unknown.add(operation.name)
    read = _read_resized if window is None else _read_window
    return [
        span if span == EVERYTHING else read(operation, axis - len(after), *span, *sides)
        for axis, (span, sides) in enumerate(zip(box, zip(before, after, strict=True), strict=True))
    ]


def _read_window(operation, axis, first, last, before, after):
    """Convolution, transposed convolution and pooling; `axis` counts from behind, -1 the last."""
    window = getattr(operation, "kernel_size", getattr(operation, "pool_size", None))
    width, stride, dilation = (
        _of_axis(value, axis)
        for value in (
            window,
            getattr(operation, "strides", 1) or 1,
            getattr(operation, "dilation_rate", 1),
        )
    )
    reach = (width - 1) * dilation
    same = getattr(operation, "padding", "same") == "same"
    if "Transpose" in type(operation).__name__:
        margin = max(reach + 1 - stride, 0) // 2 if same else 0
        return -((reach - first - margin) // stride), (last + margin) // stride
    margin = max((after - 1) * stride + reach + 1 - before, 0) // 2 if same else 0
    return first * stride - margin, last * stride - margin + reach


def _of_axis(value, axis):
    """One axis' part of an option; the axes before those that a layer has are left alone."""
    if not isinstance(value, tuple | list):
        return value
    return value[axis] if -axis <= len(value) else 1


def _read_resized(operation, axis, first, last, before, after):
    """Voxel by voxel; interpolation to whole multiples; padding and cropping in equal parts."""
    if before == after:
        return first, last
    if before == 1:
        return 0, 0
    if after == 1:
        return EVERYTHING
    if after > before and after % before == 0:
        factor = after // before
        if getattr(operation, "interpolation", "nearest") == "nearest":
            return first // factor, last // factor
        low, high = ((voxel + 0.5) / factor - 0.5 for voxel in (first, last))
        return math.floor(low), math.ceil(high)
    margin = (before - after) // 2
    return first + margin, last + margin
