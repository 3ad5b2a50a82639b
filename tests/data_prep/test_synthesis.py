"""Writing synthetic cases: same bytes always, resumable, and only what was asked for."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep import synthesis
from data_prep.manifest import load_manifest
from data_prep.manifest import verify
from data_prep.records import decode_numpy
from data_prep.records import read_records
from data_prep.synthesis import Made
from data_prep.synthesis import check_known
from data_prep.synthesis import classes_of
from data_prep.synthesis import deformation
from data_prep.synthesis import describe
from data_prep.synthesis import write_synthetic
from segkit.errors import ConfigError
from segkit.errors import DataError

COUNT = 10
LIKE = {
    "source_shape": [3, 4, 5],
    "source_affine": [[0, 0, 0.5, 7], [0, 0.5, 0, 8], [2, 0, 0, 9], [0, 0, 0, 1]],
    "orientation": "SAR",
    "oriented_shape": [3, 4, 5],
    "crop": [[0, 3], [0, 4], [0, 5]],
    "shape": [3, 4, 5],
    "spacing_mm": [2.0, 0.5, 0.5],
}
SOURCE = {
    "name": "Toy",
    "channels": ["MRI"],
    "classes": [{"name": "background", "value": 0}, {"name": "a", "value": 4}],
    "preprocess": {"spacing_mm": [2.0, 0.5, 0.5]},
}
SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from tests.data_prep.test_synthesis import write

def progress(done, total):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

write(sys.argv[1], progress=progress)
print(sorted(name for name in sys.modules if name in ("tensorflow", "keras")))
"""


def make(first, last):
    """Cases whose image is their number, and whose label is 1 in as many voxels."""
    for number in range(first, last):
        label = np.zeros(20, np.int32)
        label[:number] = 1
        image = np.full((1, 4, 5, 1), number, np.float32)
        yield Made(image, label.reshape(1, 4, 5), LIKE, f"labels of c{number % 3}")


def write(out, count=COUNT, seed=0, **arguments):
    options = {"count": count, "seed": seed, "chunk": 5, "chunk_overlap": 0}
    about = {"task": "labels", "run": "r", "trained_on": []}
    description = describe(SOURCE, about=about, options=options, labels=True)
    return write_synthetic(out, description, [[1, 4, 5]] * count, make, **arguments)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def chunks_of(folder, manifest):
    for shard in manifest["shards"]:
        yield from map(decode_numpy, read_records(folder / shard["file"]))


def test_the_records_are_the_cases_and_all_are_marked(tmp_path):
    seen = []
    manifest, written = write(tmp_path, progress=lambda *done: seen.append(done))
    assert written == len(manifest["shards"]) == 4
    assert seen == [(n + 1, COUNT) for n in range(COUNT)]
    assert manifest == load_manifest(tmp_path, synthetic=True) == verify(tmp_path)
    assert {shard["split"] for shard in manifest["shards"]} == {"synthetic"}
    assert (manifest["folds"], manifest["classes"]) == (0, SOURCE["classes"])
    for number, chunk in enumerate(chunks_of(tmp_path, manifest)):
        assert chunk.case_id == f"synthetic-{number:06d}"
        assert chunk.synthetic == f"labels of c{number % 3}"
        assert (chunk.image == number).all()
        assert chunk.class_counts.tolist() == [20 - number, number]
        assert len(chunk.foreground) == number
        assert chunk.label.dtype == np.uint8
        np.testing.assert_array_equal(chunk.affine, LIKE["source_affine"])
    assert number == COUNT - 1
    assert manifest["cases"]["synthetic-000004"] == {
        "split": "synthetic",
        "shape": [1, 4, 5],
        "spacing_mm": [2.0, 0.5, 0.5],
        "made_of": "labels of c1",
    }


def test_a_longer_data_set_begins_with_the_cases_of_a_shorter_one(tmp_path):
    short, long = (
        list(chunks_of(tmp_path / str(n), write(tmp_path / str(n), n)[0])) for n in (3, 12)
    )
    for a, b in zip(short, long, strict=False):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.foreground, b.foreground)


