"""Checkpoints: complete or absent, checked on reading, newest first.

A checkpoint is a folder `step-00001000` with `state.npz` (every variable of model and
optimizer) and `state.json` (progress, and the SHA-256 of `state.npz`). It is written under a
temporary name and renamed, so a run killed at any moment leaves only whole checkpoints.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from segkit.errors import DataError


def save_checkpoint(folder, step, variables, progress, *, keep):
    """Writes a checkpoint and removes all but the newest `keep`.

    Args:
        folder: Folder of all checkpoints of the run.
        step: Number of optimizer steps done.
        variables: Mapping name -> Keras variable.
        progress: JSON-ready mapping: what the loop needs to go on.
        keep: Number of checkpoints to keep, at least 1.

    Returns:
        Path of the new checkpoint.
    """
    folder = Path(folder)
    target = folder / f"step-{step:08d}"
    for stale in folder.glob(".step-*.tmp"):
        shutil.rmtree(stale)
    temporary = folder / f".{target.name}.tmp"
    temporary.mkdir(parents=True)
    try:
        _write(temporary, step, variables, progress)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(folder)[keep:]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder):
    """Returns the paths of the checkpoints in `folder`, newest first."""
    return sorted(Path(folder).glob("step-*"), reverse=True)


def restore_newest(folder, variables, *, warn):
    """Sets `variables` from the newest checkpoint that is whole.

    Args:
        folder: Folder of all checkpoints of the run.
        variables: Mapping name -> Keras variable, as given to `save_checkpoint`.
        warn: Called with one sentence for each corrupt checkpoint that is passed over.

    Returns:
        `(step, progress)` of the checkpoint.

    Raises:
        DataError: If there is no checkpoint, none is whole, or it belongs to another model.
    """
    for checkpoint in list_checkpoints(folder):
        try:
            state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
            if _sha256(checkpoint / "state.npz") != state["sha256"]:
                raise OSError("its checksum does not match")
        except (OSError, ValueError, KeyError) as error:
            warn(f"checkpoint {checkpoint} is corrupt ({error}); trying the one before.")
            continue
        _assign(checkpoint, variables)
        return state["step"], state["progress"]
    raise DataError(f"nothing to resume: {folder} holds no usable checkpoint. Drop --resume.")


def _write(folder, step, variables, progress):
    arrays = {name: np.asarray(v.numpy()) for name, v in variables.items()}
    with open(folder / "state.npz", "wb") as file:
        np.savez(file, **arrays)
        _sync(file)
    state = {"step": step, "sha256": _sha256(folder / "state.npz"), "progress": progress}
    with open(folder / "state.json", "w", encoding="utf-8") as file:
        json.dump(state, file, indent=1)
        _sync(file)


def _assign(checkpoint, variables):
    with np.load(checkpoint / "state.npz", allow_pickle=False) as arrays:
        for name, variable in variables.items():
            if name not in arrays or arrays[name].shape != tuple(variable.shape):
                raise DataError(
                    f"checkpoint {checkpoint} has no {name} of shape {tuple(variable.shape)}: it "
                    "belongs to another model or optimizer. Use the config it was made with."
                )
            variable.assign(arrays[name])


def _sync(file):
    file.flush()
    os.fsync(file.fileno())


def _sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
