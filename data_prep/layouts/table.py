"""A CSV with one row per case: paths of its images and label, and what else is known of it."""

import csv
import math
from collections import Counter

from data_prep.layouts import OBJECTS
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.layouts import guess_classes
from data_prep.layouts import only_file
from data_prep.layouts import parse_classes
from segkit import io
from segkit.covariates import as_number
from segkit.covariates import is_missing
from segkit.errors import DataError
from segkit.errors import nearest

SPLITS = {"": False, "train": False, "test": True}
MAX_CATEGORIES = 20
COLOURS = {1: ("image",), 3: ("red", "green", "blue")}


def scan(
    source,
    *,
    images: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    case: str | None = None,
    patient: str | None = None,
    split: str | None = None,
    target: str | None = None,
    covariates: str | None = None,
    categories: str | None = None,
    instances: str | None = None,
):
    """Lists the rows of a table as cases.

    Paths are relative to the file. An empty cell of a channel is a channel that the case lacks.
    Columns are separated by commas, semicolons or tabs, whichever the first line has most of.

    Args:
        source: CSV file, or a folder with exactly one.
        images: Columns of the channels, `"t1,flair"`; by default `image` or all `image_CHANNEL`.
            A channel is called like its column, without `image_`.
        label: Column of the label maps; by default `label`, if there is one.
        labels: Class names and values, as for the layout `images`.
        case: Column of the case ids; by default `case`, else cases are numbered.
        patient: Column of what rows of one patient share; by default `patient`, else each row is
            a patient.
        split: Column of `train` or `test` (held back); by default `split`, else all rows train.
        target: Column of a class of the whole case; by default `target`, if there is one.
        covariates: Columns of the covariates, `"age,sex"`; by default all that are left over. An
            empty text: none.
        categories: Which of them hold categories though they look like numbers.
        instances: Column of maps of objects' ids; by default `instances`, if there is one. Without
            a column of labels all objects are of one class, `object` or that of value 1 in
            `labels`.

    Returns:
        `RawDataset`.

    Raises:
        ConfigError: `labels` is malformed.
        DataError: No such file or column, a cell that cannot be what its column says, a file that
            does not exist, or a covariate that would tell cases apart by name.
    """
    path = only_file(source, "CSV")
    if not path.is_file():
        raise DataError(f"source {source} does not exist. Give the CSV file that lists the cases.")
    rows = _read(path)
    header = list(rows[0])
    named = {"case": case, "label": label, "patient": patient, "split": split, "target": target}
    named["instances"] = instances
    columns = {role: _column(path, header, role, name) for role, name in named.items()}
    channels = _channel_columns(path, header, images)
    taken = {*channels, *columns.values()}
    rest = [name for name in header if name not in taken]
    chosen = rest if covariates is None else _listed(path, header, covariates)
    coded = _listed(path, chosen, categories or "")
    typed = {name: _typed(path, name, rows, name in coded) for name in chosen}
    cases = tuple(
        RawCase(
            id=_required(path, row, n, columns["case"]) or f"case-{n:04d}",
            patient=_required(path, row, n, columns["patient"]) or f"row {n}",
            images=_images(path, row, n, channels),
            label=_file(path, row, n, columns["label"]) or None,
            held_back=_held_back(path, row, n, columns["split"]),
            covariates={name: values[n - 1] for name, values in typed.items()},
            target=row[columns["target"]] or None if columns["target"] else None,
            instances=_file(path, row, n, columns["instances"]) or None,
        )
        for n, row in enumerate(rows, start=1)
    )
    masks = [one.label for one in cases if one.label]
    if labels:
        classes = parse_classes(labels)
    elif masks:
        classes = guess_classes(path, masks)
    else:
        classes = OBJECTS if any(one.instances for one in cases) else {}
    return RawDataset(path.stem, _channel_names(channels, cases), classes, cases)