def test_a_killed_synthesis_goes_on_and_gives_the_same_bytes_without_tensorflow(tmp_path):
    root = str(Path(__file__).resolve().parents[2])
    out = tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, str(out), "7", root]
    killed = subprocess.run(command, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tfrecord")}
    assert sorted(kept) == [f"synthetic-0000{n}-of-00004.tfrecord" for n in (0, 1)]
    with pytest.raises(DataError, match="unfinished. Run the same command"):
        load_manifest(out, synthetic=True)
    command[4] = "-1"
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert result.stdout == "[]\n"
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("*.tfrecord")}.items()
    write(tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_a_complete_data_set_is_left_as_it_is_and_a_damaged_shard_written_again(tmp_path):
    manifest, _ = write(tmp_path)
    before = content(tmp_path)
    assert write(tmp_path) == (manifest, 0)
    (tmp_path / manifest["shards"][2]["file"]).unlink()
    assert write(tmp_path) == (manifest, 1)
    assert content(tmp_path) == before


def test_other_options_are_refused_unless_overwritten(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match=r"options.seed: 0 before, 1 now.*--overwrite"):
        write(tmp_path, seed=1)
    manifest, _ = write(tmp_path, 3, seed=1, overwrite=True)
    assert len(list(tmp_path.glob("*.tfrecord"))) == len(manifest["shards"]) == 3


def test_a_real_data_set_is_never_replaced_unasked(tmp_path):
    (tmp_path / "fold0-00000-of-00001.tfrecord").write_bytes(b"precious")
    with pytest.raises(DataError, match="holds fold0-00000-of-00001.tfrecord but no conversion"):
        write(tmp_path)
    assert content(tmp_path) == {"fold0-00000-of-00001.tfrecord": b"precious"}


def test_a_full_disk_is_noticed_before_the_first_case(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("data_prep.writing.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match="needs about 0 MB.*a smaller --count"):
        write(tmp_path)
    assert content(tmp_path) == {}


def test_a_disk_that_fills_up_keeps_what_is_finished(tmp_path, monkeypatch):
    written, whole = [], synthesis.write_records

    def full(path, records):
        if len(written) == 2:
            list(records)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path.name)
        return whole(path, records)

    monkeypatch.setattr(synthesis, "write_records", full)
    with pytest.raises(DataError, match="No space left on device.*finished shards are kept"):
        write(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tfrecord")) == sorted(written)
    monkeypatch.setattr(synthesis, "write_records", whole)
    assert write(tmp_path / "out")[1] == 2
    write(tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_images_without_labels_have_no_classes(tmp_path):
    options = {"chunk": 5, "chunk_overlap": 0}
    description = describe(SOURCE, about={"trained_on": []}, options=options, labels=False)
    cases = (made._replace(label=None, of="noise") for made in make(0, 2))
    manifest, _ = write_synthetic(
        tmp_path, description, [[1, 4, 5]] * 2, lambda first, last: [next(cases)]
    )
    assert manifest["classes"] == []
    assert all(c.label is None and c.synthetic == "noise" for c in chunks_of(tmp_path, manifest))


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ConfigError, match="--deform must be between 0 and 1"):
        deformation(strength)


def test_strength_scales_the_deformation():
    assert deformation(0) == []
    assert deformation(1) == [
        {"rotation": {"degrees": 20.0}},
        {"scaling": {"field_of_view": [0.8, 1.25]}},
        {"elastic": {"displacement": [0.0, 0.035]}},
    ]
    assert deformation(0.5)[0] == {"rotation": {"degrees": 10.0}}


def test_classes_that_the_generator_has_not_seen_are_refused():
    manifest = {
        "classes": [{"name": n} for n in ("background", "organ", "tumour")],
        "cases": {"a": {"class_voxels": [9, 1, 0]}, "b": {"class_voxels": [9, 0, 1]}},
    }
    assert classes_of(manifest, ["a"]) == {0: "a", 1: "a"}
    check_known(manifest, ["a"], {0, 1})
    with pytest.raises(DataError, match="case b holds the class 'tumour', of which the generator"):
        check_known(manifest, ["a", "b"], {0, 1})


def test_the_state_says_what_is_being_made(tmp_path):
    write(tmp_path)
    request = json.loads((tmp_path / "conversion.json").read_text())["request"]
    assert request["synthetic"]["task"] == "labels"
    assert request["options"]["count"] == COUNT
