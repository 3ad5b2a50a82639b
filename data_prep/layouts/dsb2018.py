"""Data Science Bowl 2018 (BBBC038): `ID/images/ID.png` and a mask per nucleus, `ID/masks/*.png`."""

from dataclasses import replace

import numpy as np

from data_prep.instances import paint
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.layouts import source_folder
from data_prep.layouts import visible
from segkit import io
from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.errors import ShapeError
from segkit.volume import Volume

FOLDER = "stage1_train"
CLASSES = {"background": 0, "nucleus": 1}
DARK = 0.5  # median of the brightest channel where the background is dark, share of the range
COLOURED = 0.02  # mean difference between the channels of a stained image, share of the range


def scan(source):
    """Lists the images; each has its kind, see `kind_of`, and counts as a patient.

    Args:
        source: Folder with a sub-folder per image, or the one that holds `stage1_train`.

    Returns:
        `RawDataset` of three channels, grey images having three equal ones.

    Raises:
        DataError: A sub-folder does not hold one image and a folder of masks.
    """
    folder = source_folder(source)
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    return RawDataset(
        name="dsb2018",
        channels=("red", "green", "blue"),
        classes=CLASSES,
        cases=tuple(_case(f) for f in visible(sorted(folder.iterdir())) if f.is_dir()),
        read=read_nuclei,
    )


def read_nuclei(case):
    """Reads a case: `(image, label, Objects)` as `data_prep.layouts.read_case` does.

    Raises:
        DataError: A file cannot be read, or the image has neither one channel nor three.
        ShapeError: A mask has another shape than the image.
    """
    image = _read_colour(case.images[0])
    masks = []
    for path in _files(case.label):
        mask = io.read_label(path)
        if mask.shape != image.shape:
            raise ShapeError(f"{path} has shape {mask.shape}, its image {image.shape}. Remove it.")
        masks.append(np.flatnonzero(mask.array != 0))
    objects = paint(masks, image.shape)
    return image, Volume((objects.ids > 0).astype(np.uint8), image.affine), objects


def kind_of(array):
    """Returns what an image of cells looks like.

    Args:
        array: Pixels `(..., 3)` of 8 or 16 bits.

    Returns:
        `"fluorescence"` on a dark background; else `"stained"` in colour, or `"brightfield"`.
    """
    pixels = array.reshape(-1, 3) / (255 if array.max() <= 255 else 65535)
    if np.median(pixels.max(axis=1)) < DARK:
        return "fluorescence"
    return "stained" if np.ptp(pixels, axis=1).mean() > COLOURED else "brightfield"


def _case(folder):
    images = _files(folder / "images") if (folder / "images").is_dir() else []
    if len(images) != 1 or not (folder / "masks").is_dir():
        raise DataError(
            f"{folder} must hold one image in images/ and a folder masks/, with a PNG per nucleus."
        )
    path = str(images[0])
    return RawCase(folder.name, folder.name, (path,), str(folder / "masks"), kind=_kind(path))


def _kind(path):
    try:
        return kind_of(_read_colour(path).array)
    except SegkitError:
        return None  # Reading the case will say why.


def _read_colour(path):
    image = io.read_image(path)
    array = image.array if image.array.ndim == 4 else image.array[..., None]
    if array.shape[-1] not in (1, 3):
        raise DataError(f"{path} has {array.shape[-1]} channels; grey or colour is due.")
    return replace(image, array=np.broadcast_to(array, (*array.shape[:3], 3)))


def _files(folder):
    return visible(sorted(source_folder(folder).iterdir()))
