"""Writes a volume as a classic CT or MR series: one file per slice."""

import hashlib
from pathlib import Path

import numpy as np

from segkit.errors import DataError
from segkit.io.pydicom_import import pydicom

_STORAGE = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
_EMPTY = {
    "StudyDate": "",
    "StudyTime": "",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "Manufacturer": "segkit",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyID": "",
    "PatientPosition": "HFS",
    "PositionReferenceIndicator": "",
}


def write_series(
    folder,
    volume,
    *,
    modality: str = "MR",
    patient_id: str = "segkit",
    study_uid: str | None = None,
    series_uid: str | None = None,
    series_number: int = 1,
    seed: str = "segkit",
    slope: float = 1.0,
    intercept: float = 0.0,
):
    """Writes CT or MR Image Storage files that `read_series` reads back exactly.

    Reading sorts slices along the normal of the image plane, so a volume of left-handed
    orientation comes back with its depth reversed; `oriented(volume.orientation)` undoes it.

    Args:
        folder: Created if missing; must hold no files.
        volume: `Volume` without channels and shear.
        modality: `"CT"` or `"MR"`.
        patient_id: PatientID, at most 64 characters.
        study_uid: StudyInstanceUID; by default made from `seed`.
        series_uid: SeriesInstanceUID; by default made from `seed`, the number and the voxels.
        series_number: SeriesNumber.
        seed: Text from which UIDs are made, so that equal input gives equal files.
        slope: Rescale slope; `(voxel - intercept) / slope` must be an integer of 16 bits.
        intercept: Rescale intercept.

    Returns:
        List of the paths written, in slice order.

    Raises:
        DataError: If the volume cannot be stored exactly, or the folder holds files.
    """
    folder = Path(folder)
    if modality not in _STORAGE:
        raise DataError(f"modality must be CT or MR, got {modality!r}.")
    stored = _stored(volume, slope, intercept)
    directions = _directions(volume)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DataError(f"{folder} holds files already. Give an empty folder.")
    uid = pydicom.uid.generate_uid
    digest = hashlib.sha256(stored.tobytes() + volume.affine.tobytes()).hexdigest()
    series = series_uid or uid(entropy_srcs=[seed, modality, str(series_number), digest])
    common = {
        "SOPClassUID": _STORAGE[modality],
        "Modality": modality,
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
        "PatientID": patient_id,
        "PatientName": "",
        "StudyInstanceUID": study_uid or uid(entropy_srcs=[seed, "study"]),
        "SeriesInstanceUID": series,
        "SeriesNumber": series_number,
        "FrameOfReferenceUID": uid(entropy_srcs=[seed, "frame of reference"]),
        "RescaleSlope": _decimal(slope),
        "RescaleIntercept": _decimal(intercept),
    }
    paths = []
    for k, pixels in enumerate(stored):
        dataset = _dataset(common, volume, directions, k, pixels)
        dataset.SOPInstanceUID = uid(entropy_srcs=[str(series), str(k)])
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        paths.append(folder / f"{k:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def _dataset(common, volume, directions, k, pixels):
    dataset = pydicom.Dataset()
    for keyword, value in {**_EMPTY, **common}.items():
        setattr(dataset, keyword, value)
    position = (volume.affine @ [k, 0, 0, 1])[:3] * (-1, -1, 1)
    depth, height, width = volume.spacing_mm
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = [_decimal(v) for v in position]
    dataset.ImageOrientationPatient = [_decimal(v) for v in directions]
    dataset.PixelSpacing = [_decimal(height), _decimal(width)]
    dataset.SliceThickness = _decimal(depth)
    dataset.SpacingBetweenSlices = _decimal(depth)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.PixelData = pixels.astype("<i2").tobytes()
    return dataset


def _stored(volume, slope, intercept):
    if volume.array.ndim != 3:
        raise DataError(f"a DICOM series has no channels, got shape {volume.array.shape}.")
    if not slope > 0:
        raise DataError(f"slope must be positive, got {slope}.")
    exact = (volume.array.astype(np.float64) - intercept) / slope
    stored = np.rint(exact)
    if not np.abs(exact - stored).max() <= 1e-3:
        raise DataError(
            f"voxels are not integers after (voxel - {intercept:g}) / {slope:g}. Round or scale "
            "the volume first, or give its slope."
        )
    if stored.min() < -32768 or stored.max() > 32767:
        raise DataError(
            f"stored values {stored.min():.0f} to {stored.max():.0f} exceed 16 bits. Give another "
            "slope or intercept."
        )
    return stored.astype(np.int16)


def _directions(volume):
    """Direction along a row, then down a column, LPS: six cosines."""
    cosines = volume.affine[:3, :3] / volume.spacing_mm
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > 1e-4:
        raise DataError("the volume's axes are not at right angles; DICOM cannot store that.")
    cosines = cosines * [[-1], [-1], [1]]
    return [*cosines[:, 2], *cosines[:, 1]]


def _decimal(value):
    """A number as DICOM's decimal string, at most 16 characters."""
    return pydicom.valuerep.DSfloat(float(value), auto_format=True)
