"""Dataset layouts: how a folder of raw data becomes a list of cases, one layout per file."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkit import io
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.outputs import ignored_class
from segkit.tables import check_options
from segkit.tables import load
from segkit.volume import Volume
from segkit.volume import same_grid

LAYOUTS = {
    "coco": "data_prep.layouts.coco:scan",
    "dicom": "data_prep.layouts.dicom:scan",
    "dsb2018": "data_prep.layouts.dsb2018:scan",
    "images": "data_prep.layouts.images:scan",
    "msd": "data_prep.layouts.msd:scan",
    "nnunet": "data_prep.layouts.nnunet:scan",
    "phantom": "data_prep.layouts.phantom:scan",
    "table": "data_prep.layouts.table:scan",
}
MAX_GUESSED_CLASS = 20
OBJECTS = {"background": 0, "object": 1}  # classes where maps of objects are all there is


@dataclass(frozen=True)
class RawCase:
    """One case as it lies on disk.

    Attributes:
        id: Unique within the dataset; never text out of a DICOM header.
        patient: What cases of one patient share, so that a split keeps them together.
        images: One path per channel, or one file that holds all channels. A folder is a
            DICOM series; an empty text a channel that the case lacks.
        label: Path of the label map, or `None`.
        held_back: `True` for a case of the test split, which training never sees.
        covariates: What else is known of the case: name -> float, text or `None` (missing).
        target: Class of the whole case, or `None`.
        instances: Path of a map of the ids of objects, or `None`.
        kind: What sort of image it is, for scores by kind, or `None`.
    """

    id: str
    patient: str
    images: tuple[str, ...]
    label: str | None = None
    held_back: bool = False
    covariates: dict = field(default_factory=dict, hash=False)
    target: str | None = None
    instances: str | None = None
    kind: str | None = None

    @property
    def missing_channels(self):
        """Numbers of the channels that the case lacks."""
        return [number for number, path in enumerate(self.images) if not path]

    @property
    def first_image(self):
        """Path of the first channel that the case has."""
        return next(path for path in self.images if path)


class Objects(NamedTuple):
    """The objects of a case on the grid of its image, as a layout reads them.

    Attributes:
        ids: Integers, shape `(d, h, w)`, 0 where there is no object.
        lost: Voxels that objects lost to others where masks overlap.
        notes: What was odd, one sentence each.
    """

    ids: np.ndarray
    lost: int = 0
    notes: tuple[str, ...] = ()


def read_case(case):
    """Reads a case from its files.

    Args:
        case: `RawCase` whose `images` and `label` are paths.

    Returns:
        `(image, label)`: image `Volume` with array `(depth, height, width, channels)`, in the
        dtype of the files; label `Volume` of integers `(depth, height, width)` that holds the
        *source values*, or `None`. Axes stored in another order or direction are turned to
        those of the first channel. A channel that the case lacks is 0 throughout. With a map of
        objects `(image, label, Objects)`; if there is no label then, it is 1 where an object is.

    Raises:
        DataError: A file cannot be read, or channels or label lie on another grid.
    """
    found = {path: io.read_image(path) for path in case.images if path}
    first = found[case.first_image]
    for path, volume in found.items():
        if volume is not first:
            what = f"the channels {case.first_image} and {path}"
            found[path] = _onto_axes(first, volume, what)
    found[""] = Volume(np.zeros(first.shape, first.array.dtype), first.affine)
    volumes = [found[path] for path in case.images]
    arrays = [v.array if v.array.ndim == 4 else v.array[..., None] for v in volumes]
    notes = tuple(dict.fromkeys(note for v in volumes for note in v.notes))
    image = Volume(np.concatenate(arrays, axis=-1), first.affine, notes)
    label, ids = (
        path and _onto_axes(first, io.read_label(path), f"the image {case.first_image} and {path}")
        for path in (case.label, case.instances)
    )
    if ids is None:
        return image, label
    label = label or replace(ids, array=(ids.array > 0).astype(np.uint8))
    return image, label, Objects(ids.array, notes=ids.notes)


def digest_case(case):
    """Returns the SHA-256 (hex) of the bytes of a case's files; names do not count."""
    total = hashlib.sha256()
    for number in case.missing_channels:
        total.update(f"without channel {number}".encode())
    images = [path for path in case.images if path]
    for path in map(Path, [*images, *filter(None, (case.label, case.instances))]):
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for file in files:
            total.update(_digest_file(file))
    return total.hexdigest()


