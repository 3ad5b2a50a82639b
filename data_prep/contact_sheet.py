"""A sheet of small pictures with outlined labels and captions; no TensorFlow."""

import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from data_prep.object_statistics import slice_boxes

CELL, GAP, LINE = 1.7, 0.1, 0.105  # width of a picture, space between, height of text: inches
KINDS = (".png", ".pdf", ".svg")
LETTERS = 31  # in a line below a picture
NUMBERS = 4  # of one draw that a caption shows
UNSEEN = ("applied", "radius", "angle", "phase", "middle")  # draws that say nothing to the eye


class Picture(NamedTuple):
    """One picture of a sheet.

    Attributes:
        image: Float, shape `(height, width)`, or `(height, width, 3)` in colour, in [0, 1].
        label: Class indices `(height, width)`, or class probabilities `(height, width, classes)`.
        window: The intensities shown as black and as white, see `window`.
        caption: Text below it.
        instance: Ids of objects `(height, width)`, drawn one by one with their boxes, or `None`.
    """

    image: np.ndarray
    label: np.ndarray
    window: tuple
    caption: str = ""
    instance: np.ndarray | None = None


def window(image):
    """Returns the intensities to show as black and as white: all but 1 % of the image's."""
    low, high = (0.0, 1.0) if image.ndim == 3 else np.percentile(image, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def save_sheet(path, rows, class_names, colours, title, *, aspect=1.0, upright=True):
    """Writes a grid of pictures with outlines of their classes and a legend.

    The outline of a probability is solid around more than 0.5 and dotted around more than 0.

    Args:
        path: File to write, of one of `KINDS`.
        rows: Lists of `Picture`, all of one shape.
        class_names: Names of all classes, background first.
        colours: Colours for classes from 1 on, used again where there are more classes.
        title: Text above.
        aspect: Height of a pixel over its width.
        upright: Show row 0 at the top, as for photographs; else at the bottom, which turns
            anterior or superior up.
    """
    high = CELL * aspect * rows[0][0].image.shape[0] / rows[0][0].image.shape[1]
    lines = [max(len(_wrapped(picture)) for picture in row) for row in rows]
    classes = sorted(set().union(*(_classes(picture.label) for row in rows for picture in row)))
    width = GAP + max(len(rows[0]), 3) * (CELL + GAP)
    names_in_line = int(width / CELL)
    head = 0.4 + 0.15 * -(-len(classes) // names_in_line)
    height = head + sum(high + LINE * n + 1.5 * GAP for n in lines)
    figure, top = Figure(figsize=(width, height)), height - head
    for row, count in zip(rows, lines, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (CELL + GAP)
            box = (left / width, (top - high) / height, CELL / width, high / height)
            _draw(figure.add_axes(box), picture, colours, upright)
        top -= high + LINE * count + 1.5 * GAP
    figure.text(GAP / width, 1 - GAP / height, title, va="top", fontsize=9)
    if classes:
        handles = [
            Line2D([], [], color=_colour(colours, index), label=class_names[index])
            for index in classes
        ]
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0, 1 - 0.22 / height),
            ncols=names_in_line,
            fontsize=7,
            frameon=False,
        )
    figure.savefig(path, dpi=150)


def caption(draws, axes="dhw"):
    """Returns what was drawn for one example, one line per step of the policy that changed it.

    Args:
        draws: Dict `"step.draw" -> array`, what `augment_batch` logs, of one example.
        axes: Letters of the patch's axes, which name those that a flip mirrors.

    Returns:
        Text such as `"rotation: 12 -7.1 3°"`.
    """
    steps = {}
    for key, value in draws.items():
        step, _, name = key.partition(".")
        value = np.ravel(value)
        steps.setdefault(step, {})[name] = value[-len(axes) :] if name == "mirrored" else value
    # A flag says what the step touches: axes, channels.
    changed = {
        step: {name: value for name, value in values.items() if name not in UNSEEN}
        for step, values in steps.items()
        if all(value.any() for value in values.values() if value.dtype == bool)
    }
    lines = [_line(step, values, axes) for step, values in changed.items()]
    return "\n".join(lines) or "no change"


def _line(step, values, axes):
    texts = {}
    for name, value in values.items():
        if value.dtype != bool:
            numbers = " ".join(_number(v) for v in value[:NUMBERS])
            more = " …" if len(value) > NUMBERS else ""
            texts[name] = numbers + ("°" if name == "degrees" else "") + more
        elif len(value) > 1:
            names = axes if name == "mirrored" else range(len(value))
            texts[name] = " ".join(str(n) for n, yes in zip(names, value, strict=True) if yes)
    if len(texts) == 1:
        return f"{step}: {next(iter(texts.values()))}"
    return f"{step}: " + ", ".join(f"{name} {text}" for name, text in texts.items())


def _number(value):
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _wrapped(picture):
    return [
        part
        for line in picture.caption.splitlines()
        for part in textwrap.wrap(line, LETTERS, subsequent_indent="  ")
    ]


def _draw(axes, picture, colours, upright):
    low, high = picture.window
    image = np.clip((picture.image - low) / (high - low), 0, 1)
    origin = "upper" if upright else "lower"
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="auto", origin=origin)
    axes.set_axis_off()
    text = "\n".join(_wrapped(picture))
    axes.text(0, -0.02, text, va="top", fontsize=5.5, transform=axes.transAxes)
    if picture.instance is not None:
        _draw_objects(axes, picture, colours, origin)
        return
    soft = picture.label.ndim == 3
    for index in _classes(picture.label):
        share = picture.label[..., index] if soft else picture.label == index
        for level, style in ((0.5, "solid"), (0.0, "dotted")) if soft else ((0.5, "solid"),):
            mask = share > level
            if mask.any() and not mask.all():
                colour = _colour(colours, index)
                axes.contour(mask, [0.5], colors=[colour], linestyles=style, linewidths=0.9)


def _draw_objects(axes, picture, colours, origin):
    """Colours the rim of each object as its class, and draws its box."""
    ids, label = picture.instance, picture.label
    palette = np.array(
        [(0, 0, 0, 0), *(to_rgba(_colour(colours, n + 1)) for n in range(label.max()))]
    )
    axes.imshow(palette[np.where(rim(ids), label, 0)], aspect="auto", origin=origin)
    boxes = slice_boxes(ids[None], label[None])
    corners = [
        [
            (x - 0.5, y - 0.5)
            for y, x in ((top, left), (top, right), (bottom, right), (bottom, left))
        ]
        for top, left, bottom, right in (box.box for box in boxes)
    ]
    edges = [_colour(colours, box.kind) for box in boxes]
    axes.add_collection(
        PolyCollection(corners, facecolors="none", edgecolors=edges, linewidths=0.4, alpha=0.8)
    )


def rim(ids):
    """Returns the pixels of objects that touch a pixel of another object or of none, as bool.

    Args:
        ids: Integers, shape `(height, width)`; 0 is no object.
    """
    ids = np.pad(ids, 1)
    inner = ids[1:-1, 1:-1]
    around = (ids[:-2, 1:-1], ids[2:, 1:-1], ids[1:-1, :-2], ids[1:-1, 2:])
    return (inner > 0) & np.any([inner != other for other in around], axis=0)


def _classes(label):
    """The classes of a label but the background, as a set of int."""
    found = np.flatnonzero(label.any(axis=(0, 1))) if label.ndim == 3 else np.unique(label)
    return set(found.tolist()) - {0}


def _colour(colours, index):
    return colours[(index - 1) % len(colours)]
