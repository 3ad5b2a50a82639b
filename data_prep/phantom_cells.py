"""Phantoms with objects: pictures of cells that touch, each of which is known pixel by pixel.

Same seed and shape: same bytes.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from data_prep.phantom import Phantom
from segkit.volume import Volume

CELL_CLASSES = ("background", "cell")
CELL_CHANNELS = ("grey",)


def make_cells(seed, *, shape=(160, 160)):
    """Makes a picture of 10 to 30 cells, of which most touch another.

    Cells are ellipses whose smaller radius is 5 to 11 pixels, of uneven brightness. Even seeds show
    bright cells on a dark ground, as under fluorescence, odd ones dark cells on a bright ground;
    either are faint in some pictures and strong in others.

    Args:
        seed: Integer >= 0.
        shape: `(height, width)` in pixels.

    Returns:
        `Phantom` with one channel of 0 to 255 and the `ids` of the cells, on the default affine
        of pictures.
    """
    rng = np.random.default_rng([seed, 4])
    ids, level = np.zeros(shape, np.uint16), np.zeros(shape, np.float32)
    centre, reach = rng.uniform(0, shape), 0.0
    for _ in range(rng.integers(16, 40)):
        radius = rng.uniform(5, 11)
        if rng.uniform() < 0.7:  # beside the one before
            angle, distance = rng.uniform(0, 2 * np.pi), 0.95 * (reach + radius)
            centre = centre + distance * np.array([np.sin(angle), np.cos(angle)])
        else:
            centre = rng.uniform(0, shape)
        inside, reach = _ellipse(rng, shape, centre, radius), radius
        free = inside & (ids == 0)
        if free.sum() > 0.7 * np.pi * radius**2:
            ids[free] = ids.max() + 1
            level[free] = rng.uniform(0.6, 1.0)
    image = _photographed(rng, level, dark_ground=seed % 2 == 0)
    label = (ids > 0).astype(np.uint8)
    voxels = np.bincount(label.ravel(), minlength=2)
    return Phantom(
        image=Volume(image[None, ..., None]),
        label=Volume(label[None]),
        channels=CELL_CHANNELS,
        classes={name: value for value, name in enumerate(CELL_CLASSES)},
        volumes_ml=dict(zip(CELL_CLASSES, (voxels / 1000).tolist(), strict=True)),
        ids=ids[None],
    )


def _ellipse(rng, shape, centre, radius):
    """Which pixels lie in an ellipse of random stretch and turn, bool."""
    stretch, turn = rng.uniform(1.0, 1.5), rng.uniform(0, np.pi)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    rows, columns = rows - centre[0], columns - centre[1]
    along = rows * np.sin(turn) + columns * np.cos(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    return (along / stretch) ** 2 + across**2 < radius**2


def _photographed(rng, level, *, dark_ground):
    """The picture of cells of some brightness in [0, 1], uint8."""
    texture = gaussian_filter(rng.standard_normal(level.shape), 2)
    seen = gaussian_filter(level * (1 + 0.5 * texture), 0.8)
    ground, contrast = rng.uniform(10, 30), rng.uniform(40, 200)
    if not dark_ground:
        ground, contrast = rng.uniform(180, 230), -rng.uniform(40, 120)
    noise = rng.normal(0, 0.06 * abs(contrast), level.shape)
    return np.clip(np.rint(ground + contrast * seen + noise), 0, 255).astype(np.uint8)
