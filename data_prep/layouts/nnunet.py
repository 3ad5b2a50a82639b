"""nnU-Net v2 raw data: `imagesTr/{case}_{0000}.ext`, `labelsTr/{case}.ext`, `dataset.json`."""

import re

from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.layouts import ordered_classes
from data_prep.layouts import ordered_names
from data_prep.layouts import patient_of
from data_prep.layouts import read_description
from data_prep.layouts import source_folder
from data_prep.layouts import visible
from segkit.errors import DataError


def scan(source, *, patient: str | None = None):
    """Lists the training cases of an nnU-Net v2 raw dataset; `imagesTs` is left out.

    Args:
        source: Folder `DatasetNNN_Name` with `dataset.json`.
        patient: Regular expression that finds the patient in a case name, see `patient_of`.

    Returns:
        `RawDataset`.

    Raises:
        DataError: Malformed `dataset.json`, a missing channel or label, or labels that are
            regions.
    """
    folder = source_folder(source)
    path = folder / "dataset.json"
    description = read_description(path, "channel_names", "labels", "file_ending")
    _refuse_unsupported(path, description)
    channels = ordered_names(path, "channel_names", description["channel_names"])
    ending = str(description["file_ending"])
    images = _group_channels(folder / "imagesTr", ending)
    labels = {_stem(f, ending): str(f) for f in _files(folder / "labelsTr", ending)}
    unpaired = sorted(labels.keys() - images.keys())
    if unpaired:
        raise DataError(f"{labels[unpaired[0]]} has no image {unpaired[0]}_0000{ending}.")
    cases = []
    for name, files in images.items():
        if sorted(files) != list(range(len(channels))):
            raise DataError(
                f"case {name} in {folder / 'imagesTr'} has the channels {sorted(files)}, "
                f"but {path} names {len(channels)}. Add the missing file or mend channel_names."
            )
        if name not in labels:
            raise DataError(f"case {name} has no label {folder / 'labelsTr' / (name + ending)}.")
        paths = tuple(files[n] for n in range(len(channels)))
        cases.append(RawCase(name, patient_of(name, patient), paths, labels[name]))
    return RawDataset(
        name=str(description.get("name", folder.name)),
        channels=channels,
        classes=ordered_classes(path, description["labels"]),
        cases=tuple(cases),
    )


def _refuse_unsupported(path, description):
    if "dataset" in description:
        raise DataError(
            f"{path}: the key 'dataset', a list of paths, is not supported. "
            "Put the files into imagesTr and labelsTr and remove the key."
        )


def _group_channels(folder, ending):
    """Returns `{case: {channel number: path}}`."""
    found = {}
    for file in _files(folder, ending):
        match = re.fullmatch(r"(.+)_(\d{4})", _stem(file, ending))
        if match is None:
            raise DataError(f"{file} is not named CASE_0000{ending}; rename it: 0000 = channel.")
        found.setdefault(match[1], {})[int(match[2])] = str(file)
    return found


def _files(folder, ending):
    if not folder.is_dir():
        raise DataError(f"folder {folder} is missing.")
    return sorted(f for f in visible(folder.iterdir()) if f.name.endswith(ending))


def _stem(file, ending):
    return file.name.removesuffix(ending)
