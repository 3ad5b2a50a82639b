"""Folders of 2-D images and masks: `images/NAME.png` with `masks/NAME.png`."""

import re

from data_prep.layouts import OBJECTS
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.layouts import guess_classes
from data_prep.layouts import parse_classes
from data_prep.layouts import patient_of
from data_prep.layouts import source_folder
from data_prep.layouts import visible
from segkit import io
from segkit.errors import DataError

IMAGE_FOLDERS = ("image", "images", "imgs")
LABEL_FOLDERS = ("label", "labels", "mask", "masks")
ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
CHANNELS = {1: ("gray",), 3: ("red", "green", "blue")}


def scan(
    source,
    *,
    labels: str | None = None,
    patient: str | None = None,
    instances: str | None = None,
):
    """Pairs images with masks by name; a mask may add `_mask`, `_label` or `_segmentation`.

    Args:
        source: Folder with one of `image`, `images`, `imgs` and one of `label`, `labels`,
            `mask`, `masks`.
        labels: Class names and values in the masks, such as `"background=0,cell=255"`.
            Without it every mask is read: two values are background and foreground, the
            values 0, 1, 2, ... up to 20 are `class_1`, `class_2`, ...
        patient: Regular expression that finds the patient in an image's name, see
            `patient_of`; without it each image is a patient.
        instances: Name of the folder of maps of objects' ids, called as masks, or
            `NAME_instances` or `NAME_anno`. With it there need be no masks: what is in an object
            is then of the class `object`, or of the one that `labels` gives the value 1.

    Returns:
        `RawDataset`.

    Raises:
        ConfigError: `labels` or `patient` is malformed.
        DataError: A folder is missing, an image and a mask do not pair up, or the values of the
            masks do not say which classes there are.
    """
    folder = source_folder(source)
    images = _by_name(_subfolder(folder, IMAGE_FOLDERS), lambda name: name)
    ids, masks = {}, {}
    if instances is not None:
        ids = _paired(images, source_folder(folder / instances), "map of objects")
    if instances is None or _is_there(folder, LABEL_FOLDERS, instances):
        masks = _paired(images, _subfolder(folder, LABEL_FOLDERS, instances), "mask")
    if not images:
        raise DataError(f"no images in {folder}. Known endings: {' '.join(ENDINGS)}.")
    classes = parse_classes(labels) if labels else OBJECTS
    if masks and not labels:
        classes = guess_classes(folder, masks.values())
    count = io.read_image(next(iter(images.values()))).num_channels
    return RawDataset(
        name=folder.name,
        channels=CHANNELS.get(count, tuple(f"channel_{n}" for n in range(count))),
        classes=classes,
        cases=tuple(
            RawCase(
                name,
                patient_of(name, patient),
                (images[name],),
                masks.get(name),
                instances=ids.get(name),
            )
            for name in images
        ),
    )


def _paired(images, folder, what):
    """Returns `{case: path}` of a folder that has one file for each image."""
    found = _by_name(folder, _mask_stem(images))
    for here, there, missing in ((found, images, "image"), (images, found, what)):
        unpaired = sorted(here.keys() - there.keys())
        if unpaired:
            raise DataError(
                f"{here[unpaired[0]]} has no {missing} of the same name; add it or remove the file."
            )
    return found


def _is_there(folder, names, other):
    return any(f.is_dir() and f.name.lower() in names and f.name != other for f in folder.iterdir())


def _subfolder(folder, names, other=None):
    found = [f for f in sorted(folder.iterdir()) if f.is_dir() and f.name.lower() in names]
    found = [f for f in found if f.name != other]
    if len(found) != 1:
        what = f"holds {' and '.join(f.name for f in found)}" if found else "holds none"
        raise DataError(f"{folder} {what}; exactly one of the folders {', '.join(names)} is due.")
    return found[0]


def _by_name(folder, stem):
    """Returns `{case: path}`."""
    found = {}
    for file in sorted(visible(folder.iterdir())):
        if file.suffix.lower() in ENDINGS:
            name = stem(file.stem)
            if name in found:
                raise DataError(f"{found[name]} and {file} have the same name; remove one.")
            found[name] = str(file)
    return found


def _mask_stem(images):
    def stem(name):
        if name in images:
            return name
        return re.sub(r"_(mask|label|segmentation|instances|anno)$", "", name, flags=re.IGNORECASE)

    return stem
