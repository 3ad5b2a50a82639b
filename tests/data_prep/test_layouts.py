import json
import pickle

import numpy as np
import pytest

from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.layouts import digest_case
from data_prep.layouts import natural_key
from data_prep.layouts import read_case
from data_prep.layouts import scan_source
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.io.nifti import write_nifti
from segkit.volume import Volume

RNG = np.random.default_rng(0)
AFFINE = np.array([[0, 0, 1.5, -20], [0, 1.25, 0, 3], [4, 0, 0, 7], [0, 0, 0, 1]], float)


def image(*channels, shape=(3, 4, 5)):
    return Volume(RNG.integers(-1000, 1000, (*shape, *channels)).astype(np.int16), AFFINE)


def labels(shape=(3, 4, 5)):
    return Volume(RNG.integers(0, 3, shape).astype(np.uint8), AFFINE)


def msd(folder, *, ids=("a_1", "a_2"), channels=2, **changes):
    """A Decathlon task with one 4-D image per case."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for name in ids:
        write_nifti(folder / "imagesTr" / f"{name}.nii.gz", image(channels))
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", labels())
    description = {
        "name": "Toy",
        "licence": "CC",
        "relase": "1.0",
        "modality": {"0": "FLAIR", "1": "T2"},
        "labels": {"0": "background", "2": "tumour", "1": "oedema"},
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ids
        ],
        "test": ["./imagesTs/a_9.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(description | changes))
    return str(folder)


def nnunet(folder, *, ids=("p1_a", "p1_b", "p2_a"), channels=2, **changes):
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for name in ids:
        for n in range(channels):
            write_nifti(folder / "imagesTr" / f"{name}_{n:04d}.nii.gz", image())
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", labels())
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "tumour": 2, "oedema": 1},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description | changes))
    return str(folder)


def test_msd_lists_the_training_pairs(tmp_path):
    source = msd(tmp_path / "Task77_A_B")
    (tmp_path / "Task77_A_B" / "imagesTr" / "._a_1.nii.gz").write_bytes(b"macOS")
    dataset = scan_source("msd", source)
    assert dataset.name == "Toy"
    assert dataset.channels == ("FLAIR", "T2")
    assert list(dataset.classes.items()) == [("background", 0), ("oedema", 1), ("tumour", 2)]
    assert [(c.id, c.patient, c.held_back) for c in dataset.cases] == [
        ("a_1", "a_1", False),
        ("a_2", "a_2", False),
    ]
    read, label = dataset.read(dataset.cases[0])
    assert read.array.shape == (3, 4, 5, 2)
    assert label.array.shape == (3, 4, 5)
    np.testing.assert_allclose(read.affine, AFFINE)


def test_msd_leaves_out_macos_files_that_dataset_json_lists(tmp_path):
    entry = {"image": "./imagesTr/{}.nii.gz", "label": "./labelsTr/{}.nii.gz"}
    training = [{k: v.format(n) for k, v in entry.items()} for n in ("a_1", "._a_1")]
    source = msd(tmp_path / "t", training=training)
    assert [c.id for c in scan_source("msd", source).cases] == ["a_1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": []}, "Toy: no cases"),
        ({"training": [{"image": "./imagesTr/a_1.nii.gz"}]}, "'image' and 'label', got"),
        ({"training": 3}, "'training' must list objects .* got 3"),
        ({"modality": {"0": "CT", "2": "MR"}}, "must number the channels 0, 1, 2"),
        ({"modality": ["CT"]}, "'modality' must be like"),
        ({"labels": {"1": "liver"}}, 'no label has the value 0; add "background": 0'),
        ({"labels": {"0": "a", "1": "a"}}, "two labels have one name"),
        ({"labels": {"background": 0}}, 'labels must be like {"0": "background"}'),
        ({"labels": []}, "labels must be like"),
    ],
)
def test_msd_refuses_a_malformed_description(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        scan_source("msd", msd(tmp_path / "t", **changes))


@pytest.mark.parametrize("path", ["../secret.nii.gz", "/etc/passwd", "./imagesTr/../../x.nii.gz"])
def test_msd_refuses_paths_that_leave_the_folder(tmp_path, path):
    source = msd(tmp_path / "t", training=[{"image": path, "label": path}])
    with pytest.raises(DataError, match="points outside its folder"):
        scan_source("msd", source)


def test_msd_names_a_missing_file(tmp_path):
    source = msd(tmp_path / "t")
    (tmp_path / "t" / "labelsTr" / "a_2.nii.gz").unlink()
    with pytest.raises(DataError, match=r"labelsTr/a_2.nii.gz. Copy it, or drop the entry"):
        scan_source("msd", source)


def test_msd_refuses_a_case_listed_twice(tmp_path):
    source = msd(tmp_path / "t", ids=("a",))
    path = tmp_path / "t" / "dataset.json"
    description = json.loads(path.read_text())
    description["training"] *= 2
    path.write_text(json.dumps(description))
    with pytest.raises(DataError, match="two cases have the id 'a'"):
        scan_source("msd", source)


@pytest.mark.parametrize("layout", ["msd", "nnunet"])
def test_a_missing_source_or_description_is_named(tmp_path, layout):
    with pytest.raises(DataError, match="nowhere does not exist. Give the folder"):
        scan_source(layout, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"dataset.json is missing"):
        scan_source(layout, str(tmp_path))
    (tmp_path / "dataset.json").write_text("{'no': json}")
    with pytest.raises(DataError, match=r"dataset.json is not valid JSON"):
        scan_source(layout, str(tmp_path))
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match="must hold a JSON object, got list"):
        scan_source(layout, str(tmp_path))
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match="has no key"):
        scan_source(layout, str(tmp_path))
    with pytest.raises(DataError, match="is a file"):
        scan_source(layout, str(tmp_path / "dataset.json"))


def test_nnunet_stacks_the_channel_files_in_order(tmp_path):
    dataset = scan_source("nnunet", nnunet(tmp_path / "Dataset001_Toy"))
    assert dataset.name == "Dataset001_Toy"
    assert dataset.channels == ("T1", "T2")
    assert dataset.classes == {"background": 0, "oedema": 1, "tumour": 2}
    assert [c.id for c in dataset.cases] == ["p1_a", "p1_b", "p2_a"]
    case = dataset.cases[1]
    read, _ = dataset.read(case)
    for n, path in enumerate(case.images):
        assert path.endswith(f"p1_b_{n:04d}.nii.gz")
        single, _ = read_case(RawCase("x", "x", (path,)))
        np.testing.assert_array_equal(read.array[..., n], single.array[..., 0])


def test_nnunet_may_have_a_label_to_ignore(tmp_path):
    source = nnunet(tmp_path / "t", labels={"background": 0, "ignore": 7, "tumour": 2})
    classes = scan_source("nnunet", source).classes
    assert list(classes.items()) == [("background", 0), ("tumour", 2), ("ignore", 7)]


def test_nnunet_takes_the_patient_from_the_name(tmp_path):
    source = nnunet(tmp_path / "t")
    assert [c.patient for c in scan_source("nnunet", source).cases] == ["p1_a", "p1_b", "p2_a"]
    cases = scan_source("nnunet", source, patient=r"^(p\d+)_").cases
    assert [c.patient for c in cases] == ["p1", "p1", "p2"]
    assert [c.patient for c in scan_source("nnunet", source, patient=r"p\d").cases] == [
        "p1",
        "p1",
        "p2",
    ]
    with pytest.raises(DataError, match="finds no patient in the case name 'p1_a'"):
        scan_source("nnunet", source, patient="q")
    with pytest.raises(ConfigError, match="is no regular expression"):
        scan_source("nnunet", source, patient="(")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "'whole' is a region .* not supported"),
        ({"labels": {"background": 0, "ignore": 1, "a": 3}}, "'ignore' must be the last"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "two labels share one value"),
        ({"labels": {"background": 0, "a": "1"}}, "'a' needs an integer >= 0, got '1'"),
        ({"labels": {"background": 0, "a": -1}}, "'a' needs an integer >= 0, got -1"),
        ({"channel_names": {"0": "CT"}}, "has the channels .0, 1., but .* names 1"),
        ({"dataset": {}}, "the key 'dataset', a list of paths, is not supported"),
        ({"file_ending": ".nrrd"}, "no cases"),
    ],
)
def test_nnunet_refuses_what_would_change_the_meaning(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        scan_source("nnunet", nnunet(tmp_path / "t", **changes))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("imagesTr/p1_a_0001.nii.gz", r"p1_a .* has the channels \[0\], but"),
        ("labelsTr/p2_a.nii.gz", "p2_a has no label"),
    ],
)
def test_nnunet_names_what_is_missing(tmp_path, removed, message):
    source = nnunet(tmp_path / "t")
    (tmp_path / "t" / removed).unlink()
    with pytest.raises(DataError, match=message):
        scan_source("nnunet", source)


def test_nnunet_refuses_stray_files(tmp_path):
    source = nnunet(tmp_path / "t")
    write_nifti(tmp_path / "t" / "labelsTr" / "p9.nii.gz", labels())
    with pytest.raises(DataError, match="has no image p9_0000"):
        scan_source("nnunet", source)
    write_nifti(tmp_path / "t" / "imagesTr" / "p9.nii.gz", image())
    with pytest.raises(DataError, match=r"p9.nii.gz is not named CASE_0000.nii.gz"):
        scan_source("nnunet", source)


def test_reading_turns_a_label_stored_in_other_axes_to_those_of_the_image(tmp_path):
    scan, truth = image(), labels()
    write_nifti(tmp_path / "image.nii.gz", scan)
    write_nifti(tmp_path / "label.nii", truth.oriented("LPI"))
    case = RawCase("x", "x", (str(tmp_path / "image.nii.gz"),), str(tmp_path / "label.nii"))
    read, label = read_case(case)
    np.testing.assert_array_equal(read.array[..., 0], scan.array)
    np.testing.assert_array_equal(label.array, truth.array)
    np.testing.assert_allclose(label.affine, read.affine)


@pytest.mark.parametrize("other", ["channel", "label"])
def test_reading_refuses_another_grid_and_names_both_files(tmp_path, other):
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    write_nifti(tmp_path / "a.nii.gz", image())
    write_nifti(tmp_path / "b.nii.gz", Volume(labels().array, moved))
    a, b = str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")
    case = RawCase("x", "x", (a, b)) if other == "channel" else RawCase("x", "x", (a,), b)
    with pytest.raises(DataError, match=r"a.nii.gz and .*b.nii.gz must lie on one grid.*-19.5"):
        read_case(case)


def test_the_digest_follows_the_bytes_and_not_the_names(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"one" if name < "c" else b"two")
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert digest_case(RawCase("x", "x", (a,), c)) == digest_case(RawCase("y", "y", (b,), c))
    assert digest_case(RawCase("x", "x", (a,), c)) != digest_case(RawCase("x", "x", (c,), a))
    assert digest_case(RawCase("x", "x", (a,))) != digest_case(RawCase("x", "x", (a, b)))


def test_cases_are_sorted_with_numbers_by_value():
    cases = tuple(RawCase(name, name, ("x",)) for name in ("c10", "c9", "c1", "b2"))
    dataset = RawDataset("toy", ("CT",), {}, cases)
    assert [c.id for c in dataset.cases] == ["b2", "c1", "c9", "c10"]
    assert sorted(["10", "9", "a", "1a"], key=natural_key) == ["1a", "9", "10", "a"]


def test_a_dataset_travels_to_worker_processes(tmp_path):
    for dataset in (scan_source("msd", msd(tmp_path / "t")), scan_source("phantom", "ct:2")):
        copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301, its own bytes
        assert copy.digest(copy.cases[0]) == dataset.digest(dataset.cases[0])


def test_an_unknown_layout_or_option_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="unknown layout 'nnUNet'"):
        scan_source("nnUNet", str(tmp_path))
    with pytest.raises(ConfigError, match="has no option 'label'. Did you mean 'labels'"):
        scan_source("images", str(tmp_path), label="a=0")
    with pytest.raises(ConfigError, match="layout.patient must be str"):
        scan_source("images", str(tmp_path), patient=3)


def test_the_hippocampus_task_scans_and_reads(shared_data):
    dataset = scan_source("msd", str(shared_data / "Task04_Hippocampus"))
    assert len(dataset.cases) == 208
    assert dataset.channels == ("MRI",)
    assert dataset.classes == {"background": 0, "Anterior": 1, "Posterior": 2}
    read, label = dataset.read(dataset.cases[0])
    assert read.shape == label.shape
    assert set(np.unique(label.array)) == {0, 1, 2}
