"""Medical Segmentation Decathlon: `dataset.json` lists pairs of `imagesTr` and `labelsTr`."""

from pathlib import PurePosixPath

from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.layouts import ordered_classes
from data_prep.layouts import ordered_names
from data_prep.layouts import read_description
from data_prep.layouts import source_folder
from segkit.errors import DataError


def scan(source):
    """Lists the training pairs of a Decathlon task; `imagesTs` has no labels and is left out.

    Args:
        source: Folder `TaskNN_Name` with `dataset.json`. A 4-D image holds all channels.

    Returns:
        `RawDataset`; each case is its own patient.

    Raises:
        DataError: `dataset.json` is missing or malformed, or a file that it lists is missing.
    """
    folder = source_folder(source)
    path = folder / "dataset.json"
    description = read_description(path, "modality", "labels", "training")
    cases = []
    for entry in _training(path, description["training"]):
        image = _inside(folder, path, entry["image"])
        label = _inside(folder, path, entry["label"])
        if not image.name.startswith("."):
            name = image.name.removesuffix(".gz").removesuffix(".nii")
            cases.append(RawCase(name, name, (str(image),), str(label)))
    return RawDataset(
        name=str(description.get("name", folder.name)),
        channels=ordered_names(path, "modality", description["modality"]),
        classes=_classes(path, description["labels"]),
        cases=tuple(cases),
    )


def _training(path, entries):
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise DataError(
                f"{path}: 'training' must list objects with 'image' and 'label', got {entry!r}."
            )
        yield entry


def _classes(path, labels):
    """Turns `{"1": "liver"}` round; a name given twice would lose a class."""
    if not isinstance(labels, dict) or not all(str(v).isdigit() for v in labels):
        raise DataError(f'{path}: labels must be like {{"0": "background"}}, got {labels!r}.')
    classes = {str(name): int(value) for value, name in labels.items()}
    if len(classes) < len(labels):
        raise DataError(f"{path}: two labels have one name: {labels}. Rename one.")
    return ordered_classes(path, classes)


def _inside(folder, path, text):
    relative = PurePosixPath(str(text))
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{path} points outside its folder: {text!r}. Use paths relative to it.")
    file = folder / relative
    if not file.name.startswith(".") and not file.is_file():
        raise DataError(f"{path} lists {text}, but there is no {file}. Copy it, or drop the entry.")
    return file
