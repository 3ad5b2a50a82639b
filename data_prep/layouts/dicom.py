"""A folder of studies: one folder per study, in it one folder per DICOM series (= channel)."""

import hashlib
import warnings
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.layouts import natural_key
from data_prep.layouts import ordered_classes
from data_prep.layouts import ordered_names
from data_prep.layouts import read_description
from data_prep.layouts import source_folder
from data_prep.layouts import visible
from segkit.errors import DataError
from segkit.io.dicom_frames import Frame
from segkit.io.dicom_frames import frames_of
from segkit.io.dicom_frames import is_dicom
from segkit.io.pydicom_import import pydicom

LABEL_FILES = ("segmentation.nii.gz", "label.nii.gz", "seg.nii.gz")
MODALITIES = {"MR": "MRI"}
_CHOOSE = '--layout-option "channels=PATTERN,PATTERN"'
_EXAMPLE = '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}'


def scan(source, *, channels: str | None = None):
    """Lists studies. Names of folders and patients do not enter the ids: both are hashed.

    Args:
        source: Folder of studies. A study holds its series in sub-folders, or is itself the
            folder of one series; its label map is `segmentation.nii.gz`, `label.nii.gz` or
            `seg.nii.gz`. `dataset.json` beside the studies names channels and labels:
            `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}`.
        channels: Comma-separated patterns such as `"*T1pre*,*FLAIR*"`, one per channel: each
            picks one series folder of every study. Without it all series are channels, in
            the order of their folder names, which must then be the same in all studies.

    Returns:
        `RawDataset`. Without channel names these are the modalities in the headers. Studies
        of one patient share `patient`.

    Raises:
        DataError: A study without images, studies that differ in series or labels, series of
            different size, or labels without names.
    """
    folder = source_folder(source)
    studies = [f for f in visible(sorted(folder.iterdir())) if f.is_dir()]
    series = {study: _choose(study, _series_of(study), channels) for study in studies}
    if not channels:
        _check_same_series(series)
    path = folder / "dataset.json"
    description = read_description(path) if path.is_file() else {}
    cases = {study: _case(study, series[study]) for study in studies}
    _check_studies(cases)
    return RawDataset(
        name=str(description.get("name", folder.name)),
        channels=_channel_names(path, description, next(iter(series.values()), [])),
        classes=_classes(path, description, cases.values()),
        cases=tuple(cases.values()),
    )


@dataclass(frozen=True, eq=False)
class _Series:
    """A folder of DICOM files and the first image in it."""

    folder: Path
    frame: Frame

    @property
    def name(self):
        return self.folder.name


def _series_of(study):
    """Returns the series in the sub-folders of a study, or the study as a series."""
    inside = sorted(visible(study.iterdir()), key=lambda f: natural_key(f.name))
    folders = [(f, _first_image(f)) for f in [study, *inside] if f.is_dir()]
    found = [_Series(folder, frame) for folder, frame in folders if frame]
    if not found:
        raise DataError(f"study {study} holds no DICOM series; add one sub-folder per series.")
    if found[0].folder == study and len(found) > 1:
        raise DataError(
            f"study {study} holds DICOM images itself and in {found[1].name}; move the former into "
            "a sub-folder of their own."
        )
    return found


def _first_image(folder):
    """Returns the first frame of the first image file directly in a folder, or `None`."""
    for file in visible(sorted(f for f in folder.iterdir() if f.is_file())):
        frames = frames_of(file) if is_dicom(file) else []
        if frames:
            return frames[0]
    return None


def _choose(study, series, channels):
    if not channels:
        return series
    chosen = []
    for pattern in (p.strip() for p in channels.split(",")):
        hits = [s for s in series if fnmatchcase(s.name, pattern)]
        if len(hits) != 1:
            raise DataError(
                f"the channel pattern {pattern!r} must match one series folder of {study}, "
                f"it matches {len(hits)} of: {_listing(series)}."
            )
        chosen += hits
    return chosen


def _check_same_series(series):
    """Refuses studies that differ; the folder name of an only series does not matter."""
    first = next(iter(series), None)
    for study, found in series.items():
        same = [s.name for s in found] == [s.name for s in series[first]]
        if not same and (len(found), len(series[first])) != (1, 1):
            raise DataError(
                f"studies differ in their series: {first} has {_listing(series[first])}; {study} "
                f"has {_listing(found)}. Rename the folders, or choose: {_CHOOSE}."
            )


def _listing(series):
    return ", ".join(s.name for s in series)


def _case(study, series):
    if len({s.frame.shape for s in series}) > 1:
        sizes = ", ".join(f"{s.name} ({s.frame.shape[0]}x{s.frame.shape[1]})" for s in series)
        raise DataError(
            f"the series of {study} differ in size: {sizes}. Choose those on one grid: {_CHOOSE}."
        )
    identities = [_identity(s.frame.file) for s in series]
    uid = identities[0][0]
    patients = {patient for _, patient in identities}
    if not uid:
        raise DataError(f"{series[0].frame.file} has no StudyInstanceUID; export it again.")
    if len(patients) > 1:
        raise DataError(f"study {study} mixes series of {len(patients)} patients; separate them.")
    name = f"study-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"
    patient = patients.pop()
    return RawCase(
        id=name,
        patient=hashlib.sha256(f"segkit{patient}".encode()).hexdigest()[:16] if patient else name,
        images=tuple(str(s.folder) for s in series),
        label=_label(study),
    )


def _identity(file):
    """Returns StudyInstanceUID and PatientID, `""` when absent; neither may enter a message."""
    tags = ["StudyInstanceUID", "PatientID"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydicom's quote values of the header
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
        return tuple(str(header.get(tag) or "").strip() for tag in tags)


def _label(study):
    found = [str(study / name) for name in LABEL_FILES if (study / name).is_file()]
    if len(found) > 1:
        raise DataError(f"study {study} has {len(found)} label maps; keep one of {found}.")
    return found[0] if found else None


def _check_studies(cases):
    """Refuses two folders of one study, and labels on some studies only."""
    seen = {}
    for study, case in cases.items():
        if case.id in seen:
            raise DataError(
                f"{seen[case.id]} and {study} belong to one study. Put them into one folder, and "
                "give the folder above it as source."
            )
        seen[case.id] = study
    bare = [study for study, case in cases.items() if case.label is None]
    if 0 < len(bare) < len(cases):
        raise DataError(
            f"{len(bare)} of {len(cases)} studies have no label map, such as {bare[0]}. "
            f"Add {LABEL_FILES[0]} there, or move those studies away."
        )


def _channel_names(path, description, series):
    if "channel_names" not in description:
        return tuple(MODALITIES.get(s.frame.modality, s.frame.modality) for s in series)
    names = ordered_names(path, "channel_names", description["channel_names"])
    if series and len(names) != len(series):
        raise DataError(
            f"{path} names {len(names)} channels, but the studies have {len(series)} series. "
            f"Mend channel_names, or choose series: {_CHOOSE}."
        )
    return names


def _classes(path, description, cases):
    if not any(case.label for case in cases):
        return {}
    if "labels" not in description:
        raise DataError(f"the label maps need names: write {path} like {_EXAMPLE}")
    return ordered_classes(path, description["labels"])
