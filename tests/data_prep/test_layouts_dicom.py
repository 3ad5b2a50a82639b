import json
import shutil

import numpy as np
import pytest

from data_prep.layouts import scan_source
from segkit.errors import DataError
from segkit.io.dicom import read_series
from segkit.io.dicom import write_series
from segkit.io.nifti import write_nifti
from segkit.volume import Volume

AFFINE = np.array([[0, 0, -1.5, 9], [0, -1.5, 0, 8], [3, 0, 0, 7], [0, 0, 0, 1]], float)
RNG = np.random.default_rng(0)


def volume(shape=(3, 4, 5), high=100):
    return Volume(RNG.integers(0, high, shape).astype(np.int16), AFFINE)


def study(source, name, *, series=("T1", "T2"), patient="DOE^JANE", uid="1.2.3", label=True):
    """A study of MR series; `series=()` puts one series into the study folder itself."""
    for number, folder in enumerate(series or [""], start=1):
        write_series(
            source / name / folder,
            volume(),
            patient_id=patient,
            study_uid=uid,
            series_number=number,
        )
    if label:
        write_nifti(source / name / "segmentation.nii.gz", volume(high=2))


def describe(source, **content):
    (source / "dataset.json").write_text(json.dumps(content))


LABELS = {"background": 0, "lesion": 1}


def test_studies_become_cases_with_one_channel_per_series(tmp_path):
    study(tmp_path, "Doe Jane - 2019", uid="1.2.3")
    study(tmp_path, "Doe Jane - 2020", uid="1.2.4")
    study(tmp_path, "Roe", uid="1.2.5", patient="ROE")
    describe(tmp_path, labels=LABELS)
    dataset = scan_source("dicom", str(tmp_path))
    assert dataset.channels == ("MRI", "MRI")
    assert dataset.classes == LABELS
    assert len({c.id for c in dataset.cases}) == 3
    assert sorted(len([c for c in dataset.cases if c.patient == p]) for p in patients(dataset)) == [
        1,
        2,
    ]
    for case in dataset.cases:
        image, label = dataset.read(case)
        assert image.array.shape == (3, 4, 5, 2)
        assert label.array.shape == (3, 4, 5)
        for n, folder in enumerate(case.images):
            np.testing.assert_array_equal(image.array[..., n], read_series(folder).array)


def patients(dataset):
    return {case.patient for case in dataset.cases}


def test_ids_are_hashes_of_what_could_name_the_patient(tmp_path):
    study(tmp_path, "Doe Jane", label=False)
    case = scan_source("dicom", str(tmp_path)).cases[0]
    # printf 1.2.3 | sha256sum; printf 'segkitDOE^JANE' | sha256sum
    assert case.id == "study-c47f5b18b8a4"
    assert case.patient == "bdfcb6a1e7bddbd5"


def test_channel_names_come_from_dataset_json(tmp_path):
    study(tmp_path, "a", label=False)
    describe(tmp_path, channel_names={"0": "T1", "1": "T2"}, name="Toy")
    dataset = scan_source("dicom", str(tmp_path))
    assert (dataset.name, dataset.channels, dataset.classes) == ("Toy", ("T1", "T2"), {})
    assert dataset.read(dataset.cases[0])[1] is None
    describe(tmp_path, channel_names={"0": "T1"})
    with pytest.raises(DataError, match="names 1 channels, but the studies have 2 series"):
        scan_source("dicom", str(tmp_path))


def test_a_study_folder_may_itself_be_the_series(tmp_path):
    study(tmp_path, "a", series=(), uid="1.2")
    study(tmp_path, "b", series=("any name",), uid="1.3")
    describe(tmp_path, labels=LABELS)
    dataset = scan_source("dicom", str(tmp_path))
    assert dataset.channels == ("MRI",)
    assert {dataset.read(c)[0].array.shape for c in dataset.cases} == {(3, 4, 5, 1)}


def test_patterns_choose_the_channels_and_their_order(tmp_path):
    study(tmp_path, "a", series=("11-T1", "12-T2", "13-scout"), uid="1.2", label=False)
    study(tmp_path, "b", series=("7-T2", "8-T1"), uid="1.3", label=False)
    dataset = scan_source("dicom", str(tmp_path), channels="*-T2, *-T1")
    names = {tuple(p.rsplit("-", 1)[1] for p in case.images) for case in dataset.cases}
    assert names == {("T2", "T1")}
    with pytest.raises(DataError, match="studies differ in their series: .*a has 11-T1, 12-T2"):
        scan_source("dicom", str(tmp_path))
    with pytest.raises(DataError, match=r"'\*' must match one series .* it matches 3 of"):
        scan_source("dicom", str(tmp_path), channels="*")
    with pytest.raises(DataError, match=r"'\*FLAIR' must match one .* it matches 0 of"):
        scan_source("dicom", str(tmp_path), channels="*-T1,*FLAIR")