def _read(path):
    """Returns one dict `column -> text`, without blanks around it, per row that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as CSV UTF-8.") from error
    first = lines[0] if lines else ""
    table = list(csv.reader(lines, delimiter=max(",;\t", key=first.count)))
    header = [name.strip() for name in table[0]] if table else []
    twice = [name for name, count in Counter(header).items() if count > 1 or not name]
    if not header or twice:
        raise DataError(f"{path}: each column needs a name of its own in the first line: {first}")
    rows = [[cell.strip() for cell in row] for row in table[1:] if any(map(str.strip, row))]
    if not rows:
        raise DataError(f"{path} has no row below its first line; one row per case is due.")
    for n, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(f"{path}, row {n} has {len(row)} cells, the first line {len(header)}.")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _column(path, header, role, name):
    """The column of a role: the one that is named, else the one called like it, else `None`."""
    if name is None:
        return role if role in header else None
    return _listed(path, header, name)[0]


def _listed(path, header, text):
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in header:
            raise DataError(f"{path} has no column {name!r} to choose. {nearest(name, header)}")
    return names


def _channel_columns(path, header, images):
    chosen = _listed(path, header, images or "")
    chosen = chosen or [name for name in header if name == "image" or name.startswith("image_")]
    if not chosen:
        raise DataError(
            f"{path} has no column 'image' or 'image_CHANNEL', but {', '.join(header)}. Name them "
            "with --layout-option images=COLUMN,COLUMN"
        )
    return chosen


def _channel_names(columns, cases):
    if columns != ["image"]:
        return tuple(name.removeprefix("image_") for name in columns)
    count = io.read_image(cases[0].images[0]).num_channels
    return COLOURS.get(count, tuple(f"channel_{n}" for n in range(count)))


def _images(path, row, n, columns):
    files = tuple(_file(path, row, n, column) for column in columns)
    if not any(files):
        raise DataError(f"{path}, row {n} has no image in {', '.join(columns)}. Remove the row.")
    return files


def _file(path, row, n, column):
    """The path in a cell; an empty text where there is none."""
    if column is None or not row[column]:
        return ""
    file = path.parent / row[column]
    if not file.exists():
        raise DataError(f"{path}, row {n}, column {column}: {file} does not exist.")
    return str(file)


def _required(path, row, n, column):
    if column is not None and not row[column]:
        raise DataError(f"{path}, row {n} has nothing in the column {column!r}. Fill it in.")
    return row[column] if column is not None else ""


def _held_back(path, row, n, column):
    text = row[column].lower() if column is not None else ""
    if text not in SPLITS:
        raise DataError(
            f"{path}, row {n}: the split must be train or test, got {row[column]!r}. Folds for "
            "validation are dealt by --folds."
        )
    return SPLITS[text]


def _typed(path, name, rows, is_category):
    """The values of a covariate: floats, or texts, and `None` where one is missing."""
    texts = [None if is_missing(row[name]) else row[name] for row in rows]
    known = [text for text in texts if text is not None]
    numbers = [as_number(text) for text in texts]
    wrong = [n for n, x in enumerate(numbers, start=1) if x is not None and math.isnan(x)]
    if is_category or 2 * len(wrong) > len(known):
        _check_categories(path, name, known)
        return texts
    if wrong:
        raise DataError(
            f"{path}, row {wrong[0]}: {texts[wrong[0] - 1]!r} is no number, as others in the "
            f"column {name!r} are. Empty the cell if the value is not known, or give "
            f"--layout-option categories={name}"
        )
    return numbers


def _check_categories(path, name, texts):
    kinds = set(texts)
    if len(kinds) > MAX_CATEGORIES or len(kinds) == len(texts) > 2:
        raise DataError(
            f"{path}: the column {name!r} has {len(kinds)} different texts in {len(texts)} rows, "
            "so it names cases rather than describes them. Say which columns are covariates: "
            "--layout-option covariates=COLUMN,COLUMN"
        )
