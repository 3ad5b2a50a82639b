"""From a tiny Decathlon task to shards: same bytes always, resumable, and refusing bad input."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import scan_source
from data_prep.manifest import load_manifest
from data_prep.manifest import verify
from data_prep.parallel import run_parallel
from data_prep.preprocess import undo
from data_prep.records import decode_numpy
from data_prep.records import read_records
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.io import read_label

CASES = 10
OPTIONS = Options(layout="msd", chunk=10, chunk_overlap=4)
SCRIPT = """
import os, signal, sys
from data_prep.convert import Options, convert
from data_prep.layouts import scan_source

def progress(stage, done, total):
    if stage == "write" and done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

convert(
    scan_source("msd", sys.argv[1]), sys.argv[2], source=sys.argv[1], progress=progress,
    workers=int(sys.argv[4]), options=Options(layout="msd", chunk=10, chunk_overlap=4),
)
print(sorted(name for name in sys.modules if name in ("tensorflow", "keras")))
"""


def write_task(folder):
    """Writes images of about 12x14x11 voxels (axes L, A, S; 1 mm) with two classes."""
    rng = np.random.default_rng(0)
    entries = []
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for n in range(CASES):
        shape, affine = (12, 14, 9 + n % 3), np.diag([-1.0, 1, 1, 1])
        image, label = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
        image[2:, 1:, 1:] = rng.integers(1, 500, size=np.array(shape) - (2, 1, 1))
        label[4:8, 4:9, 2:6] = 1
        label[6:7, 5:8, 3:5] = 4
        entry = {}
        for key, sub, array in (("image", "imagesTr", image), ("label", "labelsTr", label)):
            entry[key] = f"./{sub}/toy_{n:02d}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / entry[key])
        entries.append(entry)
    description = {
        "name": "Toy",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "organ", "4": "tumour"},
        "training": entries,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "task")


def run(task, out, options=OPTIONS, **arguments):
    return convert(scan_source("msd", task), out, source=task, options=options, **arguments)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def chunks_of(folder, manifest):
    for shard in manifest["shards"]:
        yield from map(decode_numpy, read_records(folder / shard["file"]))


def replace_label(task, name, change):
    path = task / "labelsTr" / f"{name}.nii.gz"
    file = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(file.dataobj)), file.affine), path)


def test_the_records_hold_the_prepared_cases(task, tmp_path):
    manifest, written = run(task, tmp_path / "out")
    assert written == len(manifest["shards"]) == 10  # five folds of two cases
    assert manifest == load_manifest(tmp_path / "out")
    assert [c["name"] for c in manifest["classes"]] == ["background", "organ", "tumour"]
    rebuilt = {}
    for chunk in chunks_of(tmp_path / "out", manifest):
        assert max(chunk.image.shape) <= 10
        case = manifest["cases"][chunk.case_id]
        whole = rebuilt.setdefault(chunk.case_id, np.full(case["shape"], 9, np.uint8))
        box = tuple(slice(o, o + n) for o, n in zip(chunk.origin, chunk.label.shape, strict=True))
        whole[box] = chunk.label
        np.testing.assert_array_equal(
            chunk.class_counts, np.bincount(chunk.label.ravel(), minlength=3)
        )
        for row in chunk.foreground:
            assert chunk.label[tuple(row[1:])] == row[0] > 0
        assert (chunk.source_label is None) == bool(chunk.origin.any())
        if chunk.source_label is not None:
            source = read_label(task / "labelsTr" / f"{chunk.case_id}.nii.gz").array
            np.testing.assert_array_equal(np.array([0, 1, 4])[chunk.source_label], source)
    assert len(rebuilt) == CASES
    for name, whole in rebuilt.items():
        source = read_label(task / "labelsTr" / f"{name}.nii.gz").array
        np.testing.assert_array_equal(
            np.array([0, 1, 4])[undo(whole, manifest["cases"][name])], source
        )


def test_cases_of_a_patient_have_one_group_without_an_identifier(task, tmp_path):
    dataset = scan_source("msd", task)
    patients = ["eve", "bob", "eve", "ann", "bob", *(f"p{n}" for n in range(5, CASES))]
    cases = [replace(case, patient=p) for case, p in zip(dataset.cases, patients, strict=True)]
    dataset = replace(dataset, cases=tuple(cases))
    manifest, _ = convert(dataset, tmp_path / "out", source=task, options=OPTIONS)
    groups = [manifest["cases"][case.id]["group"] for case in dataset.cases]
    assert groups == [0, 1, 0, 2, 1, *range(3, CASES - 2)]
    assert "eve" not in (tmp_path / "out" / "dataset.json").read_text()


def test_a_chunk_lies_where_its_affine_says(task, tmp_path):
    # Source axes are L, A, S from the origin; the first 2 voxels along L and 1 along A and S are
    # empty. Prepared width grows to the right: its first voxel is source index 11, at x = -11.
    manifest, _ = run(task, tmp_path / "out")
    chunks = {
        tuple(c.origin): c for c in chunks_of(tmp_path / "out", manifest) if c.case_id == "toy_00"
    }
    np.testing.assert_array_equal(chunks[0, 0, 0].affine @ [0, 0, 0, 1], [-11, 1, 1, 1])
    assert (0, 3, 0) in chunks  # 13 voxels along A: starts 0 and 3
    np.testing.assert_array_equal(chunks[0, 3, 0].affine @ [0, 0, 0, 1], [-11, 4, 1, 1])


def test_the_manifest_tells_what_was_done(task, tmp_path):
    manifest, _ = run(task, tmp_path / "out")
    case = manifest["cases"]["toy_00"]
    assert case["source_shape"] == [9, 14, 12]
    assert case["crop"] == [[1, 9], [1, 14], [0, 10]]
    assert case["class_voxels"] == [9 * 14 * 12 - 80, 80 - 6, 6]
    assert manifest["preprocess"]["spacing_mm"] == [1, 1, 1]
    assert manifest["folds"] == 5
    assert manifest["skipped"] == {}
    # Each case is about 9 x 13 x 10 after the crop: 13 voxels are two chunks of 10.
    assert sum(s["records"] for s in manifest["shards"]) == CASES * 2
    sources = (tmp_path / "out" / "sources.csv").read_text().splitlines()
    assert sources[0] == "case,image_MRI,label"
    assert sources[1] == "toy_00,imagesTr/toy_00.nii.gz,labelsTr/toy_00.nii.gz"


def test_bytes_do_not_depend_on_workers_or_on_the_run(task, tmp_path):
    for name, workers in (("a", 1), ("b", 1), ("c", 2)):
        run(task, tmp_path / name, workers=workers)
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")


def test_a_complete_data_set_is_left_as_it_is(task, tmp_path):
    run(task, tmp_path / "out")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert run(task, tmp_path / "out")[1] == 0
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_conversion_killed_midway_goes_on_and_gives_the_same_bytes(task, tmp_path, workers):
    out = tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, str(task), str(out), "3", str(workers)]
    # The pipe closes when the last worker has ended: none may outlive the killed parent.
    killed = subprocess.run(command, check=False, stdout=subprocess.PIPE, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tfrecord")}
    # Two workers go on until the parent sees the third shard: how far is up to the scheduler.
    assert len(kept) == 3 if workers == 1 else len(kept) >= 3
    with pytest.raises(DataError, match="unfinished. Run the same command"):
        load_manifest(out)
    (out / ".fold0-00000-of-00002.tfrecord.123.tmp").write_bytes(b"left behind")
    assert run(task, out)[1] == 10 - len(kept)
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("*.tfrecord")}.items()
    run(task, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_conversion_never_imports_tensorflow(task, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(task), str(tmp_path / "out"), "-1", "1"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stdout == "[]\n"


def test_ctrl_c_leaves_no_temporary_file_and_the_rest_follows(task, tmp_path):
    def press(stage, done, total):
        if (stage, done) == ("write", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(task, tmp_path / "out", workers=2, progress=press)
    assert not list((tmp_path / "out").glob(".*"))
    assert not (tmp_path / "out" / "dataset.json").exists()
    run(task, tmp_path / "out")
    run(task, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_a_damaged_shard_is_written_again_with_the_same_bytes(task, tmp_path, damage):
    manifest, _ = run(task, tmp_path / "out")
    before = content(tmp_path / "out")
    path = tmp_path / "out" / manifest["shards"][4]["file"]
    if damage == "deleted":
        path.unlink()
    else:
        os.truncate(path, 100)
    assert run(task, tmp_path / "out")[1] == 1
    assert content(tmp_path / "out") == before
    verify(tmp_path / "out")


def test_other_options_in_the_same_folder_are_refused_unless_overwritten(task, tmp_path):
    run(task, tmp_path / "out")
    before = content(tmp_path / "out")
    other = Options(layout="msd", chunk=10, chunk_overlap=4, folds=3)
    with pytest.raises(DataError, match=r"options.folds: 5 before, 3 now.*--overwrite"):
        run(task, tmp_path / "out", other)
    assert content(tmp_path / "out") == before
    manifest, _ = run(task, tmp_path / "out", other, overwrite=True)
    assert {s["split"] for s in manifest["shards"]} == {"fold0", "fold1", "fold2"}
    assert len(list((tmp_path / "out").glob("*.tfrecord"))) == len(manifest["shards"])


def test_changed_sources_are_noticed(task, tmp_path):
    run(task, tmp_path / "out")
    replace_label(task, "toy_03", lambda label: np.where(label == 4, 1, label))
    with pytest.raises(DataError, match=r"cases.toy_03.source_sha256"):
        run(task, tmp_path / "out")


def test_a_failed_overwrite_keeps_the_old_data_set(task, tmp_path):
    run(task, tmp_path / "out")
    before = content(tmp_path / "out")
    replace_label(task, "toy_03", lambda label: label + 1)
    with pytest.raises(DataError, match="1 of 10 cases cannot be used"):
        run(task, tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == before


def test_bad_cases_are_refused_in_one_line_or_left_out(task, tmp_path):
    replace_label(task, "toy_01", lambda label: np.where(label == 4, 3, label))
    replace_label(task, "toy_02", lambda label: label[:-1])
    image = task / "imagesTr" / "toy_05.nii.gz"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(DataError) as caught:
        run(task, tmp_path / "out")
    message = str(caught.value)
    assert "\n" not in message
    assert "3 of 10 cases cannot be used: toy_01: " in message
    assert (
        "label value 3 is not in the class map {'background': 0, 'organ': 1, 'tumour': 4}"
        in message
    )
    assert "toy_02.nii.gz must lie on one grid, but have shape (11, 14, 12)" in message
    assert "toy_05.nii.gz" in message
    assert not any((tmp_path / "out").iterdir())

    skipping = Options(layout="msd", skip_bad=True)
    manifest, _ = run(task, tmp_path / "out", skipping)
    assert sorted(manifest["skipped"]) == ["toy_01", "toy_02", "toy_05"]
    assert len(manifest["cases"]) == 7
    whole, _ = run(write_task(tmp_path / "good"), tmp_path / "all", Options(layout="msd"))
    for name, case in manifest["cases"].items():
        assert case["split"] == whole["cases"][name]["split"]


def test_cases_held_back_form_the_test_split_and_do_not_count(task, tmp_path):
    dataset = scan_source("msd", task)
    held_back = tuple(replace(case, held_back=case.id < "toy_04") for case in dataset.cases)
    dataset = replace(dataset, cases=held_back)
    manifest, _ = convert(dataset, tmp_path / "out", source=task, options=OPTIONS)
    splits = {case: entry["split"] for case, entry in manifest["cases"].items()}
    assert [case for case, split in splits.items() if split == "test"] == [
        f"toy_{n:02d}" for n in range(4)
    ]
    assert manifest["fingerprint"]["cases"] == 6
    assert manifest["fingerprint"]["class_voxels"][2] == 6 * 6  # six voxels of tumour per case


def test_a_share_of_the_patients_is_held_back_on_request(task, tmp_path):
    options = replace(OPTIONS, test_share=0.3)
    manifest, _ = run(task, tmp_path / "out", options)
    splits = [entry["split"] for entry in manifest["cases"].values()]
    assert splits.count("test") == 3
    assert manifest["fingerprint"]["cases"] == CASES - 3


def test_images_without_labels_are_all_for_testing(task, tmp_path):
    dataset = scan_source("msd", task)
    dataset = replace(
        dataset, classes={}, cases=tuple(replace(case, label=None) for case in dataset.cases)
    )
    manifest, _ = convert(dataset, tmp_path / "out", source=task, options=OPTIONS)
    assert {shard["split"] for shard in manifest["shards"]} == {"test"}
    assert manifest["folds"] == 0
    assert all(c.label is None for c in chunks_of(tmp_path / "out", manifest))


def test_real_cases_come_back_exactly(shared_data, tmp_path):
    source = shared_data / "Task04_Hippocampus"
    dataset = scan_source("msd", source)
    dataset = replace(dataset, cases=dataset.cases[::30])
    options = Options(layout="msd", orientation="LPI")
    manifest, _ = convert(dataset, tmp_path / "out", source=source, options=options)
    chunks = list(chunks_of(tmp_path / "out", manifest))
    assert len(chunks) == len(dataset.cases) == 7
    for chunk in chunks:
        label = read_label(source / "labelsTr" / f"{chunk.case_id}.nii.gz").array
        np.testing.assert_array_equal(undo(chunk.label, manifest["cases"][chunk.case_id]), label)
        assert abs(float(chunk.image.mean())) < 1e-3
        assert float(chunk.image.std()) == pytest.approx(1, abs=1e-3)


def test_an_unwritable_folder_is_named(task, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the data set: Not a directory: .*file/out"):
        run(task, tmp_path / "file" / "out")


def test_a_full_disk_is_noticed_before_the_first_shard(task, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("data_prep.writing.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match="needs about 0 MB.*Free some space"):
        run(task, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_strange_records_in_the_folder_are_never_deleted_unasked(task, tmp_path):
    foreign = tmp_path / "out" / "test-00000-of-00001.tfrecord"
    foreign.parent.mkdir()
    foreign.write_bytes(b"precious")
    with pytest.raises(DataError, match=r"holds test-00000-of-00001.tfrecord but no conversion"):
        run(task, tmp_path / "out")
    assert foreign.read_bytes() == b"precious"


def test_options_are_checked_before_any_case_is_read():
    with pytest.raises(ConfigError, match="chunk 10 and overlap 10"):
        Options(layout="msd", chunk=10, chunk_overlap=10)
    with pytest.raises(ConfigError, match="three positive lengths"):
        Options(layout="msd", spacing_mm=(1, 2))
    with pytest.raises(ShapeError, match="one of R/L"):
        Options(layout="msd", orientation="RAT")


def test_chunks_follow_the_overlap_and_suit_pictures():
    assert Options(layout="msd").chunking(flat=False) == {"chunk": 160, "overlap": 64}
    assert Options(layout="msd").chunking(flat=True) == {"chunk": 2048, "overlap": 819}
    wide = Options(layout="msd", chunk_overlap=256)
    assert wide.chunking(flat=False) == {"chunk": 640, "overlap": 256}
    assert Options(layout="msd", chunk=50).chunking(flat=True) == {"chunk": 50, "overlap": 20}


def test_a_worker_that_dies_is_reported_and_says_how_to_go_on():
    with pytest.raises(DataError, match=r"a worker process died.*Run the same command again"):
        list(run_parallel(os._exit, [3, 3], workers=2))
