"""One DICOM file: its frames (geometry and identity) and their rescaled pixels.

Text of a data set never enters a message or note, since it may name the patient; neither does
the text of pydicom's exceptions, which quotes values.
"""

import contextlib
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.io.pydicom_import import pydicom
from segkit.io.values import check_expansion
from segkit.io.values import rescaled

MAX_INFLATED_RATIO = 100
MAX_FRAMES = 2**16
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NOT_IMAGES = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG", "ECG"}
_DOUBT = (
    "The pixel data do not quite fit the header (spare bytes, or another bit depth): compare the "
    "images with those of a viewer."
)
# Attributes that tell apart images at one position: keyword -> functional group sequence.
_VARIANTS = {
    "TemporalPositionIdentifier": "",
    "TemporalPositionIndex": "FrameContentSequence",
    "EchoNumbers": "",
    "EchoTime": "",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "TriggerTime": "",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "InversionTime": "",
    "ImageType": "",
    "FrameType": "MRImageFrameTypeSequence",
    "AcquisitionNumber": "",
    "AcquisitionTime": "",
    "ContentTime": "",
    "InstanceNumber": "",
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One 2-D image of a DICOM file, without its pixels.

    Attributes:
        file: Path of the file.
        number: Index of the frame in the file.
        series_uid: SeriesInstanceUID.
        modality: Such as `"MR"`.
        shape: `(rows, columns)`.
        position: Centre of the first pixel, LPS mm, shape `(3,)`; `None` when absent.
        orientation: Directions along a row and down a column, LPS, shape `(2, 3)`, or `None`.
        spacing: Distance between rows and between columns, mm, or `None`.
        thickness: Slice thickness in mm, or `None`.
        reference: FrameOfReferenceUID, or `""`.
        localizer: `True` for a scout image.
        variants: What may tell it from other images at the same position.
        notes: What was odd about the geometry.
    """

    file: Path
    number: int
    series_uid: str
    modality: str
    shape: tuple[int, int]
    position: np.ndarray | None
    orientation: np.ndarray | None
    spacing: tuple[float, float] | None
    thickness: float | None
    reference: str
    localizer: bool
    variants: dict[str, str]
    notes: tuple[str, ...] = ()

    def __str__(self):
        return self.file.name if self.number == 0 else f"{self.file.name} frame {self.number + 1}"


def is_dicom(path):
    """Says whether a file starts like DICOM.

    Either with the DICM marker, or with group 0008 and no header at all, as old scanners wrote.
    """
    start = _start(path)
    return start[128:] == b"DICM" or _is_headerless(start)


def _start(path):
    with Path(path).open("rb") as file:
        return file.read(132)


def _is_headerless(start):
    return start[128:] != b"DICM" and start[:2] == b"\x08\x00" and start[3:4] == b"\x00"


def frames_of(path):
    """Returns the frames of a DICOM file.

    Args:
        path: File for which `is_dicom` holds.

    Returns:
        List of `Frame`; empty for objects that are not images (structure sets, reports,
        segmentations, doses, DICOMDIR).

    Raises:
        DataError: If the header is damaged or is a decompression bomb.
    """
    path = Path(path)
    with _wrapped(path):
        dataset = _parse(path, stop_before_pixels=True)
        if dataset.get("Modality") in _NOT_IMAGES or not dataset.get("Rows"):
            return []
        if "MOSAIC" in (dataset.get("ImageType") or []):
            raise DataError(
                f"{path.name} is a Siemens mosaic (a whole volume tiled into one image). Convert "
                "the series to NIfTI with dcm2niix first."
            )
        count = int(dataset.get("NumberOfFrames") or 1)
        if count > MAX_FRAMES:
            raise DataError(f"{path.name} declares {count} frames; at most {MAX_FRAMES} are read.")
        return [_frame(path, dataset, number, count) for number in range(count)]


def load_pixels(path, numbers):
    """Decodes frames of one file.

    Args:
        path: DICOM file.
        numbers: Indices of the frames wanted.

    Returns:
        `(images, notes)`: one array `(rows, columns)` or `(rows, columns, 3)` per number, in
        the units of the rescale (CT: HU), and a tuple of notes.

    Raises:
        DataError: If the pixels are missing, truncated, too large for the file, or compressed
            in a way that no installed decoder reads.
    """
    path = Path(path)
    with _wrapped(path):
        dataset = _parse(path)
        # The doubt is passed on; its text, which quotes values of the header, is not.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            stored = _decoded(path, dataset)
        notes, images = [_DOUBT] if caught else [], []
        for number in numbers:
            image, more = _values(path, dataset, number, stored[number])
            images.append(image)
            notes += more
        if dataset.get("LossyImageCompression") == "01":
            notes.append("The images were compressed with loss.")
        return images, tuple(dict.fromkeys(notes))


@contextlib.contextmanager
def _wrapped(path):
    """Turns any exception on a damaged file into a `DataError`.

    pydicom's own warnings are hidden, because they quote values of the header: it is checked here
    what is used of them, and doubts about pixels become a note. All other warnings are shown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except SegkitError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as DICOM: the file is truncated, damaged or of an "
            f"unsupported kind ({type(error).__name__}). Export it again."
        ) from None


