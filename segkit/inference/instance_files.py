"""Maps of objects as files: an id per pixel, and what each object is in a JSON file beside it."""

import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from segkit.errors import DataError
from segkit.inference.detections import instance_map
from segkit.inference.scores import voxel_ml
from segkit.io import read_label
from segkit.io.nifti import write_nifti
from segkit.io.raster import write_png
from segkit.io.raster import write_tiff
from segkit.volume import Volume
from segkit.volume import orientation_of

WRITERS = {
    ".nii.gz": write_nifti,
    ".nii": write_nifti,
    ".png": write_png,
    ".tif": write_tiff,
    ".tiff": write_tiff,
}
READ = (*WRITERS, ".npy")


def ending_of(path, endings=tuple(WRITERS)):
    """Returns the ending of a map's name, or `None` if it is of another kind.

    Args:
        path: File.
        endings: Those to look for, such as `READ`.
    """
    name = Path(path).name.lower()
    return next((ending for ending in endings if name.endswith(ending)), None)


def beside(path):
    """Returns the path of the JSON file beside a map."""
    path = Path(path)
    return path.with_name(path.name[: -len(ending_of(path, READ))] + ".json")


def write_map(path, found, affine):
    """Writes ids of objects as a label map: 16 bits, or 32 where there are more than 65535.

    Args:
        path: Ends in one of `WRITERS`; the folder must exist.
        found: `InstanceMap` of an image or a volume.
        affine: Of its grid, `(4, 4)`.

    Raises:
        DataError: A PNG cannot hold it.
    """
    labels = found.labels.reshape(-1, *found.labels.shape[-2:])
    dtype = np.uint16 if len(found.scores) < 2**16 else np.int32
    WRITERS[ending_of(path)](Path(path), Volume(labels.astype(dtype), affine))


def describe_objects(found, class_names, affine):
    """Returns what is known of each object, as a list of dicts that JSON can hold.

    Args:
        found: `InstanceMap` of an image or a volume, each id in it.
        class_names: Names of all classes, background first.
        affine: Of its grid, `(4, 4)`.

    Returns:
        List of `id`, `class`, `score` and `box`, the pixels or voxels `[low, ..., high, ...]`,
        half-open, in the order of the axes; for a picture also `area` in pixels, for a volume
        `voxels` and `volume_ml`.
    """
    sizes = np.bincount(found.labels.ravel(), minlength=len(found.scores) + 1)
    flat = found.labels.ndim == 2
    ml = None if flat else voxel_ml(affine, found.labels.shape)
    entries = []
    for number, place in enumerate(ndimage.find_objects(found.labels, len(found.scores)), start=1):
        size = int(sizes[number])
        entry = {
            "id": number,
            "class": class_names[found.classes[number - 1]],
            "score": round(float(found.scores[number - 1]), 6),
            "box": [*(side.start for side in place), *(side.stop for side in place)],
        }
        of_volume = {"voxels": size, "volume_ml": None if ml is None else round(size * ml, 6)}
        entries.append(entry | ({"area": size} if flat else of_volume))
    return entries


def read_map(path, case, class_names):
    """Reads a map of objects onto the grid of a case.

    Args:
        path: Ends in one of `READ`. The JSON file beside it gives classes and scores, where there
            is one; else all objects are of the only class, with score 1.
        case: The manifest's entry of the case.
        class_names: Names of all classes, background first.

    Returns:
        `InstanceMap`, two-dimensional for a case of one slice.

    Raises:
        DataError: The map has another shape than the case, does not hold ids, or it is not known
            of which class an object is.
    """
    if ending_of(path, READ) == ".npy":
        volume = Volume(_read_array(path), np.array(case["source_affine"]))
    else:
        volume = read_label(path)
        if ending_of(path, READ) in (".nii", ".nii.gz"):
            volume = volume.oriented(orientation_of(np.array(case["source_affine"])))
    if list(volume.shape) != list(case["source_shape"]):
        raise DataError(
            f"{path} has the shape {volume.shape}, the image of the case {case['source_shape']}. "
            "Give a map on the grid of the source image."
        )
    ids = volume.array[0] if volume.shape[0] == 1 else volume.array
    if beside(path).is_file():
        return instance_map(ids, *_read_objects(path, ids, class_names))
    if len(class_names) > 2:
        raise DataError(
            f"{path}: the data set has several classes ({', '.join(class_names[1:])}), so "
            f"{beside(path).name} must tell that of each object, as tools/predict.py writes it."
        )
    return instance_map(ids)


def _read_array(path):
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as a NumPy array: {reason}") from None
    if ids.ndim not in (2, 3) or ids.dtype.kind not in "iub" or ids.min(initial=0) < 0:
        raise DataError(
            f"{path} must hold ids of objects, whole numbers from 0 in 2 or 3 axes, got "
            f"{ids.dtype} of shape {ids.shape}."
        )
    return ids.reshape(-1, *ids.shape[-2:])


def _read_objects(path, ids, class_names):
    """Classes and scores by id, from the JSON file beside a map."""
    source = beside(path)
    try:
        objects = json.loads(source.read_text(encoding="utf-8"))["objects"]
        classes = {entry["id"]: class_names.index(entry["class"]) for entry in objects}
        scores = {entry["id"]: float(entry["score"]) for entry in objects}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{source} does not list objects with an id, a class of the data set and a score "
            f"({error}). Mend or remove it."
        ) from None
    unknown = np.setdiff1d(ids, [0, *classes])
    if unknown.size:
        raise DataError(f"{source} does not list the object {unknown[0]} of the map. Mend it.")
    return classes, scores
