"""Pictures of objects: truth against prediction for whoever judges, and what was predicted."""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segkit.inference.detections import Detections
from segkit.inference.detections import InstanceMap
from segkit.inference.detections import bounds
from segkit.inference.detections import separate
from segkit.inference.detections import without_vanished
from segkit.inference.overlay import COLOURS
from segkit.metrics.instances.matching import matches
from segkit.metrics.instances.overlaps import map_overlaps

FOUND, MISSED, HIT, EXTRA = COLOURS[2], COLOURS[5], COLOURS[1], COLOURS[0]
IGNORED = "0.6"


def save_comparison(path, cases):
    """Writes a PNG with a row per case: the image, and the outlines of truth and prediction.

    True objects are solid lines, predicted ones dashed; colours tell what was found at IoU 0.5
    whatever its class, what was missed, and what is there in the prediction alone.

    Args:
        path: File to write.
        cases: List of `(title, image, truth, found)`: text; grey `(height, width)` or colour
            `(height, width, 3)` of any range; `Truth` and `InstanceMap` of that image.
    """
    panels = len(cases)
    height, width = cases[0][1].shape[:2]
    size = (13, panels * float(np.clip(6 * height / width, 2, 8)) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    for row, (title, image, truth, found) in zip(
        figure.subplots(panels, 2, squeeze=False), cases, strict=True
    ):
        for axes in row:
            _show(axes, image)
        row[0].set_title(title, loc="left")
        _compare(row[1], truth, found)
    names = {"found": FOUND, "missed": MISSED, "ignored": IGNORED}
    handles = [Line2D([], [], color=c, label=f"truth: {name}") for name, c in names.items()]
    handles += [
        Line2D([], [], color=colour, linestyle="dashed", label=f"prediction: {name}")
        for name, colour in (("hit", HIT), ("extra", EXTRA))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)


def save_objects(path, image, found, class_names, title):
    """Writes a PNG of an image with the outlines of the objects found, one colour per class.

    Args:
        path: File to write.
        image: As in `save_comparison`.
        found: `Detections` or two-dimensional `InstanceMap`; weaker detections are fainter.
        class_names: Names of all classes, background first.
        title: Text above the picture.
    """
    found = found if isinstance(found, Detections) else separate(found)
    height, width = image.shape[:2]
    figure = Figure(
        figsize=(8, float(np.clip(8 * height / width, 2, 14)) + 0.6), layout="constrained"
    )
    axes = figure.add_subplot()
    _show(axes, image)
    axes.set_title(title)
    handles = []
    for index in sorted(set(found.classes.tolist())):
        colour = COLOURS[(index - 1) % len(COLOURS)]
        chosen = found.take(np.flatnonzero(found.classes == index))
        alphas = np.clip(chosen.scores, 0.25, 1)
        parts = [(line, alpha) for line, alpha in _outlines(chosen, alphas)]
        axes.add_collection(
            LineCollection([p for p, _ in parts], colors=colour, alpha=[a for _, a in parts])
        )
        handles.append(Line2D([], [], color=colour, label=class_names[index]))
    if handles:
        figure.legend(handles=handles, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)


def _show(axes, image):
    image = np.asarray(image, float)
    low, high = np.percentile(image, (0.5, 99.5))
    axes.imshow(np.clip((image - low) / max(high - low, 1e-6), 0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()


def _compare(axes, truth, found):
    truth, found = without_vanished(truth), without_vanished(found)
    overlaps = map_overlaps(truth.labels, found.labels, truth.ignored, len(found.scores))
    true, predicted = overlaps.pairs[matches(overlaps)].T
    of_truth = np.full(len(truth.classes), MISSED, object)
    of_truth[true], of_truth[truth.ignored] = FOUND, IGNORED
    of_found = np.full(len(found.scores), EXTRA, object)
    of_found[predicted], of_found[overlaps.on_void] = HIT, IGNORED
    known = InstanceMap(truth.labels, np.ones(len(truth.classes)), truth.classes)
    for objects, colours, style in ((known, of_truth, "solid"), (found, of_found, "dashed")):
        parts = list(_outlines(separate(objects), colours))
        axes.add_collection(
            LineCollection(
                [line for line, _ in parts],
                colors=[colour for _, colour in parts],
                linestyles=style,
                linewidths=1.2,
            )
        )


def _outlines(detections, values):
    """Yields each outline, points `(x, y)`, with the value of its object."""
    from skimage.measure import find_contours

    places = bounds(detections.boxes, detections.shape)
    for (y, x, _, _), mask, value in zip(places, detections.masks, values, strict=True):
        for line in find_contours(np.pad(mask, 1).astype(float), 0.5):
            yield line[:, ::-1] + [x - 1, y - 1], value
