"""Checkpoints: complete or absent, checked on reading, newest first.

A checkpoint is a folder `step-00001000` with `state.npz` (every variable, and the progress of the
run as JSON) and `state.sha256` (its checksum). It is written under a temporary name, synced and
renamed, so a run killed at any moment leaves only whole checkpoints.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from segkit.errors import DataError

_PROGRESS = "progress"


def save_checkpoint(folder, step, variables, progress, *, keep, best):
    """Writes a checkpoint and removes all but the newest `keep` and the best.

    Those of later steps go too: a run that goes on from an earlier one passed them over as corrupt.

    Args:
        folder: Folder of all checkpoints of the run.
        step: Number of optimizer steps done.
        variables: Mapping name -> Keras or TensorFlow variable.
        progress: JSON-ready mapping: what the loop needs to go on.
        keep: Number of newest checkpoints to keep, at least 1.
        best: Step of the best checkpoint, which is kept too.
    """
    folder = Path(folder)
    target = checkpoint_path(folder, step)
    for stale in folder.glob(".step-*.tmp"):
        shutil.rmtree(stale)
    if target.exists() and not is_whole(target):
        shutil.rmtree(target)
    if not target.exists():
        temporary = folder / f".{target.name}.tmp"
        temporary.mkdir(parents=True)
        try:
            _write(temporary, variables, progress)
            temporary.rename(target)
            _sync(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    later = [path for path in list_checkpoints(folder) if path.name > target.name]
    for old in [*later, *list_checkpoints(folder)[len(later) + keep :]]:
        if old != checkpoint_path(folder, best):
            shutil.rmtree(old)


def checkpoint_path(folder, step):
    """Returns where the checkpoint after so many steps is, or would be."""
    return Path(folder) / f"step-{step:08d}"


def list_checkpoints(folder):
    """Returns the paths of the checkpoints in `folder`, newest first."""
    return sorted(Path(folder).glob("step-*"), reverse=True)


def is_whole(checkpoint):
    """Returns whether a checkpoint is there and its checksum right."""
    try:
        return _sha256(checkpoint) == (checkpoint / "state.sha256").read_text().strip()
    except (OSError, ValueError):
        return False


def newest_whole(folder, *, warn):
    """Returns the path of the newest checkpoint that is whole.

    Args:
        folder: Folder of all checkpoints of the run.
        warn: Called with one sentence for each corrupt checkpoint that is passed over.

    Raises:
        DataError: If there is no checkpoint, or none is whole.
    """
    for checkpoint in list_checkpoints(folder):
        if is_whole(checkpoint):
            return checkpoint
        warn(f"checkpoint {checkpoint} is corrupt; trying the one before.")
    raise DataError(f"nothing to resume: {folder} holds no usable checkpoint. Drop --resume.")


def load_checkpoint(checkpoint, variables):
    """Sets `variables` from a checkpoint.

    Args:
        checkpoint: Its path, from `newest_whole` or `checkpoint_path`.
        variables: Mapping name -> variable, as given to `save_checkpoint`.

    Returns:
        The progress that was saved.

    Raises:
        DataError: If it belongs to another model or optimizer; then no variable was set.
    """
    with np.load(checkpoint / "state.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for name, variable in variables.items():
        if name not in arrays or arrays[name].shape != tuple(variable.shape):
            raise DataError(
                f"checkpoint {checkpoint} has no {name} of shape {tuple(variable.shape)}: it "
                "belongs to another model or optimizer. Use the config it was made with."
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return json.loads(arrays[_PROGRESS].tobytes())


def _write(folder, variables, progress):
    arrays = {name: np.asarray(v.numpy()) for name, v in variables.items()}
    arrays[_PROGRESS] = np.frombuffer(json.dumps(progress).encode(), np.uint8)
    with open(folder / "state.npz", "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    with open(folder / "state.sha256", "w", encoding="utf-8") as file:
        file.write(_sha256(folder) + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def _sync(folder):
    """Makes the names in a folder last."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sha256(checkpoint):
    with open(checkpoint / "state.npz", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
