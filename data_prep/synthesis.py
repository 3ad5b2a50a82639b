"""Writes synthetic cases as a data set like any other one: in shards, whole or absent, resumable.

The number of a case decides on all of it, so a data set that was begun is ended with the same
bytes, and a longer one begins with the cases of a shorter one.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.manifest import MANIFEST
from data_prep.manifest import SCHEMA
from data_prep.manifest import load_manifest
from data_prep.manifest import write_json
from data_prep.preprocess import prepared_affine
from data_prep.records import decode_numpy
from data_prep.records import encode
from data_prep.records import read_records
from data_prep.records import write_records
from data_prep.request import SHARDS
from data_prep.request import STATE
from data_prep.request import previous_state
from data_prep.shards import ShardSpec
from data_prep.shards import cut_case
from data_prep.shards import plan_shards
from data_prep.synthetic import SPLIT
from data_prep.writing import check_space
from data_prep.writing import remove
from data_prep.writing import whole_files
from data_prep.writing import write_missing
from segkit.errors import ConfigError
from segkit.errors import DataError

ROTATION, SCALE, BEND = 20.0, 1.25, 0.035  # of the greatest strength; above it, elastic fields fold


class Made(NamedTuple):
    """A synthetic case.

    Attributes:
        image: float32, shape `(d, h, w, c)`.
        label: Class indices, shape `(d, h, w)`, or `None`.
        like: The manifest's entry of the real case that has its voxel size and axes.
        of: What it was made of, such as `"labels of hippocampus_001"`.
    """

    image: np.ndarray
    label: np.ndarray | None
    like: dict
    of: str


def describe(source, *, about, options, labels):
    """Returns the manifest of a synthetic data set but for its cases and shards.

    Args:
        source: Manifest of the data set that its cases are to be mixed with.
        about: What is written under `synthetic`: `task`, `trained_on`, and more for the record.
        options: What decides on the cases, `chunk` and `chunk_overlap` among it.
        labels: Whether its cases have labels.
    """
    return {
        "schema": SCHEMA,
        "name": f"{source['name']}-synthetic",
        "layout": "synthetic",
        "channels": source["channels"],
        "classes": source["classes"] if labels else [],
        "preprocess": source["preprocess"],
        "options": options,
        "fingerprint": {},
        "folds": 0,
        "skipped": {},
        "synthetic": about,
    }


def write_synthetic(out, description, shapes, make, *, overwrite=False, progress=None):
    """Writes a synthetic data set, or what is missing of it.

    Args:
        out: Folder to write; made if needed.
        description: From `describe`.
        shapes: Shape `(d, h, w)` of each case.
        make: Function `(first, last)` that yields the `Made` of the cases with these numbers, the
            last one not among them; always the same ones.
        overwrite: Replace another data set that is in `out`.
        progress: Called as `progress(done, total)` with numbers of cases.

    Returns:
        `(manifest, written)`: content of `dataset.json`, and how many shards were written.

    Raises:
        DataError: `out` holds another data set or cannot be written.
    """
    out, description = Path(out), json.loads(json.dumps(description))
    chunking = {key: description["options"][name] for key, name in CHUNKING.items()}
    with whole_files(out):
        state = None if overwrite else previous_state(out, description)
        if state is None:
            voxels = sum(math.prod(shape) for shape in shapes)
            check_space(out, voxels, len(description["channels"]), "a smaller --count")
            remove(out, MANIFEST, STATE, *SHARDS)
            write_json(out / STATE, {"request": description})
        names = {case_id(number): shape for number, shape in enumerate(shapes)}
        specs = plan_shards(
            dict.fromkeys(names, SPLIT),
            names,
            num_channels=len(description["channels"]),
            in_order=True,
            **chunking,
        )
        write = _writer(out, description, chunking, list(names), make, progress)
        shards, written = write_missing(
            out, specs, lambda spec: spec, write, progress=lambda done, total: None
        )
        if not written and (out / MANIFEST).is_file():
            return load_manifest(out, synthetic=True), 0
        manifest = {**description, "cases": _cases(out, specs), "shards": shards}
        write_json(out / MANIFEST, manifest)
        return manifest, written


CHUNKING = {"chunk": "chunk", "overlap": "chunk_overlap"}


def case_id(number):
    """Returns the id of a synthetic case."""
    return f"synthetic-{number:06d}"


def deformation(strength):
    """Returns the policy that deforms label maps.

    Args:
        strength: 0: not at all; 1: turned by up to 20 degrees, 1.25 times as large or small, bent
            by up to 3.5 % of the shortest side, root mean square.

    Raises:
        ConfigError: It is not between 0 and 1.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"--deform must be between 0 and 1, got {strength}.")
    if not strength:
        return []
    scale = SCALE**strength
    return [
        {"rotation": {"degrees": ROTATION * strength}},
        {"scaling": {"field_of_view": [1 / scale, scale]}},
        {"elastic": {"displacement": [0.0, BEND * strength]}},
    ]


def classes_of(manifest, cases):
    """Returns the class indices that some cases of a data set hold, as a dict index -> case."""
    found = {}
    for case in cases:
        for index, voxels in enumerate(manifest["cases"][case]["class_voxels"]):
            if voxels:
                found.setdefault(index, case)
    return found


def check_known(manifest, cases, seen):
    """Refuses label maps with classes that the generator was never shown.

    Args:
        manifest: Manifest of the data set that label maps are drawn from.
        cases: Its cases to draw from.
        seen: Class indices that the generator was trained on.

    Raises:
        DataError: Names the class and a case that holds it.
    """
    for index, case in classes_of(manifest, cases).items():
        if index not in seen:
            name = manifest["classes"][index]["name"]
            raise DataError(
                f"case {case} holds the class {name!r}, of which the generator has seen no voxel, "
                "so it would draw it at random. Leave the case out with data.repeats, or train "
                "the generator on cases that hold it."
            )


def _writer(out, description, chunking, names, make, progress):
    """The function that writes the shard of a `ShardSpec`."""
    classes = [entry["name"] for entry in description["classes"]]
    dtype = np.uint8 if len(classes) <= 256 else np.uint16
    numbers = {name: number for number, name in enumerate(names)}

    def records(spec: ShardSpec):
        first = numbers[spec.cases[0]]
        cases = make(first, first + len(spec.cases))
        for name, made in zip(spec.cases, cases, strict=True):
            for piece in cut_case(
                name,
                made.image,
                None if made.label is None else made.label.astype(dtype),
                classes=classes,
                spacing_mm=made.like["spacing_mm"],
                affine=prepared_affine(made.like),
                synthetic=made.of,
                **chunking,
            ):
                yield encode(piece)
            if progress:
                progress(numbers[name] + 1, len(names))

    return lambda spec: write_records(out / spec.file, records(spec))


def _cases(out, specs):
    """The manifest's entries of all cases, read from the records."""
    cases = {}
    for spec in specs:
        for chunk in map(decode_numpy, read_records(out / spec.file)):
            cases[chunk.case_id] = {
                "split": SPLIT,
                "shape": chunk.case_shape.tolist(),
                "spacing_mm": chunk.spacing_mm.tolist(),
                "made_of": chunk.synthetic,
            }
    return cases