@dataclass(frozen=True)
class RawDataset:
    """What a layout found in a source.

    Attributes:
        name: Name of the dataset.
        channels: Name per channel: `"CT"`, `"MRI"`, `"red"`, ...
        classes: Class name -> value in the label files, background first; `{}` without labels.
        cases: Sorted by id, numbers in ids by value; ids are unique.
        read: Picklable `RawCase -> (image, label)` or `(image, label, Objects)`, see `read_case`.
        digest: Picklable `RawCase -> str`: SHA-256 of what `read` reads.
    """

    name: str
    channels: tuple[str, ...]
    classes: dict[str, int]
    cases: tuple[RawCase, ...]
    read: Callable[[RawCase], tuple] = read_case
    digest: Callable[[RawCase], str] = digest_case

    def __post_init__(self):
        cases = tuple(sorted(self.cases, key=lambda case: (natural_key(case.id), case.id)))
        twice = [i for i, n in Counter(case.id for case in cases).items() if n > 1]
        if not cases:
            raise DataError(f"dataset {self.name}: no cases. Is this the right --layout?")
        if twice:
            raise DataError(f"dataset {self.name}: two cases have the id {twice[0]!r}; rename one.")
        object.__setattr__(self, "cases", cases)


def scan_source(layout, source, **options):
    """Lists the cases of a source.

    Args:
        layout: Name in `LAYOUTS`, or `module:function`.
        source: Folder, or what the layout takes instead of one.
        **options: Keyword-only options of the layout's `scan`.

    Returns:
        `RawDataset`.

    Raises:
        ConfigError: Unknown layout or option, an option of the wrong type, or a layout of the
            user's own that returns something else.
        DataError: The source is not what the layout expects.
    """
    check_options(LAYOUTS, layout, options, "layout")
    dataset = load(LAYOUTS, layout, "layout")(source, **options)
    if not isinstance(dataset, RawDataset):
        found = type(dataset).__name__
        raise ConfigError(f"layout {layout!r} must return a RawDataset, got {found}.")
    return dataset


def source_folder(source):
    """Returns `source` as a `Path`; raises `DataError` unless it is a folder."""
    folder = Path(source)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"source {source} {found}. Give the folder that holds the raw data.")
    return folder


def only_file(source, kind):
    """Returns `source` as a `Path`, of a folder the one `"CSV"` file in it; else a `DataError`."""
    path = Path(source)
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*.{kind.lower()}"))
    if len(found) != 1:
        raise DataError(f"{source} holds {len(found)} {kind} files; name the one as --source.")
    return found[0]


