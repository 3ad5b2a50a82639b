"""The shards of a data set in the making: each whole or absent, and none written twice."""

import contextlib
import json
import shutil

from data_prep.manifest import MANIFEST
from data_prep.manifest import file_sha256
from data_prep.parallel import run_parallel
from data_prep.records import read_records
from segkit.errors import DataError


@contextlib.contextmanager
def whole_files(out):
    """Makes the folder of a data set to write into, and leaves no unfinished file in it.

    Args:
        out: Folder, a `Path`.

    Raises:
        DataError: It cannot be written, or the disk is full.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove(out, ".*.tmp")
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the data set: {error.strerror or error}: {error.filename or out}. "
            "Free some space or give another --out; finished shards are kept."
        ) from error
    finally:
        if out.is_dir():
            remove(out, ".*.tmp")


def check_space(out, voxels, num_channels, mend):
    """Refuses to start what cannot end: two bytes per image voxel, one or two per label voxel.

    Args:
        out: Folder of the data set.
        voxels: Number of voxels of all cases.
        num_channels: Channels of an image.
        mend: What asks for less space, such as `"a coarser --spacing"`.
    """
    needed, free = int(voxels * (2 * num_channels + 1)), shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"the data set needs about {needed / 1e6:.0f} MB, {out} has {free / 1e6:.0f} MB free. "
            f"Free some space, give another --out or {mend}."
        )


def write_missing(out, specs, job_of, write, *, workers=1, progress):
    """Writes the shards that are missing.

    Args:
        out: Folder of the data set, a `Path`.
        specs: List of `shards.ShardSpec`.
        job_of: Function from a spec to what `write` takes.
        write: Function that writes a shard and returns what `records.write_records` did;
            picklable where there are several workers.
        workers: Number of processes.
        progress: Called as `progress(done, total)` with numbers of shards.

    Returns:
        `(shards, written)`: the manifest's entries of all shards, and how many were missing.
    """
    finished = _finished(out)
    entries = {}
    for spec in specs:
        entry = _existing(out / spec.file, spec, finished)
        if entry is not None:
            entries[spec.file] = entry
    missing = [spec for spec in specs if spec.file not in entries]
    jobs = [job_of(spec) for spec in missing]
    for index, entry in run_parallel(write, jobs, workers=workers):
        entries[missing[index].file] = entry
        progress(len(entries), len(specs))
    shards = [
        {"file": s.file, "split": s.split, "cases": list(s.cases)} | entries[s.file] for s in specs
    ]
    return shards, len(missing)


def remove(folder, *patterns):
    """Deletes the files of a folder whose names match one of some patterns."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _finished(out):
    """Entries of the shards of a data set that was complete once, by file name."""
    if not (out / MANIFEST).is_file():
        return {}
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        return {shard["file"]: shard for shard in manifest["shards"]}
    except (ValueError, KeyError, TypeError):
        return {}


def _existing(path, spec, finished):
    """The entry of a shard that need not be written, or `None`.

    In a data set that was complete, its size must be right; else every record is checked.
    """
    if not path.is_file():
        return None
    size = path.stat().st_size
    if spec.file in finished:
        entry = {key: finished[spec.file][key] for key in ("records", "bytes", "sha256")}
        return entry if entry["bytes"] == size else None
    try:
        records = sum(1 for _ in read_records(path))
    except DataError:
        return None
    if records != spec.records:
        return None
    return {"records": records, "bytes": size, "sha256": file_sha256(path)}
