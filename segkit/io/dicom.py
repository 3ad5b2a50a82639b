"""DICOM series, classic and enhanced. See `docs/reading.md` for what is refused and why."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.errors import DataError
from segkit.io.dicom_frames import frames_of
from segkit.io.dicom_frames import is_dicom
from segkit.io.dicom_frames import load_pixels
from segkit.io.dicom_geometry import grid
from segkit.io.dicom_geometry import levels
from segkit.io.dicom_geometry import same_position_reason
from segkit.io.dicom_geometry import split
from segkit.io.dicom_writer import write_series
from segkit.io.values import as_labels
from segkit.io.values import finite
from segkit.io.values import narrowed
from segkit.volume import Volume

__all__ = ["Series", "list_series", "read_series", "write_series"]


@dataclass(frozen=True, eq=False)
class Series:
    """Images of one series that share size and orientation.

    Attributes:
        uid: SeriesInstanceUID.
        modality: Such as `"MR"`.
        shape: `(images, rows, columns)`.
        localizer: `True` for scout images.
        frames: The images, one `Frame` each, unsorted.
    """

    uid: str
    modality: str
    shape: tuple[int, int, int]
    localizer: bool
    frames: tuple

    def __str__(self):
        images, rows, columns = self.shape
        return (
            f"...{self.uid[-12:]} {self.modality}, {images} image{'s' * (images > 1)} "
            f"{rows} x {columns} (first file {self.frames[0].file.name})"
        )


def list_series(folder):
    """Lists the image series below a folder.

    Args:
        folder: Searched with its subfolders, or a single DICOM file. Hidden files, DICOMDIR and
            files that are not DICOM are skipped.

    Returns:
        List of `Series`, ordered by UID. One series may appear several times, when it mixes
        sizes or orientations.

    Raises:
        DataError: If the folder is missing, or a DICOM file in it is damaged.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"{folder} does not exist.")
    frames = [frame for file in _files(folder) for frame in frames_of(file)]
    return [
        Series(g[0].series_uid, g[0].modality, (len(g), *g[0].shape), g[0].localizer, tuple(g))
        for g in split(frames)
    ]


def read_series(path, series=None, *, label: bool = False):
    """Reads one DICOM series as a volume.

    Args:
        path: Folder, searched with its subfolders, or a single file.
        series: Which one, when there are several: its number in `list_series` counted from 1,
            or its SeriesInstanceUID (its last digits suffice).
        label: Read as a label map: integers, one channel.

    Returns:
        `Volume`, depth along the normal of the slices; int16 or int32 when all values are
        integers, else float32; uint8 `(..., 3)` for colour.

    Raises:
        DataError: If there is no series, or several and no choice, or if its images do not form
            one regular, complete, orthogonal grid. Says which file or position and why.
    """
    path = Path(path)
    chosen, notes = _choose(path, list_series(path), series)
    frames = list(chosen.frames)
    if len(frames) == 1 and frames[0].position is None:
        return _flat(path, frames[0], notes, label)
    try:
        stack, more = _one_per_position(levels(frames))
        affine, geometry = grid(stack)
    except DataError as error:
        known = str(error).startswith(str(path))
        raise DataError(str(error) if known else f"{path}: {error}") from None
    array, pixels = _pixels(stack)
    array, values = as_labels(array, path) if label else (array, ())
    return Volume(array, affine, (*notes, *more, *geometry, *pixels, *values))


def _files(folder):
    if folder.is_file():
        if not is_dicom(folder):
            raise DataError(f"{folder} is not a DICOM file: it has no DICM marker.")
        return [folder]
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in sorted(names):
            file = Path(root, name)
            if name.startswith(".") or name.upper() == "DICOMDIR" or not file.is_file():
                continue
            if is_dicom(file):
                found.append(file)
            elif name.lower().endswith((".dcm", ".ima")):
                raise DataError(
                    f"{file} is named like DICOM but has no DICM marker: it is damaged or empty. "
                    "Export it again, or move it out of the folder."
                )
    return found


def _choose(path, found, series):
    """Returns the series to read and the notes on what was left out."""
    if not found:
        raise DataError(f"{path} holds no DICOM images. Give the folder of one image series.")
    numbered = list(enumerate(found, start=1))
    if isinstance(series, str) and series.isdigit() and len(series) < 5:
        series = int(series)
    if isinstance(series, int):
        numbered = [(n, s) for n, s in numbered if n == series]
    elif series is not None:
        numbered = [(n, s) for n, s in numbered if str(series) and s.uid.endswith(str(series))]
    if not numbered:
        raise DataError(f"{path} holds no series {series!r}. It holds: {_listing(found)}.")
    notes = ()
    if len({s.uid for _, s in numbered}) == 1:
        kept = [(n, s) for n, s in numbered if not s.localizer] or numbered
        left = sum(s.shape[0] for n, s in numbered) - sum(s.shape[0] for n, s in kept)
        notes = (f"{left} localizer images of the series were left out.",) * (left > 0)
        numbered = kept
    if len(numbered) > 1:
        one = len({s.uid for _, s in numbered}) == 1
        what = "one series that mixes sizes or orientations" if one else f"{len(found)} series"
        raise DataError(
            f"{path} holds {what}; choose one by its number (series=1, --series 1) or UID: "
            f"{_listing(found)}."
        )
    return numbered[0][1], notes


def _listing(found):
    return "; ".join(f"{n}) {series}" for n, series in enumerate(found, start=1))


def _one_per_position(found):
    """Drops copies of an image, if pixels agree, and refuses different images at one position."""
    copies = 0
    for level in found:
        if len(level) > 1:
            images = [load_pixels(f.file, [f.number])[0][0] for f in level[:1]]
            for frame in level[1:]:
                other = load_pixels(frame.file, [frame.number])[0][0]
                if not np.array_equal(images[0], other):
                    raise DataError(same_position_reason(found))
            copies += len(level) - 1
    notes = (f"{copies} identical copies of slices were left out.",) if copies else ()
    return [level[0] for level in found], notes


def _pixels(stack):
    """Decodes the frames of a stack, each file once."""
    wanted = {}
    for place, frame in enumerate(stack):
        wanted.setdefault(frame.file, []).append((place, frame.number))
    images, notes = [None] * len(stack), []
    for file, pairs in wanted.items():
        decoded, more = load_pixels(file, [number for _, number in pairs])
        notes += more
        for (place, _), image in zip(pairs, decoded, strict=True):
            images[place] = image if image.ndim == 3 else narrowed(image)
    if len({image.shape for image in images}) > 1:
        raise DataError(f"{stack[0].file.parent} mixes grey and colour images in one series.")
    if any(image.dtype.kind == "f" for image in images):
        images = [image.astype(np.float32, copy=False) for image in images]
    array, more = finite(np.stack(images), stack[0].file.parent)
    return array, (*dict.fromkeys(notes), *more)


def _flat(path, frame, notes, label):
    """A single image without position, such as a radiograph: spacing but no place."""
    array, pixels = _pixels([frame])
    array, values = as_labels(array, path) if label else (array, ())
    spacing, more = frame.spacing, ()
    if spacing is None or min(spacing) <= 0:
        spacing, more = (1.0, 1.0), ("The file states no pixel size: 1 mm was assumed.",)
    affine = np.diag([*spacing[::-1], 1.0, 1.0])[:, [2, 1, 0, 3]]
    placed = "The image has no position in space: a 2-D image."
    return Volume(array, affine, (*notes, placed, *frame.notes, *more, *pixels, *values))