def test_labels_without_names_say_what_to_write(tmp_path):
    study(tmp_path, "a")
    with pytest.raises(DataError, match=r'dataset.json like {"channel_names": {"0": "CT"}, "lab'):
        scan_source("dicom", str(tmp_path))


def test_labels_on_some_studies_only_are_refused(tmp_path):
    study(tmp_path, "a", uid="1.2")
    study(tmp_path, "b", uid="1.3", label=False)
    with pytest.raises(DataError, match="1 of 2 studies have no label map, such as .*b"):
        scan_source("dicom", str(tmp_path))


def test_two_label_maps_are_refused(tmp_path):
    study(tmp_path, "a")
    shutil.copy(tmp_path / "a" / "segmentation.nii.gz", tmp_path / "a" / "seg.nii.gz")
    with pytest.raises(DataError, match="has 2 label maps"):
        scan_source("dicom", str(tmp_path))


def test_a_source_that_is_one_study_is_refused(tmp_path):
    study(tmp_path, "a", label=False)
    with pytest.raises(DataError, match="T1 and .*T2 belong to one study. .* the folder above it"):
        scan_source("dicom", str(tmp_path / "a"))


def test_images_beside_and_in_sub_folders_are_refused(tmp_path):
    study(tmp_path, "a", series=(), label=False)
    study(tmp_path, "a", series=("T2",), label=False)
    with pytest.raises(DataError, match="holds DICOM images itself and in T2"):
        scan_source("dicom", str(tmp_path))


def test_series_of_two_patients_are_refused_without_naming_them(tmp_path):
    study(tmp_path, "a", series=("T1",), label=False)
    study(tmp_path, "a", series=("T2",), patient="ROE", label=False)
    with pytest.raises(DataError, match="mixes series of 2 patients") as error:
        scan_source("dicom", str(tmp_path))
    assert "ROE" not in str(error.value)
    assert "DOE" not in str(error.value)


def test_no_patient_id_makes_each_study_a_patient(tmp_path):
    study(tmp_path, "a", uid="1.2", patient="", label=False)
    study(tmp_path, "b", uid="1.3", patient=" ", label=False)
    dataset = scan_source("dicom", str(tmp_path))
    assert all(case.patient == case.id for case in dataset.cases)


def test_series_of_different_size_are_refused(tmp_path):
    study(tmp_path, "a", label=False)
    write_series(
        tmp_path / "a" / "crop", volume((3, 2, 2)), patient_id="DOE^JANE", study_uid="1.2.3"
    )
    message = r"differ in size: T1 \(4x5\), T2 \(4x5\), crop \(2x2\). Choose"
    with pytest.raises(DataError, match=message):
        scan_source("dicom", str(tmp_path))


def test_empty_studies_and_sources_are_refused(tmp_path):
    with pytest.raises(DataError, match="no cases"):
        scan_source("dicom", str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.txt").write_text("text")
    with pytest.raises(DataError, match="a holds no DICOM series; add one sub-folder per series"):
        scan_source("dicom", str(tmp_path))


def test_the_digest_covers_every_slice(tmp_path):
    study(tmp_path, "a", label=False)
    dataset = scan_source("dicom", str(tmp_path))
    before = dataset.digest(dataset.cases[0])
    last = tmp_path / "a" / "T2" / "0002.dcm"
    last.write_bytes(last.read_bytes()[:-1] + b"\x7f")
    assert dataset.digest(dataset.cases[0]) != before


def test_the_brain_study_scans_and_reads_once_series_are_chosen(shared_data):
    source = str(shared_data / "brain_mr_dicom")
    with pytest.raises(DataError, match="11_HCropVolume .50x34."):
        scan_source("dicom", source)
    dataset = scan_source("dicom", source, channels="*T1pre*,*T1post*,*T2*,*FLAIR*")
    image, label = dataset.read(dataset.cases[0])
    assert dataset.channels == ("MRI",) * 4
    assert image.array.shape == (22, 320, 280, 4)
    assert label is None