def _parse(path, stop_before_pixels=False):
    if _is_headerless(_start(path)):
        dataset = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=True)
        dataset.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian
            if dataset.original_encoding[0]
            else pydicom.uid.ExplicitVRLittleEndian
        )
        return dataset
    _check_deflated(path)
    return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)


def _check_deflated(path):
    """Inflates a deflated data set up to a cap, because pydicom inflates it without one."""
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return
    data = path.read_bytes()
    start = 144 + int(meta.FileMetaInformationGroupLength)
    cap = max(64 * 2**20, MAX_INFLATED_RATIO * len(data))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data[start:], cap)
    if inflater.unconsumed_tail:
        raise DataError(
            f"{path} inflates to more than {cap // 2**20} MiB from {len(data) / 2**20:.2f} MiB "
            f"(limit {MAX_INFLATED_RATIO}:1): it looks like a decompression bomb."
        )


def _groups(dataset, number):
    """Per-frame and shared functional groups of one frame of an enhanced object, if any."""
    found = []
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame:
        found.append(per_frame[number])
    return found + list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]


def _find(dataset, groups, keyword, sequence):
    for group in groups:
        items = group.get(sequence) if sequence else None
        if items and items[0].get(keyword) is not None:
            return items[0].get(keyword)
    return dataset.get(keyword)


def _frame(path, dataset, number, count):
    groups = _groups(dataset, number)

    def numbers(keyword, sequence, size):
        value = _find(dataset, groups, keyword, sequence)
        if value is None or (size > 1 and len(value) != size):
            return None
        array = np.array(value, dtype=np.float64).reshape(size)
        return array if np.isfinite(array).all() else None

    position = numbers("ImagePositionPatient", "PlanePositionSequence", 3)
    if count > 1 and not groups:
        position = None  # one position for many frames places none of them
    orientation = numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6)
    spacing, notes = numbers("PixelSpacing", "PixelMeasuresSequence", 2), ()
    if spacing is None and position is None:
        spacing = numbers("ImagerPixelSpacing", "", 2)
        if spacing is not None:
            notes = ("The pixel size is that at the detector (ImagerPixelSpacing).",)
    thickness = numbers("SliceThickness", "PixelMeasuresSequence", 1)
    between = numbers("SpacingBetweenSlices", "PixelMeasuresSequence", 1)
    depths = [float(d[0]) for d in (thickness, between) if d is not None and d[0] > 0]
    variants = {k: _find(dataset, groups, k, s) for k, s in _VARIANTS.items()}
    return Frame(
        file=path,
        number=number,
        series_uid=str(dataset.get("SeriesInstanceUID") or ""),
        modality=str(dataset.get("Modality") or "?")[:16],
        shape=(int(dataset.Rows), int(dataset.Columns)),
        position=position,
        orientation=None if orientation is None else orientation.reshape(2, 3),
        spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        thickness=depths[0] if depths else None,
        reference=str(dataset.get("FrameOfReferenceUID") or ""),
        localizer="LOCALIZER" in (dataset.get("ImageType") or []),
        variants={k: str(v) for k, v in variants.items() if v not in (None, "")},
        notes=notes,
    )


