"""A manifest is believed only after it was checked."""

import json

import pytest

from data_prep.manifest import file_sha256
from data_prep.manifest import load_manifest
from data_prep.manifest import patients_of
from data_prep.manifest import shard_files
from data_prep.manifest import verify
from data_prep.manifest import write_json
from segkit.errors import DataError

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of b""


def manifest_of(folder):
    shards = []
    for name in ("fold0-00000-of-00001.tfrecord", "fold1-00000-of-00001.tfrecord"):
        (folder / name).write_bytes(name.encode())
        sha256 = file_sha256(folder / name)
        entry = {"file": name, "split": name[:5], "cases": ["a"], "records": 1}
        shards.append(entry | {"bytes": len(name), "sha256": sha256})
    return {
        "schema": 1,
        "name": "toy",
        "layout": "msd",
        "channels": ["MRI"],
        "classes": [],
        "preprocess": {},
        "options": {},
        "fingerprint": {},
        "folds": 2,
        "cases": {"a": {"split": "fold0"}},
        "shards": shards,
    }


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "dataset.json", manifest_of(tmp_path))
    return tmp_path


def test_a_manifest_is_read_as_it_was_written(folder):
    assert load_manifest(folder) == manifest_of(folder)
    assert not list(folder.glob(".*"))


def test_cases_of_a_patient_are_found_by_their_group():
    splits = {"a": "fold0", "b": "fold1", "c": "fold1", "d": "fold2", "e": "fold1"}
    groups = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 1}
    cases = {case: {"split": splits[case], "group": groups[case]} for case in splits}
    assert patients_of({"cases": cases}, ["fold1", "fold2"]) == [["b", "e"], ["c"], ["d"]]
    older = {case: {"split": split} for case, split in splits.items()}
    assert patients_of({"cases": older}, ["fold1"]) == [["b"], ["c"], ["e"]]


def test_json_has_a_line_per_case_and_per_shard(folder):
    lines = (folder / "dataset.json").read_text().splitlines()
    assert '"a": {"split": "fold0"}' in lines
    assert sum(line.startswith('{"file": "fold') for line in lines) == 2


def test_a_sum_of_no_bytes_is_the_published_one(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert file_sha256(tmp_path / "empty") == EMPTY


def test_a_missing_data_set_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"prepare_data.py --source RAW --layout LAYOUT --out"):
        load_manifest(tmp_path)


def test_an_unfinished_data_set_says_how_to_go_on(tmp_path):
    (tmp_path / "conversion.json").write_text("{}")
    with pytest.raises(DataError, match="unfinished. Run the same command"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"cases": []}, "'cases' must be dict"),
        ({"shards": [3]}, r"shards\[0\] is no object"),
        ({"shards": [{"file": "x"}]}, r"key 'shards\[0\].split' is missing"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(folder, change, match):
    write_json(folder / "dataset.json", load_manifest(folder) | change)
    with pytest.raises(DataError, match=match):
        load_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": 1}'])
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="is damaged"):
        load_manifest(folder)


def test_a_shard_name_cannot_lead_out_of_the_folder(folder):
    manifest = load_manifest(folder)
    manifest["shards"][0]["file"] = "../secret"
    write_json(folder / "dataset.json", manifest)
    with pytest.raises(DataError, match="is a path"):
        load_manifest(folder)


def test_shards_are_listed_by_split(folder):
    manifest = load_manifest(folder)
    both = shard_files(manifest, folder, ["fold1", "fold0"])
    assert both == [str(folder / shard["file"]) for shard in manifest["shards"]]
    assert shard_files(manifest, folder, ["fold1"]) == both[1:]
    with pytest.raises(DataError, match="has no 'fold7'.*Known: fold0, fold1"):
        shard_files(manifest, folder, ["fold7"])
    (folder / manifest["shards"][0]["file"]).unlink()
    with pytest.raises(DataError, match="is missing. Delete it"):
        shard_files(manifest, folder, ["fold0"])


def test_verify_names_the_damaged_shard_and_how_to_mend_it(folder):
    seen = []
    assert verify(folder, progress=lambda *count: seen.append(count)) == load_manifest(folder)
    assert seen == [(1, 2), (2, 2)]
    path = folder / "fold1-00000-of-00001.tfrecord"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    assert verify(folder, checksums=False)
    with pytest.raises(DataError, match=r"fold1-.*SHA-256 is wrong. Delete it.*run the command"):
        verify(folder)
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match="28 bytes, 29 expected"):
        verify(folder, checksums=False)


def test_what_json_cannot_hold_is_never_half_written(folder):
    before = (folder / "dataset.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(folder / "dataset.json", {"std": float("nan")})
    assert (folder / "dataset.json").read_bytes() == before
    assert json.loads(before)["name"] == "toy"
