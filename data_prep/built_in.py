"""The data sets that are there without any data: phantoms, made at the first use."""

import os
import shutil
from pathlib import Path

FOLDERS = {"ct": Path("data/phantom"), "cells": Path("data/phantom_cells")}
HELD_BACK = 29  # seed of a phantom of the test split
STUDIES = {"ct": Path("data/phantom_study"), "cells": Path("data/phantom_picture")}


def make_built_in(recipe):
    """Converts phantoms once.

    Args:
        recipe: Key of `FOLDERS`.

    Returns:
        Path of the data set.
    """
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source

    folder = FOLDERS[recipe]
    dataset = scan_source("phantom", recipe)
    options = Options(layout="phantom")
    convert(dataset, folder, source=recipe, options=options, workers=os.cpu_count())
    return folder.resolve()


def recipe_of(data):
    """Returns which of the built-in data sets a folder holds, or `None`."""
    return next((name for name, f in FOLDERS.items() if f.resolve() == Path(data)), None)


def write_study(recipe):
    """Writes a held-back phantom once, as a DICOM series or a PNG, to try a network on.

    Args:
        recipe: Key of `STUDIES`.

    Returns:
        Path of the series, or of the picture.
    """
    return _write_picture() if recipe == "cells" else _write_series()


def _write_series():
    from data_prep.phantom import make_ct
    from data_prep.phantom import write_phantom

    folder, case = STUDIES["ct"], f"ct-{HELD_BACK:04d}"
    if not (folder / "dataset.json").exists():  # written last
        shutil.rmtree(folder, ignore_errors=True)
        write_phantom(make_ct(HELD_BACK), folder, case, form="dicom")
    return folder / case / "0-CT"


def _write_picture():
    from data_prep.phantom_cells import make_cells
    from segkit.io.raster import write_png
    from segkit.volume import Volume

    path = STUDIES["cells"] / f"cells-{HELD_BACK:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, Volume(make_cells(HELD_BACK).image.array[..., 0]))
    return path
