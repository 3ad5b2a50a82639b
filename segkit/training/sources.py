"""Modules of the user's own that a run was made with: copied for the record, never run from there.

A run folder is data that may come from anywhere, so no code in it is ever run. What is run is a
module on the user's own import path, as when the run was trained.
"""

import importlib
import shutil
import sys
from pathlib import Path

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.tables import is_own
from segkit.tables import source_of
from segkit.tables import target

FOLDER = "source"


def save_sources(config, folder):
    """Copies the source of each module that a config names, to `FOLDER/package/module.py`.

    Args:
        config: A `Config`.
        folder: Run folder.
    """
    for module, source in _sources({**config.to_dict(), "data": None}).items():
        copy = _copy(folder, module, source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def check_sources(config, folder):
    """Warns of each module that is no longer what a run was begun with."""
    for module, source in _sources({**config.to_dict(), "data": None}).items():
        _warn_if_changed(folder, module, source)


def import_networks(config, folder):
    """Imports the modules of networks that register what `model.keras` names.

    Those are Mask R-CNN's, and the user's own; one of these that has changed since the run was
    trained is imported with a warning.

    Args:
        config: The run's `Config`; of an ensemble, its model's option `models` names those of the
            members.
        folder: Run folder.

    Raises:
        DataError: A module cannot be found, or lies in the run folder.
    """
    of_ensemble = config.model.name == "ensemble"
    names = config.model.options.get("models", []) if of_ensemble else [config.model.name]
    if "mask_rcnn" in names:
        importlib.import_module("segkit.models.mask_rcnn.network")
    for name in filter(is_own, names):
        entry = target({}, name, "model")
        try:
            source = source_of(entry)
        except ConfigError as error:
            raise DataError(f"{folder} was trained with a model of your own. {error}") from None
        if Path(folder).resolve() in source.resolve().parents:
            raise DataError(
                f"{entry!r} is {source}: code in a run folder is never run. If you trust it, copy "
                "it to the folder that you work in."
            )
        module = entry.partition(":")[0]
        _warn_if_changed(folder, module, source)
        importlib.import_module(module)


def _sources(value):
    """Returns module -> path of its source, for each name of the user's own in nested values."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return {module: path for inner in value for module, path in _sources(inner).items()}
    if not is_own(value):
        return {}
    try:
        entry = target({}, value, "name")
        return {entry.partition(":")[0]: source_of(entry)}
    except ConfigError:  # another text with a colon, such as an address
        return {}


def _warn_if_changed(folder, module, source):
    copy = _copy(folder, module, source)
    if copy.is_file() and copy.read_bytes() != source.read_bytes():
        sys.stderr.write(
            f"warning: {source} has changed since {folder} was trained. As it was: {copy}\n"
        )


def _copy(folder, module, source):
    place = Path(folder) / FOLDER / Path(*module.split("."))
    return place / source.name if source.name == "__init__.py" else place.with_suffix(".py")
