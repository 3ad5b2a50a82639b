"""Pictures of truth and prediction on one slice, for people who judge a segmentation."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segkit.metrics.segments import segment
from segkit.metrics.segments import thin

# Okabe and Ito's colours, told apart with any kind of colour vision; repeated past seven.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a case, small enough to keep for every case.

    Attributes:
        image: uint8, shape `(height, width)`.
        truth: Class indices, same shape.
        prediction: Class indices, same shape.
        aspect: Height of a pixel over its width.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    aspect: float


def pick_slice(image, truth, classes_at, spacing_mm):
    """Takes the slice with the most foreground in the truth, the middle one if there is none.

    Args:
        image: float32, shape `(depth, height, width, channels)`; the first channel is shown.
        truth: Class indices, shape `(depth, height, width)`.
        classes_at: Function of a slice's index that returns its predicted class indices,
            `(height, width)`.
        spacing_mm: Voxel size per axis.

    Returns:
        `Slice`.
    """
    foreground = (truth > 0).sum(axis=(1, 2))
    index = int(foreground.argmax()) if foreground.any() else len(truth) // 2
    grey = image[index, ..., 0]
    low, high = np.percentile(grey, (0.5, 99.5))
    grey = np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255
    prediction = np.asarray(classes_at(index)).astype(truth.dtype)
    aspect = float(spacing_mm[1] / spacing_mm[2])
    return Slice(grey.astype(np.uint8), truth[index].copy(), prediction, aspect)


def save_overlay(path, slice_, class_names, title, *, upright=True):
    """Writes a PNG: grey image, outlines of truth (solid) and prediction (dashed), legend.

    Args:
        path: File to write.
        slice_: `Slice`.
        class_names: Names of all classes, background first.
        title: Text above the picture.
        upright: Show row 0 at the top, as for photographs; else at the bottom, which turns
            anterior or superior up.
    """
    height, width = slice_.image.shape
    shape = height * slice_.aspect / width
    figure = Figure(figsize=(7, float(np.clip(5 * shape + 0.6, 2, 12))), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(
        slice_.image,
        cmap="gray",
        vmin=0,
        vmax=255,
        aspect=slice_.aspect,
        origin="upper" if upright else "lower",
    )
    handles = []
    for index, name in enumerate(class_names[1:], start=1):
        colour = COLOURS[(index - 1) % len(COLOURS)]
        drawn = [
            _outline(axes, slice_.truth == index, colour, "solid"),
            _outline(axes, slice_.prediction == index, colour, "dashed"),
        ]
        if any(drawn):
            handles.append(Line2D([], [], color=colour, label=name))
    handles.append(Line2D([], [], color="0.4", label="truth"))
    handles.append(Line2D([], [], color="0.4", linestyle="dashed", label="prediction"))
    axes.set_title(title)
    axes.set_axis_off()
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)


def save_segments(path, slice_, index, title):
    """Writes a PNG of the segments that a boundary leaves: in the truth, and thinned as predicted.

    A segment of the prediction has the colour of the one of the truth that it shares most with.
    Two segments of one colour side by side are a split; one that covers two colours is a merger.

    Args:
        path: File to write.
        slice_: `Slice`.
        index: Class index of the boundary.
        title: Text above the picture.
    """
    truth, predicted = (segment(m == index) for m in (slice_.truth, slice_.prediction))
    predicted = thin(predicted)
    shared = np.zeros((predicted.max() + 1, truth.max() + 1), int)
    np.add.at(shared, (predicted.ravel(), truth.ravel()), 1)
    shared[:, 0] = 0  # the boundary of the truth
    colours = np.random.default_rng(0).uniform(0.2, 1, (truth.max() + 1, 3))
    colours[0] = 0
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    for axes, name, segments in zip(
        figure.subplots(1, 2),
        ("truth", "prediction"),
        (truth, np.where(predicted, shared.argmax(axis=1)[predicted], 0)),
        strict=True,
    ):
        axes.imshow(colours[segments], aspect=slice_.aspect, interpolation="nearest")
        axes.set_title(name)
        axes.set_axis_off()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _outline(axes, mask, colour, style):
    """Draws the border of a mask, closed at the edges of the picture; says if there is one."""
    if not mask.any():
        return False
    rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
    axes.contour(columns, rows, np.pad(mask, 1), [0.5], colors=colour, linestyles=style)
    return True