def _decoded(path, dataset):
    """Returns the stored values, shape `(frames, rows, columns[, 3])`."""
    keywords = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    data = next((dataset[k].value for k in keywords if k in dataset), None)
    if not data:
        raise DataError(f"{path} holds no pixel data. Export the images, not only the headers.")
    if dataset.get("BitsStored", 8) != 1 + dataset.get("HighBit", dataset.get("BitsStored", 8) - 1):
        raise DataError(f"{path}: HighBit must be BitsStored - 1. Export it again.")
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    size = frames * int(dataset.Rows) * int(dataset.Columns) * samples
    check_expansion(path, size * int(dataset.BitsAllocated) // 8, len(data))
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and not pydicom.pixels.get_decoder(syntax).is_available:
        raise DataError(
            f"{path} is compressed as {syntax.name}, for which no decoder is installed. "
            "Run: pip install segkit[dicom-codecs]"
        )
    try:
        array = dataset.pixel_array
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a Rust decoder is no Exception
        raise DataError(
            f"{path}: its pixel data cannot be decoded ({type(error).__name__}, {syntax.name}): "
            "truncated, damaged or of a variant that no installed decoder reads. Export it again, "
            "uncompressed."
        ) from None
    array = _colour(path, dataset, array)
    colours = array.shape[-1:] if dataset.SamplesPerPixel > 1 else ()
    return array.reshape(frames, int(dataset.Rows), int(dataset.Columns), *colours)


def _colour(path, dataset, array):
    kind = dataset.get("PhotometricInterpretation")
    if kind == "PALETTE COLOR":
        array = pydicom.pixels.apply_color_lut(array, dataset)
        dataset.SamplesPerPixel = array.shape[-1]
        return (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    if kind in ("ARGB", "CMYK", "HSV"):
        raise DataError(f"{path} has colour space {kind}; export it as RGB or grey.")
    return array


def _values(path, dataset, number, stored):
    """Applies polarity and the modality transform to one frame of stored values."""
    if stored.ndim == 3:
        return stored, []
    notes = _padding_notes(dataset, stored)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        low = -(2 ** (dataset.BitsStored - 1)) if dataset.get("PixelRepresentation") else 0
        stored = (2 * low + 2**dataset.BitsStored - 1) - stored.astype(np.int64)
        notes.append("MONOCHROME1: stored values were inverted, so that bright is high.")
    groups = _groups(dataset, number)
    if dataset.get("ModalityLUTSequence"):
        stored = stored.astype(np.int32)
        return pydicom.pixels.apply_modality_lut(stored, dataset), notes
    names = ("RescaleSlope", "RescaleIntercept")
    found = [_find(dataset, groups, n, "PixelValueTransformationSequence") for n in names]
    slope, intercept = (d if f is None else float(f) for f, d in zip(found, (1, 0), strict=True))
    if not np.isfinite([slope, intercept]).all() or (slope == 0 and stored.any()):
        raise DataError(
            f"{path} has the rescale slope {slope} and intercept {intercept}, which would destroy "
            "its values. Export it again."
        )
    return rescaled(stored, slope, intercept), notes


def _padding_notes(dataset, stored):
    padding = dataset.get("PixelPaddingValue")
    if not isinstance(padding, int) or stored.dtype.kind == "f":
        return []
    ends = dataset.get("PixelPaddingRangeLimit", padding)
    values = np.array([padding, ends]).astype(stored.dtype)
    if not ((stored >= values.min()) & (stored <= values.max())).any():
        return []
    return ["Voxels outside the scanned field hold the padding value; they were kept as stored."]
