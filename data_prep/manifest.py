"""The manifest `dataset.json`: what a prepared data set holds, and whether it is intact."""

import csv
import hashlib
import io
import json
import os
from pathlib import Path

from segkit.errors import DataError
from segkit.errors import nearest

SCHEMA = 1
MANIFEST = "dataset.json"
KEYS = {
    "schema": int,
    "name": str,
    "layout": str,
    "channels": list,
    "classes": list,
    "preprocess": dict,
    "options": dict,
    "fingerprint": dict,
    "folds": int,
    "cases": dict,
    "shards": list,
}
SHARD_KEYS = {
    "file": str,
    "split": str,
    "records": int,
    "cases": list,
    "bytes": int,
    "sha256": str,
}


def load_manifest(folder, *, synthetic=False):
    """Returns the manifest of a prepared data set.

    Args:
        folder: Folder that `tools/prepare_data.py` wrote, or a run folder with a copy.
        synthetic: Whether a synthetic data set will do: never to train on alone, to validate or
            to test.

    Returns:
        Dict with the keys of `KEYS`; of a synthetic data set with `synthetic`, see
        `data_prep.synthetic`.

    Raises:
        DataError: No data set is there, its conversion has not ended, or the file is damaged, of
            another schema or of a synthetic data set.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        if (Path(folder) / "conversion.json").is_file():
            raise DataError(
                f"the data set in {folder} is unfinished. Run the same command that began it "
                "again: finished shards are kept."
            )
        raise DataError(
            f"no prepared data set in {folder} ({MANIFEST} is missing). Make one: python "
            f"tools/prepare_data.py --source RAW --layout LAYOUT --out {folder}"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise _damaged(path, "it has no key 'schema'")
    if manifest["schema"] != SCHEMA:
        raise DataError(
            f"{path} has schema {manifest['schema']!r}, this version reads {SCHEMA}. "
            "Prepare the data set again with this version."
        )
    _check_keys(path, manifest, KEYS, "")
    for index, shard in enumerate(manifest["shards"]):
        if not isinstance(shard, dict):
            raise _damaged(path, f"shards[{index}] is no object")
        _check_keys(path, shard, SHARD_KEYS, f"shards[{index}].")
        # A manifest may come from elsewhere: its text must not lead out of the folder.
        if Path(shard["file"]).name != shard["file"]:
            raise _damaged(path, f"shards[{index}].file is a path, {shard['file']!r}")
    if "synthetic" in manifest and not synthetic:
        raise DataError(
            f"the data set {folder} is synthetic: a network made its images, and no score on them "
            "says anything. Name a real one; mix this one into training with data.synthetic."
        )
    return manifest


def write_text(path, text):
    """Writes a text file that appears whole under its name or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, content):
    """Writes a dict as JSON, as `write_text` does; one line per case and per shard."""
    write_text(path, _dump(content, levels=2) + "\n")


def write_sources(path, dataset, source):
    """Writes the table case -> files, apart from the records: file names may name a patient.

    Args:
        path: CSV file to write.
        dataset: `RawDataset`.
        source: Folder that the paths are written relative to, where they lie in it.
    """
    text, width = io.StringIO(), len(dataset.channels)
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["case", *(f"image_{name}" for name in dataset.channels), "label"])
    for case in dataset.cases:
        files = [*case.images, *[""] * (width - len(case.images)), case.label or ""]
        relative = [
            str(Path(f).relative_to(source)) if f and Path(f).is_relative_to(source) else f
            for f in files
        ]
        rows.writerow([case.id, *relative])
    write_text(path, text.getvalue())


def shard_files(manifest, folder, splits):
    """Returns the paths of the shards of some splits, in the manifest's order, as list of str.

    Args:
        manifest: Dict of `load_manifest`.
        folder: Folder of the data set.
        splits: Names such as `["fold1", "fold2"]`.

    Raises:
        DataError: The data set has no such split, or a file is missing.
    """
    known = {shard["split"] for shard in manifest["shards"]}
    for split in splits:
        if split not in known:
            raise DataError(f"the data set in {folder} has no {split!r}. {nearest(split, known)}")
    paths = [Path(folder) / s["file"] for s in manifest["shards"] if s["split"] in splits]
    for path in paths:
        if not path.is_file():
            raise DataError(f"shard {path} is missing. {_mend(folder)}")
    return [str(path) for path in paths]


def patients_of(manifest, splits):
    """Returns the cases of some splits, patient by patient.

    Args:
        manifest: Dict of `load_manifest`.
        splits: Names such as `["fold1", "fold2"]`.

    Returns:
        List with a list of case ids per patient, in order of first appearance. In a data set
        prepared before cases had a `group`, each case is a patient of its own.
    """
    patients = {}
    for case, entry in manifest["cases"].items():
        if entry["split"] in splits:
            patients.setdefault(entry.get("group", case), []).append(case)
    return list(patients.values())


def verify(folder, *, checksums=True, progress=None):
    """Checks that every shard is there, has its size and, if wanted, its SHA-256.

    Args:
        folder: Folder of the data set.
        checksums: `False` to look at sizes only, which takes no time.
        progress: Called as `progress(done, total)` with numbers of shards.

    Returns:
        Dict of `load_manifest`.

    Raises:
        DataError: Names the first shard that is missing or altered, and how to mend it.
    """
    manifest = load_manifest(folder, synthetic=True)
    for done, shard in enumerate(manifest["shards"], start=1):
        path = Path(folder) / shard["file"]
        if not path.is_file():
            raise DataError(f"shard {path} is missing. {_mend(folder)}")
        size = path.stat().st_size
        if size != shard["bytes"]:
            raise DataError(
                f"shard {path} is damaged: {size} bytes, {shard['bytes']} expected. {_mend(folder)}"
            )
        if checksums and file_sha256(path) != shard["sha256"]:
            raise DataError(f"shard {path} is damaged: its SHA-256 is wrong. {_mend(folder)}")
        if progress:
            progress(done, len(manifest["shards"]))
    return manifest


def file_sha256(path):
    """Returns the SHA-256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _dump(value, levels):
    if not levels or not value or not isinstance(value, dict | list):
        return json.dumps(value, allow_nan=False)
    if isinstance(value, list):
        lines, (first, last) = [_dump(v, levels - 1) for v in value], "[]"
    else:
        lines = [f"{json.dumps(k)}: {_dump(v, levels - 1)}" for k, v in value.items()]
        first, last = "{}"
    return f"{first}\n" + ",\n".join(lines) + f"\n{last}"


def _mend(folder):
    return f"Delete it, if it is there, and run the command that made {folder} again."


def _damaged(path, why):
    return DataError(f"{path} is damaged: {why}. Restore it, or prepare the data set again.")


def _check_keys(path, entry, keys, where):
    for key, kind in keys.items():
        if key not in entry:
            raise _damaged(path, f"the key '{where}{key}' is missing")
        if not isinstance(entry[key], kind):
            raise _damaged(path, f"'{where}{key}' must be {kind.__name__}, got {entry[key]!r:.60}")
