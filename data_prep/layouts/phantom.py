"""Phantoms as a dataset: nothing on disk, each case is generated from its seed when read."""

import hashlib
import re

from data_prep.layouts import Objects
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.phantom import BRAIN_CHANNELS
from data_prep.phantom import BRAIN_CLASSES
from data_prep.phantom import CINE_CHANNELS
from data_prep.phantom import CINE_CLASSES
from data_prep.phantom import CT_CLASSES
from data_prep.phantom import MAKERS
from data_prep.phantom import VERSION
from data_prep.phantom_cells import CELL_CHANNELS
from data_prep.phantom_cells import CELL_CLASSES
from data_prep.phantom_cells import make_cells
from segkit.errors import DataError
from segkit.errors import nearest

DEFAULT_COUNT = 30
_MAKERS = {**MAKERS, "cells": make_cells}
_CONTENTS = {
    "ct": (("CT",), CT_CLASSES),
    "brain": (BRAIN_CHANNELS, BRAIN_CLASSES),
    "cine": (CINE_CHANNELS, CINE_CLASSES),
    "cells": (CELL_CHANNELS, CELL_CLASSES),
}


def scan(source):
    """Lists phantom cases; the last sixth of them is held back as the test split.

    Args:
        source: Recipe, `"ct"`, `"brain"`, `"cine"` or `"cells"`, with the number of cases:
            `"ct:40"` (default 30).

    Returns:
        `RawDataset` whose `read` generates a case; the seed of a case is its number.

    Raises:
        DataError: Unknown recipe, or a count that is no positive number.
    """
    recipe, _, count = str(source).partition(":")
    if recipe not in _MAKERS:
        raise DataError(f"unknown phantom recipe {recipe!r}. {nearest(recipe, _MAKERS)}")
    if not re.fullmatch(r"0*[1-9]\d{0,5}|", count):
        raise DataError(
            f"a phantom source is like {recipe}:40, 40 being the number of cases; got {source!r}."
        )
    count = int(count or DEFAULT_COUNT)
    channels, names = _CONTENTS[recipe]
    return RawDataset(
        name=f"phantom-{recipe}",
        channels=channels,
        classes={name: value for value, name in enumerate(names)},
        cases=tuple(
            _case(recipe, n, held_back=n >= count - round(count / 6)) for n in range(count)
        ),
        read=read_phantom,
        digest=digest_phantom,
    )


def read_phantom(case):
    """Generates a case: what `data_prep.layouts.read_case` returns, with objects if it has some."""
    _, recipe, seed = case.images[0].split(":")
    phantom = _MAKERS[recipe](int(seed))
    objects = () if phantom.ids is None else (Objects(phantom.ids),)
    return phantom.image, phantom.label, *objects


def digest_phantom(case):
    """Returns the SHA-256 (hex) of recipe, seed and the version of the generator."""
    return hashlib.sha256(f"{case.images[0]} version {VERSION}".encode()).hexdigest()


def _case(recipe, seed, held_back):
    text = f"phantom:{recipe}:{seed}"
    name = f"{recipe}-{seed:04d}"
    return RawCase(id=name, patient=name, images=(text,), label=text, held_back=held_back)
