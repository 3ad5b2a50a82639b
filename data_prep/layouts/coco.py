"""COCO instance annotations: a JSON of polygons or run lengths, beside a folder of images."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.instances import paint
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.layouts import only_file
from data_prep.layouts import patient_of
from data_prep.layouts import read_description
from data_prep.layouts.images import CHANNELS
from data_prep.outlines import fill_polygons
from data_prep.outlines import fill_runs
from segkit import io
from segkit.errors import DataError
from segkit.outputs import IGNORE
from segkit.volume import Volume


def scan(source, *, images: str | None = None, patient: str | None = None):
    """Lists the images of an annotation file; one without annotations is a case without objects.

    Args:
        source: JSON file, or a folder with exactly one.
        images: Folder of the images, relative to the file; by default `images` beside it if
            there is one, else its own folder.
        patient: Regular expression that finds the patient in a file's name, see `patient_of`.

    Returns:
        `RawDataset` with a class per category, in the order of their ids. If some annotation is
        a crowd, the last class is `ignore`.

    Raises:
        ConfigError: `patient` is no regular expression.
        DataError: The file is missing or malformed, or an image is missing or lies outside of
            the folder.
    """
    path = only_file(source, "JSON")
    content = _load(str(path))
    folder = path.parent / (images or "images")
    if images is None and not folder.is_dir():
        folder = path.parent
    cases = tuple(
        RawCase(name, patient_of(name, patient), (_image(folder, entry),), str(path))
        for name, (entry, _) in content["cases"].items()
    )
    count = io.read_image(cases[0].images[0]).num_channels if cases else 1
    return RawDataset(
        name=path.stem,
        channels=CHANNELS.get(count, tuple(f"channel_{n}" for n in range(count))),
        classes=content["classes"],
        cases=cases,
        read=read_annotated,
        digest=digest_annotated,
    )


def read_annotated(case):
    """Reads a case: `(image, label, Objects)` as `data_prep.layouts.read_case` does.

    Raises:
        DataError: The image cannot be read or has another size than the annotations say, or a
            mask is malformed.
    """
    image = io.read_image(case.images[0])
    content = _load(case.label)
    entry, annotations = content["cases"][case.id]
    shape = entry.get("height"), entry.get("width")
    if image.shape != (1, *shape):
        raise DataError(
            f"{case.images[0]} has {image.shape[1]} x {image.shape[2]} pixels, {case.label} says "
            f"{shape[0]} x {shape[1]}. Was the image turned or scaled?"
        )
    objects = paint([_pixels(case, a, shape) for a in annotations], image.shape)
    kinds = np.array([0, *(content["classes"][a["class"]] for a in annotations)], np.uint16)
    return image, Volume(kinds[objects.ids], image.affine), objects


def digest_annotated(case):
    """Returns the SHA-256 (hex) of an image, its annotations and the classes."""
    content = _load(case.label)
    text = json.dumps([content["cases"][case.id], content["classes"]], sort_keys=True)
    return hashlib.sha256(Path(case.images[0]).read_bytes() + text.encode()).hexdigest()


def _pixels(case, annotation, shape):
    mask = annotation.get("segmentation")
    try:
        if isinstance(mask, dict):
            return fill_runs(mask.get("counts"), shape)
        return fill_polygons(mask, shape)
    except (DataError, TypeError) as error:
        raise DataError(
            f"{case.label}, annotation {annotation.get('id')} of {case.images[0]}: {error}"
        ) from error


@lru_cache(maxsize=1)
def _load(path):
    """Class name -> value, and case id -> `(image entry, annotations)`; read once per process."""
    content = read_description(Path(path), "images", "annotations", "categories")
    try:
        names = {c["id"]: str(c["name"]) for c in sorted(content["categories"], key=_id)}
        by_image = {entry["id"]: (entry, []) for entry in content["images"]}
        for annotation in content["annotations"]:
            kind = IGNORE if annotation.get("iscrowd") else names[annotation["category_id"]]
            by_image[annotation["image_id"]][1].append(annotation | {"class": kind})
        cases = {Path(entry["file_name"]).stem: (entry, a) for entry, a in by_image.values()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no file of COCO instances: {error!r} is missing.") from error
    used = {a["class"] for _, annotations in cases.values() for a in annotations}
    listed = ["background", *names.values(), *([IGNORE] if IGNORE in used else [])]
    if len(set(listed)) < len(listed) or len(cases) < len(by_image):
        raise DataError(f"{path} has two categories, or two images, of one name. Rename one.")
    return {"classes": {name: value for value, name in enumerate(listed)}, "cases": cases}


def _id(category):
    return category["id"]


def _image(folder, entry):
    path = (folder / entry["file_name"]).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise DataError(f"image {entry['file_name']!r} is not in {folder}. Give it by images=DIR.")
    return str(folder / entry["file_name"])
