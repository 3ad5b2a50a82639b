"""Pass 1 over a data set: is every case usable, and what do the cases have in common?

What is measured follows nnU-Net's fingerprint (Isensee et al., Nature Methods 2021,
doi:10.1038/s41592-020-01008-z). Cases of the test split are checked but not counted.
"""

import hashlib
from dataclasses import dataclass
from dataclasses import replace
from functools import partial

import numpy as np

from data_prep.instances import number_objects
from data_prep.parallel import run_parallel
from data_prep.preprocess import nonzero_box
from data_prep.preprocess import to_indices
from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.errors import ShapeError
from segkit.outputs import ignored_class
from segkit.priors import count_priors
from segkit.volume import CANONICAL
from segkit.volume import Volume
from segkit.volume import axis_moves
from segkit.volume import orientation_of

SAMPLES_PER_CASE = 10_000


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Facts about the whole data set; axes in canonical orientation.

    Attributes:
        spacings_mm: Voxel sizes, shape `(cases, 3)`.
        shapes: Voxels per axis inside the nonzero box, shape `(cases, 3)`.
        relative_size: Median over the cases of voxels inside the box over all voxels, 0 to 1.
        flat: `True` if every case is a picture: depth 1 and no physical size.
        intensities: Per channel, statistics of the sampled foreground voxels (mean, std, median,
            min, max, percentile_00_5, percentile_99_5) and lowest and highest of all voxels.
        class_voxels: Voxels of each class in all cases, shape `(classes,)`.
        notes: What the readers found odd -> in how many cases.
    """

    spacings_mm: np.ndarray
    shapes: np.ndarray
    relative_size: float
    flat: bool
    intensities: tuple[dict, ...]
    class_voxels: np.ndarray
    notes: dict[str, int]

    def as_json(self):
        """Returns the manifest's "fingerprint" entry: medians instead of one row per case."""
        return {
            "cases": len(self.shapes),
            "median_spacing_mm": np.median(self.spacings_mm, axis=0).tolist(),
            "median_shape_after_crop": np.median(self.shapes, axis=0).tolist(),
            "median_relative_size_after_crop": self.relative_size,
            "intensities": list(self.intensities),
            "class_voxels": self.class_voxels.tolist(),
            "notes": self.notes,
        }


def measure_cases(dataset, *, workers=1, progress=None):
    """Reads and checks every case.

    Args:
        dataset: `RawDataset`.
        workers: Number of processes; the result does not depend on it.
        progress: Called as `progress(done, total)`.

    Returns:
        `(facts, samples, bad)`: dicts by case id, in order of id: what `measure` returned, and
        for the cases that cannot be used the reason.
    """
    found = {}
    measure_one = partial(_measure_or_reason, dataset=without_cases(dataset))
    for index, result in run_parallel(measure_one, dataset.cases, workers=workers):
        found[index] = result
        if progress:
            progress(len(found), len(dataset.cases))
    facts, samples, bad = {}, {}, {}
    for index, case in enumerate(dataset.cases):
        if isinstance(found[index], str):
            bad[case.id] = found[index]
        else:
            facts[case.id], samples[case.id] = found[index]
    return facts, samples, bad


def measure(case, dataset):
    """Reads and checks one case.

    Args:
        case: `RawCase`.
        dataset: The `RawDataset` it belongs to.

    Returns:
        `(facts, samples)`: a JSON-ready dict (source `shape`, `affine`, nonzero `box`, that of the
        priors, if any, as `prior_box`, `class_voxels` or `None`, `lowest` and `highest` value
        per channel, `notes`; with objects `overlap`, see `Objects.lost`), and intensities of up to
        10 000 foreground voxels, none of the class to be ignored, float32, shape `(n, channels)`,
        NaN in a missing channel; the same voxels in every run. Without a label, nonzero voxels
        stand for the foreground.

    Raises:
        DataError: The case cannot be read, or holds NaN or a label value that is no class.
        ShapeError: Number of channels, or image and label, do not fit.
    """
    image, label, *objects = dataset.read(case)
    array = image.array if image.array.ndim == 4 else image.array[..., None]
    missing = case.missing_channels
    if array.shape[3] != len(dataset.channels):
        raise ShapeError(
            f"{case.first_image}: {array.shape[3]} channel(s) where the data set has "
            f"{len(dataset.channels)} ({', '.join(dataset.channels)})."
        )
    if not np.isfinite(array).all():
        raise DataError(f"{case.first_image}: holds NaN or infinite values. Repair or remove it.")
    voxels, foreground = None, array.any(axis=-1)
    if dataset.classes:
        if label is None and not case.held_back:
            raise DataError("has no label, but is not held back for testing. Remove it.")
        if label is not None:
            indices = checked_indices(case, image, label, dataset.classes)
            voxels = np.bincount(indices.reshape(-1), minlength=len(dataset.classes)).tolist()
            foreground = (indices > 0) & (indices != ignored_class(dataset.classes))
            checked_objects(case, objects, indices, dataset.classes)
    facts = {
        "shape": [int(n) for n in image.shape],
        "affine": image.affine.tolist(),
        "box": nonzero_box(array),
        "class_voxels": voxels,
        "lowest": array.min(axis=(0, 1, 2)).astype(float).tolist(),
        "highest": array.max(axis=(0, 1, 2)).astype(float).tolist(),
        "notes": list(image.notes),
    }
    for found in objects:
        facts["overlap"] = found.lost
        facts["notes"] += found.notes
    priors = count_priors(dataset.channels)
    if priors:
        facts["prior_box"] = nonzero_box(array[..., -priors:])
    samples = _sample(array, foreground, case.id)
    samples[:, missing] = np.nan
    return facts, samples


