"""Pictures of images beside each other: a row for each example, a column for each kind."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from segkit.inference.overlay import COLOURS

CELL = 1.6  # side of an image in inches
GAP = 2  # pixels between rows


def save_grid(path, columns, *, title, notes=None, upright=False, classes=()):
    """Writes a PNG; images of a row have one grey scale, that of the last column.

    Args:
        path: File to write.
        columns: Dict heading -> images `(rows, *sides, channels)`; the middle slice of volumes and
            the first channel are shown, pictures of three channels in colour.
        title: Text above.
        notes: Text left of each row, or `None`.
        upright: Show row 0 at the top, as for photographs; else at the bottom, which turns
            anterior or superior up.
        classes: Headings of the columns that show class indices, in colours.
    """
    last = [middle_slice(image) for image in list(columns.values())[-1]]
    limits = [np.percentile(image, (0.5, 99.5)) for image in last]
    rows, height = len(last), len(last[0])
    figure = Figure(figsize=(CELL * len(columns) + 0.8, CELL * rows + 0.8), layout="constrained")
    places = (height + GAP) * np.arange(rows) + height / 2
    for number, (name, images) in enumerate(columns.items()):
        axes = figure.add_subplot(1, len(columns), number + 1)
        cells = [middle_slice(image) for image in images]
        if name in classes:
            shown = [_coloured(cell) for cell in cells]
        else:
            shown = [_grey(cell, *limit) for cell, limit in zip(cells, limits, strict=True)]
        axes.imshow(_stacked(shown, upright), interpolation="nearest")
        axes.set_title(name, fontsize=8)
        axes.set(xticks=[], yticks=[])
        if notes and number == 0:
            axes.set_yticks(places, notes, fontsize=7, rotation=90, va="center")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)


def middle_slice(image):
    """Returns what is shown of an image `(*sides, channels)`: `(height, width)`, or with colours.

    It is the middle slice of a volume and its first channel; a picture of three channels is whole.
    """
    image = np.asarray(image)
    if image.ndim == 4:
        image = image[len(image) // 2]
    return image if image.shape[-1] == 3 else image[..., 0]


def _grey(cell, low, high):
    scaled = np.clip((cell - low) / max(high - low, 1e-6), 0, 1)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=-1)


def _coloured(labels):
    """Class 0 black, the others as in `segkit.inference.overlay`."""
    table = np.array([to_rgb(colour) for colour in COLOURS])
    return np.where(labels[..., None] > 0, table[(labels - 1) % len(table)], 0.0)


def _stacked(cells, upright):
    """Cells below each other, with white between."""
    white = np.ones((GAP, *cells[0].shape[1:]))
    parts = [part for cell in cells for part in (cell if upright else cell[::-1], white)]
    return np.concatenate(parts[:-1])
