"""A table of cases, from the CSV to the manifest and the stream of patches."""

import json

import numpy as np
import pytest

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import read_case
from data_prep.layouts import scan_source
from data_prep.manifest import load_manifest
from data_prep.pipeline import Augmentation
from data_prep.pipeline import build_dataset
from data_prep.pipeline import device_augmentation
from segkit.covariates import encode
from segkit.errors import DataError
from segkit.io.nifti import write_nifti
from segkit.volume import Volume

SHAPE = (4, 6, 8)
AFFINE = np.diag([3.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
TABLE = """image_CT,image_PET,label,patient,split,age,sex,stage
i/0ct.nii.gz,i/0pet.nii.gz,l/0.nii.gz,a,train,50,F,1
i/1ct.nii.gz,,l/1.nii.gz,a,,60,M,2
i/2ct.nii.gz,i/2pet.nii.gz,l/2.nii.gz,b,train,,F,1
i/3ct.nii.gz,i/3pet.nii.gz,l/3.nii.gz,c,train,70,M,2
i/4ct.nii.gz,i/4pet.nii.gz,l/4.nii.gz,d,test,99,F,1
"""


def write_source(folder, text=TABLE, name="cases.csv"):
    """The table, and images of noise whose label is where the CT is above 40."""
    rng = np.random.default_rng(0)
    for sub in ("i", "l"):
        (folder / sub).mkdir(parents=True)
    for n in range(5):
        ct = rng.integers(-100, 100, SHAPE).astype(np.int16)
        pet = rng.integers(1, 50, SHAPE).astype(np.int16)
        label = (ct > 40).astype(np.uint8)
        for path, array in ((f"i/{n}ct", ct), (f"i/{n}pet", pet), (f"l/{n}", label)):
            write_nifti(folder / f"{path}.nii.gz", Volume(array, AFFINE))
    (folder / name).write_text(text)
    return folder / name


def prepare(path, out, **options):
    dataset = scan_source("table", path, **options)
    made = Options(layout="table", layout_options=options, folds=2, spacing_mm="keep")
    return convert(dataset, out, source=path, options=made)[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(source, folder, categories="stage")
    return folder


def test_columns_are_found_by_their_names(source):
    dataset = scan_source("table", source)
    assert (dataset.name, dataset.channels) == ("cases", ("CT", "PET"))
    assert dataset.classes == {"background": 0, "foreground": 1}
    assert [case.id for case in dataset.cases] == [f"case-000{n}" for n in range(1, 6)]
    assert [case.patient for case in dataset.cases] == list("aabcd")
    assert [case.held_back for case in dataset.cases] == [False] * 4 + [True]
    assert dataset.cases[0].covariates == {"age": 50.0, "sex": "F", "stage": 1.0}
    assert dataset.cases[2].covariates["age"] is None
    folder = scan_source("table", source.parent)
    assert folder.cases == dataset.cases


def test_columns_can_be_named(tmp_path):
    text = "nr;scan;mask;who;fold;grade;weight\nx1;i/0ct.nii.gz;l/0.nii.gz;p;TEST;low;70,5\n"
    path = write_source(tmp_path, text)
    names = {"case": "nr", "images": "scan", "label": "mask", "patient": "who", "split": "fold"}
    names |= {"labels": "background=0,lesion=1", "target": "grade", "covariates": ""}
    (case,) = scan_source("table", path, **names).cases
    assert (case.id, case.patient, case.held_back, case.target) == ("x1", "p", True, "low")
    assert case.covariates == {}
    assert case.images == (str(tmp_path / "i" / "0ct.nii.gz"),)


def test_an_empty_cell_is_a_channel_of_zeros(source):
    case = scan_source("table", source).cases[1]
    assert case.missing_channels == [1]
    image, label = read_case(case)
    assert image.array.shape == (*SHAPE, 2)
    assert image.array[..., 0].any()
    assert not image.array[..., 1].any()
    assert label.shape == SHAPE


def change(text, old, new):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        (",60,M", ",old,M", {}, "row 2: 'old' is no number, as others in the column 'age' are"),
        ("a,,60", "a,val,60", {}, "row 2: the split must be train or test, got 'val'"),
        ("i/0ct", "i/9ct", {}, "row 1, column image_CT: .*9ct.nii.gz does not exist"),
        ("i/1ct.nii.gz,,", ",,", {}, "row 2 has no image in image_CT, image_PET"),
        (",c,train", ",,train", {}, "row 4 has nothing in the column 'patient'"),
        ("F,1\ni/1", "F,1,9\ni/1", {}, "row 1 has 9 cells, the first line 8"),
        ("image_PET,label", "label,label", {}, "each column needs a name of its own"),
        ("age,", "age,", {"label": "mask"}, "no column 'mask' to choose. Known: age"),
        ("image_CT,image_PET", "ct,pet", {}, "no column 'image' or 'image_CHANNEL'"),
        (",stage", ",stage", {"categories": "grade"}, "no column 'grade' to choose"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path, old, new, options, message):
    path = write_source(tmp_path, change(TABLE, old, new))
    with pytest.raises(DataError, match=message):
        scan_source("table", path, **options)


def test_a_column_of_names_is_no_covariate(tmp_path):
    rows = [line + "," + name for line, name in zip(TABLE.split(), ["note", *"vwxyz"], strict=True)]
    path = write_source(tmp_path, "\n".join(rows))
    with pytest.raises(DataError, match="names cases rather than describes them"):
        scan_source("table", path)
    assert "note" not in scan_source("table", path, covariates="age").cases[0].covariates


def test_a_missing_or_empty_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        scan_source("table", tmp_path / "no.csv")
    with pytest.raises(DataError, match="holds 0 CSV files"):
        scan_source("table", tmp_path)
    (tmp_path / "a.csv").write_text("image,label\n\n")
    with pytest.raises(DataError, match="no row below its first line"):
        scan_source("table", tmp_path)
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8"):
        scan_source("table", tmp_path)


def test_the_manifest_encodes_with_the_statistics_of_all_cases_but_the_test_split(prepared):
    manifest = load_manifest(prepared)
    age, sex, stage = manifest["covariates"]
    assert (age["mean"], age["missing"]) == (60, 1)  # of 50, 60 and 70, without the 99
    assert sex["shares"] == [0.5, 0.5]
    assert (stage["kind"], stage["categories"]) == ("category", ["1", "2"])
    entry = manifest["cases"]["case-0002"]
    assert entry["covariates"] == {"age": 60, "sex": "M", "stage": "2"}
    assert entry["missing_channels"] == [1]
    assert "missing_channels" not in manifest["cases"]["case-0001"]
    assert "targets" not in manifest


def test_records_do_not_depend_on_covariates(source, prepared, tmp_path):
    prepare(source, tmp_path, covariates="")
    manifest = load_manifest(tmp_path)
    assert "covariates" not in manifest
    assert [s["sha256"] for s in manifest["shards"]] == [
        s["sha256"] for s in load_manifest(prepared)["shards"]
    ]


def test_a_data_set_without_a_table_says_nothing_of_covariates(tmp_path):
    dataset = scan_source("phantom", "ct:2")
    manifest, _ = convert(
        dataset, tmp_path, source="ct:2", options=Options(layout="phantom", folds=2)
    )
    state = json.loads((tmp_path / "conversion.json").read_text())
    assert not {"covariates", "targets"} & (manifest.keys() | state.keys())
    assert set(state["request"]["cases"]["ct-0000"]) == {"patient", "test", "source_sha256"}


def test_a_missing_channel_does_not_count_for_intensities(source, prepared):
    statistics = load_manifest(prepared)["fingerprint"]["intensities"]
    cases = [read_case(case) for case in scan_source("table", source).cases[:4]]
    for channel, kept in ((0, [0, 1, 2, 3]), (1, [0, 2, 3])):
        values = [cases[n][0].array[..., channel][cases[n][1].array == 1] for n in kept]
        assert statistics[channel]["mean"] == pytest.approx(np.concatenate(values).mean())


def test_a_category_that_only_a_test_case_has_is_refused(tmp_path):
    path = write_source(tmp_path / "raw", change(TABLE, "99,F", "99,D"))
    with pytest.raises(DataError, match="case case-0005: covariate 'sex' cannot be 'D'"):
        prepare(path, tmp_path / "out")


def batches(folder, splits, **options):
    manifest = load_manifest(folder)
    settings = {"patch_size": (4, 4, 4), "batch_size": 4, "seed": 1, **options}
    return build_dataset(folder, manifest, splits, with_covariates=True, **settings)


@pytest.mark.parametrize("placement", ["input", "device"])
def test_each_example_carries_the_covariates_of_its_case(prepared, placement):
    manifest, splits = load_manifest(prepared), ("fold0", "fold1")
    named = {"with_cases": True} if placement == "input" else {}
    stream = batches(prepared, splits, augment=Augmentation([], placement), **named)
    known = {
        tuple(encode(manifest["covariates"], entry["covariates"])): case
        for case, entry in manifest["cases"].items()
    }
    found = set()
    for batch in stream.take(4).as_numpy_iterator():
        inputs = batch[1] if named else batch[0]
        cases = [known[tuple(vector)] for vector in inputs["covariates"]]
        if named:
            assert cases == [case.decode() for case in batch[0]]
        found |= set(cases)
    assert found == {"case-0001", "case-0002", "case-0003", "case-0004"}


@pytest.mark.parametrize("placement", ["input", "device"])
def test_a_missing_channel_stays_zero_under_noise(prepared, placement):
    manifest = load_manifest(prepared)
    noise = Augmentation([{"gaussian_noise": {"probability": 1.0}}], placement)
    repeats = {case: 0 for case in manifest["cases"] if case != "case-0002"}
    split = (manifest["cases"]["case-0002"]["split"],)
    batch = next(iter(batches(prepared, split, augment=noise, repeats=repeats)))
    if placement == "device":
        batch = device_augmentation(noise, (4, 4, 4), 2, keep_missing=True)(*batch)
    image = batch[0]["image"].numpy()
    assert image.shape == (4, 4, 4, 4, 2)
    assert not image[..., 1].any()
    assert image[..., 0].std() > 0.5