def checked_indices(case, image, label, classes):
    """Returns a label's class indices as an array `(d, h, w)`.

    Args:
        case: `RawCase`, for the message.
        image: Image `Volume`.
        label: Label `Volume` of source values.
        classes: Class name -> source value.

    Raises:
        ShapeError: Image and label differ in shape.
        DataError: A value is not in `classes`; names the file and the values.
    """
    file = case.label or case.id
    if label.shape != image.shape:
        raise ShapeError(
            f"{file}: the label has shape {label.shape}, its image {image.shape}. "
            "Resample the label onto the image."
        )
    try:
        return to_indices(label.array, classes)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def checked_objects(case, objects, indices, classes):
    """Returns the ids of a case's objects, uint16 `(d, h, w)`; `None` where it has none.

    Args:
        case: `RawCase`, for the message.
        objects: List of one `Objects`, or of none: what a layout reads behind image and label.
        indices: Class indices of the label.
        classes: Class name -> source value.

    Raises:
        DataError, ShapeError: As `instances.number_objects`; names the file.
    """
    if not objects:
        return None
    try:
        return number_objects(objects[0], indices, list(classes))
    except SegkitError as error:
        raise type(error)(f"{case.instances or case.label or case.id}: {error}") from error


def make_fingerprint(facts, samples):
    """Combines what was measured.

    Args:
        facts: Case id -> facts of `measure`, of the cases to count.
        samples: Case id -> intensities of `measure`.

    Returns:
        `Fingerprint`.

    Raises:
        DataError: No case has a foreground voxel, or none has a certain channel.
    """
    pooled = np.concatenate([samples[case] for case in facts]).astype(np.float64)
    if not len(pooled):
        raise DataError(
            f"none of the {len(facts)} cases has a foreground voxel. Are these the right labels?"
        )
    rows = [_canonical(f) for f in facts.values()]
    boxes = np.array([box for _, box in rows])
    relative = boxes.prod(axis=1) / np.prod([f["shape"] for f in facts.values()], axis=1)
    default = Volume(np.zeros((1, 1, 1))).affine.tolist()
    voxels = [f["class_voxels"] for f in facts.values() if f["class_voxels"] is not None]
    notes = [note for f in facts.values() for note in f["notes"]]
    return Fingerprint(
        spacings_mm=np.array([spacing for spacing, _ in rows]),
        shapes=boxes,
        relative_size=float(np.median(relative)),
        flat=all(f["shape"][0] == 1 and f["affine"] == default for f in facts.values()),
        intensities=tuple(
            _statistics(values, channel)
            | {
                "lowest": min(f["lowest"][channel] for f in facts.values()),
                "highest": max(f["highest"][channel] for f in facts.values()),
            }
            for channel, values in enumerate(pooled.T)
        ),
        class_voxels=np.sum(voxels, axis=0, dtype=np.int64) if voxels else np.zeros(0, np.int64),
        notes={note: notes.count(note) for note in sorted(set(notes))},
    )


def without_cases(dataset):
    """Returns a `RawDataset` with one case only: workers get their cases one at a time."""
    return replace(dataset, cases=dataset.cases[:1])


def seed_of(text):
    """Returns a seed that depends on `text` alone, 64 bits: `hash` differs between processes."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")


def _measure_or_reason(case, dataset):
    try:
        return measure(case, dataset)
    except SegkitError as error:
        return str(error)


def _sample(array, foreground, case_id):
    where = np.flatnonzero(foreground)
    if len(where) > SAMPLES_PER_CASE:
        rng = np.random.default_rng(seed_of(case_id))
        where = where[rng.integers(len(where), size=SAMPLES_PER_CASE)]
    return array.reshape(-1, array.shape[3])[where].astype(np.float32)


def _canonical(facts):
    """Spacing and length of the nonzero box along the axes of `CANONICAL`."""
    affine = np.array(facts["affine"])
    order, _ = axis_moves(orientation_of(affine), CANONICAL)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[list(order)]
    return spacing, [facts["box"][axis][1] - facts["box"][axis][0] for axis in order]


def _statistics(values, channel):
    values = values[~np.isnan(values)]
    if not len(values):
        raise DataError(f"all cases with foreground lack channel {channel}. Leave it out.")
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "median": float(median),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
    }
