"""File <-> Volume. `READERS` is the table suffix -> reader; folders and `.dcm` are DICOM."""

from pathlib import Path

from segkit.errors import DataError
from segkit.tables import load

DICOM = "segkit.io.dicom:read_series"
NIFTI = "segkit.io.nifti:read_nifti"
RASTER = "segkit.io.raster:read_raster"

READERS = {
    ".nii.gz": NIFTI,
    ".nii": NIFTI,
    ".dcm": DICOM,
    ".ima": DICOM,
    ".png": RASTER,
    ".tif": RASTER,
    ".tiff": RASTER,
    ".jpg": RASTER,
    ".jpeg": RASTER,
    ".bmp": RASTER,
}


def read_image(path):
    """Reads an image in any of the known formats.

    Args:
        path: A folder (one DICOM series), or a file with a suffix of `READERS`, or a DICOM
            file of any name.

    Returns:
        `Volume`, array `(depth, height, width[, channels])`, always finite; 2-D images have
        depth 1. What was odd about the file stands in `Volume.notes`.

    Raises:
        DataError: If the path is missing, of an unknown format, damaged or ambiguous.
    """
    return _reader(path)(path)


def read_label(path):
    """Reads a label map in any of the known lossless formats.

    Args:
        path: As for `read_image`.

    Returns:
        `Volume` without channels; array uint8, uint16 or int32 of the values in the file
        (integers stored as floats are rounded).

    Raises:
        DataError: As `read_image`; also for fractions, NaN, negative values and JPEG.
    """
    return _reader(path)(path, label=True)


def _reader(path):
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    key = ".dcm" if path.is_dir() else _suffix(path)
    return load(READERS, key, "image format")


def _suffix(path):
    name = path.name.lower()
    known = [suffix for suffix in READERS if name.endswith(suffix)]
    if known:
        return known[0]
    with path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            return ".dcm"
    raise DataError(
        f"{path}: unknown image format {path.suffix!r}. Known: a folder with a DICOM series, "
        f"{', '.join(READERS)}."
    )