def read_description(path, *keys):
    """Reads a `dataset.json`.

    Args:
        path: The file.
        *keys: Keys that it must hold.

    Returns:
        Dict as written in the file.

    Raises:
        DataError: The file is missing, no JSON object, or lacks a key.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: this layout describes its cases there.")
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(description, dict):
        raise DataError(f"{path} must hold a JSON object, got {type(description).__name__}.")
    for key in keys:
        if key not in description:
            raise DataError(f"{path} has no key {key!r}. It holds: {', '.join(description)}.")
    return description


def ordered_names(path, key, names):
    """Returns the values of `{"0": name, "1": name, ...}` in numeric order, as a tuple of str.

    Raises:
        DataError: `names` is no such object, or the numbers are not 0, 1, 2, ...
    """
    try:
        numbers = sorted((int(number), name) for number, name in names.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f'{path}: {key!r} must be like {{"0": "CT"}}, got {names!r}.') from error
    if not numbers or [n for n, _ in numbers] != list(range(len(numbers))):
        raise DataError(f"{path}: {key!r} must number the channels 0, 1, 2, ..., got {names!r}.")
    return tuple(str(name) for _, name in numbers)


def ordered_classes(path, classes):
    """Returns `{name: value}` sorted by value.

    Raises:
        DataError: A value is not an integer >= 0, occurs twice, or none is background (0); or the
            class `ignore` has not the highest value.
    """
    if not isinstance(classes, dict) or not classes:
        raise DataError(f'{path}: labels must be like {{"background": 0, "liver": 1}}.')
    for name, value in classes.items():
        if isinstance(value, list):
            raise DataError(
                f"{path}: label {name!r} is a region {value}: regions are not supported here. Give "
                "each label one integer, and name regions in the loss region_ce_dice."
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(f"{path}: label {name!r} needs an integer >= 0, got {value!r}.")
    if len(set(classes.values())) < len(classes):
        raise DataError(f"{path}: two labels share one value: {classes}.")
    if 0 not in classes.values():
        raise DataError(f'{path}: no label has the value 0; add "background": 0.')
    ordered = dict(sorted(classes.items(), key=lambda item: item[1]))
    ignored_class(ordered)
    return ordered


def parse_classes(text):
    """Returns `{name: value}`, sorted by value, for `"background=0,cell=255"`.

    Raises:
        ConfigError: The text is not like that, or two classes share a name.
        DataError: As `ordered_classes`.
    """
    pairs = [re.fullmatch(r"\s*(.+?)\s*=\s*(\d+)\s*", part) for part in text.split(",")]
    if not all(pairs) or len({p[1] for p in pairs}) < len(pairs):
        raise ConfigError(f'labels must be like "background=0,cell=255", got {text!r}.')
    return ordered_classes("option labels", {p[1]: int(p[2]) for p in pairs})


def guess_classes(source, masks):
    """Reads label maps to find out which classes there are.

    Args:
        source: Where they come from, for the message.
        masks: Paths of the label maps.

    Returns:
        `{"background": 0, "foreground": value}` for one value beside 0; `class_1`, `class_2`, ...
        for the values 1, 2, ... up to 20.

    Raises:
        DataError: The values are others.
    """
    values = set()
    for path in masks:
        values |= set(np.unique(io.read_label(path).array).tolist())
        if len(values) > MAX_GUESSED_CLASS + 1:
            break
    foreground = sorted(values - {0})
    if len(foreground) == 1:
        return {"background": 0, "foreground": foreground[0]}
    if 0 < len(foreground) <= MAX_GUESSED_CLASS and values == set(range(len(foreground) + 1)):
        return {"background": 0} | {f"class_{v}": v for v in foreground}
    shown = ", ".join(map(str, sorted(values)[:MAX_GUESSED_CLASS]))
    raise DataError(
        f"the masks of {source} hold the values {shown}, which do not say what the classes "
        "are. Pass --layout-option labels=background=0,NAME=VALUE,..."
    )


def patient_of(name, pattern):
    """Returns the patient that a case's name tells.

    Args:
        name: Case name.
        pattern: Regular expression searched for in `name`: the patient is its first group, or
            all it matches. `None`: each case is a patient of its own.

    Raises:
        ConfigError: `pattern` is no regular expression.
        DataError: `pattern` does not match.
    """
    if pattern is None:
        return name
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise ConfigError(f"patient={pattern!r} is no regular expression: {error}.") from error
    if match is None or not (match[1] if match.re.groups else match[0]):
        raise DataError(f"patient={pattern!r} finds no patient in the case name {name!r}.")
    return match[1] if match.re.groups else match[0]


def natural_key(name):
    """Sort key by which `"2"` comes before `"10"`."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def visible(paths):
    """Returns the paths that are not hidden, such as `._name` from macOS archives, in order."""
    return [path for path in paths if not path.name.startswith(".")]


def _digest_file(path):
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _onto_axes(first, volume, what):
    """Turns the axes of `volume` to those of `first`, without resampling."""
    volume = volume.oriented(first.orientation)
    if not same_grid(first, volume):
        grids = [
            f"shape {v.shape}, affine {np.round(v.affine, 3).tolist()}" for v in (first, volume)
        ]
        raise DataError(
            f"{what} must lie on one grid, but have {grids[0]} and {grids[1]}. "
            "Resample one onto the other, or leave the case out."
        )
    return volume
