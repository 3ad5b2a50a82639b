"""Pictures of images beside each other: a row for each example, a column for each kind."""

import numpy as np
from matplotlib.figure import Figure

CELL = 1.6  # side of an image in inches
COLOURS = "tab10"


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
    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(CELL * len(columns) + 0.6, CELL * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for row in range(rows):
        slices = {name: middle_slice(images[row]) for name, images in columns.items()}
        low, high = np.percentile(list(slices.values())[-1], (0.5, 99.5))
        for cell, (name, shown) in zip(axes[row], slices.items(), strict=True):
            origin = "upper" if upright else "lower"
            if name in classes:
                cell.imshow(shown, cmap=COLOURS, vmin=0, vmax=9, origin=origin)
            else:
                scaled = np.clip((shown - low) / max(high - low, 1e-6), 0, 1)
                cell.imshow(scaled, cmap="gray", vmin=0, vmax=1, origin=origin)
            cell.set(xticks=[], yticks=[])
            if row == 0:
                cell.set_title(name, fontsize=8)
        if notes:
            axes[row, 0].set_ylabel(notes[row], fontsize=7)
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
