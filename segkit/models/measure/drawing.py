"""A picture of a network: a box per block, a row per resolution, arrows for what leads where."""

from collections import Counter

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.patches import FancyBboxPatch

from segkit.models.measure.blocks import find_blocks

WIDTH, HEIGHT, GAP = 1.6, 0.62, 0.5  # of a box, and between boxes, in inches
SKIP, WAY = "#0072b2", "0.35"


def draw_network(path, graph, title):
    """Draws the blocks of a network; skips, which stay at one resolution, are blue.

    A box says what the names of its layers begin with, sides and channels, and the kernels.

    Args:
        path: File to write: `.png`, `.pdf` or `.svg`.
        graph: The `Graph` of the network, all its sides known.
        title: Text above.
    """
    blocks = find_blocks(graph)
    places = _places(blocks)
    right = max(x for x, _ in places.values()) + WIDTH + GAP
    low = min(y for _, y in places.values()) - GAP
    figure = Figure(figsize=(right + GAP, HEIGHT + GAP - low + 0.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-GAP, right)
    axes.set_ylim(low, HEIGHT + GAP + 0.4)
    axes.set_axis_off()
    axes.text(0, HEIGHT + GAP + 0.1, title, fontsize=11)
    for block in blocks:
        _draw_box(axes, block, places[block.number])
        for number in block.sources:
            _draw_arrow(axes, blocks[number], block, places)
    figure.savefig(path, dpi=150)


def _places(blocks):
    """Lower left corner of each box: columns to the right, rows downwards, vectors at the end."""
    cells = Counter((block.level, block.column) for block in blocks)
    tops, top = {}, 0.0
    for level in sorted({block.level for block in blocks}, key=lambda n: (n is None, n)):
        tops[level] = top
        top -= max(n for (row, _), n in cells.items() if row == level) * (HEIGHT + GAP)
    places, filled = {}, Counter()
    for block in blocks:
        cell = (block.level, block.column)
        y = tops[block.level] - filled[cell] * (HEIGHT + GAP)
        places[block.number] = (block.column * (WIDTH + GAP), y)
        filled[cell] += 1
    return places


def _draw_box(axes, block, place):
    sides = [*block.sides] if block.channels is None else [*block.sides, block.channels]
    shapes = {_times(k) or "dense": count for k, count in block.kernels.items()}
    kernels = [f"{count} of {shape}" if count > 1 else shape for shape, count in shapes.items()]
    lines = [block.title, _times(sides), *([", ".join(kernels)] if kernels else [])]
    colour = "#fff3d6" if block.outputs else "#eef3f8"
    box = FancyBboxPatch(place, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.06", fc=colour, ec=WAY)
    axes.add_patch(box)
    x, y = place[0] + WIDTH / 2, place[1] + HEIGHT / 2
    axes.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=7)
    if block.outputs:
        text, top = ", ".join(block.outputs), place[1] + HEIGHT
        axes.text(x, top + 0.05, text, ha="center", va="bottom", fontsize=7, style="italic")


def _draw_arrow(axes, source, block, places):
    """An arrow between boxes; bent around those that stand between them in one row."""
    (x0, y0), (x1, y1) = places[source.number], places[block.number]
    skip, bend = source.level == block.level, 0.0
    start, end = (x0 + WIDTH, y0 + HEIGHT / 2), (x1, y1 + HEIGHT / 2)
    if x0 == x1:
        start, end = (
            (x + WIDTH / 2, y + (HEIGHT if y < other else 0))
            for x, y, other in ((x0, y0, y1), (x1, y1, y0))
        )
    elif block.column - source.column == 1 and not skip:
        end = (x1 + WIDTH / 4, y1 + (HEIGHT if y1 < y0 else 0))
    elif any(y == y0 == y1 and x0 < x < x1 for x, y in places.values()):
        length = end[0] - start[0]
        bend = -2 * (0.45 + 0.03 * length) / length
    arrow = FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>",
        mutation_scale=9,
        shrinkA=0,
        shrinkB=0,
        connectionstyle=f"arc3,rad={bend}",
        color=SKIP if skip else WAY,
        lw=1.2,
    )
    axes.add_patch(arrow)


def _times(numbers):
    return "x".join(map(str, numbers))
