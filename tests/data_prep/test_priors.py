"""The segmentations of a first stage as channels, and the crop around them."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.fingerprint import measure
from data_prep.layouts import Objects
from data_prep.layouts import RawCase
from data_prep.layouts import RawDataset
from data_prep.plan import Plan
from data_prep.plan import check_margin
from data_prep.plan import make_plan
from data_prep.preprocess import geometry
from data_prep.preprocess import prepare
from data_prep.preprocess import undo
from data_prep.preprocess import widened
from data_prep.priors import prior_path
from data_prep.priors import with_priors
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.io.nifti import write_nifti
from segkit.volume import Volume

# (k, j, i) to RAS+ mm, slices 3 mm to Inferior, rows 1 mm to Posterior, columns 2 mm to Left.
AFFINE = np.array([[0, 0, -2.0, 40], [0, -1.0, 0, 30], [-3.0, 0, 0, 20], [0, 0, 0, 1.0]])
CLASSES = {"background": 0, "liver": 5, "lesion": 9}
PRIOR = {"scheme": "prior"}
ZSCORE = {"scheme": "zscore", "masked": False}


def read(case):
    """An image of two channels, both with the voxel's index, and a label of zeros."""
    index = np.arange(2 * 4 * 5, dtype=np.int16).reshape(2, 4, 5)
    label = Volume(np.zeros((2, 4, 5), np.uint8), AFFINE)
    return Volume(np.stack([index, index], axis=-1), AFFINE, ("a note",)), label


def digest(case):
    return f"digest of {case.id}"


@pytest.fixture
def dataset():
    cases = (RawCase("a/b", "p", ("a.nii",)), RawCase("c", "p", ("c.nii",)))
    return RawDataset("set", ("T1", "T2"), {"background": 0, "x": 1}, cases, read, digest)


@pytest.fixture
def found(tmp_path, dataset):
    """Writes the label map of the first case; returns its array."""
    array = np.zeros((2, 4, 5), np.uint8)
    array[0, 1, 2], array[1, 3, 0] = 9, 5
    write_nifti(prior_path(tmp_path, "a/b"), Volume(array, AFFINE))
    return array


def test_each_class_of_the_first_stage_is_a_channel(dataset, found, tmp_path):
    whole = with_priors(dataset, tmp_path, CLASSES)
    assert whole.channels == ("T1", "T2", "prior:liver", "prior:lesion")
    image, label = whole.read(whole.cases[0])
    assert image.array.dtype == np.int16
    assert image.notes == ("a note",)
    np.testing.assert_array_equal(image.array[..., :2], read(None)[0].array)
    np.testing.assert_array_equal(image.array[..., 2], found == 5)
    np.testing.assert_array_equal(image.array[..., 3], found == 9)
    assert label.shape == (2, 4, 5)


def test_objects_pass_through(dataset, found, tmp_path):
    objects = Objects(np.ones((2, 4, 5), int), lost=3)
    whole = with_priors(
        replace(dataset, read=lambda case: (*read(case), objects)), tmp_path, CLASSES
    )
    image, _, same = whole.read(whole.cases[0])
    assert image.array.shape == (2, 4, 5, 4)
    assert same is objects


def test_a_label_map_in_other_axes_is_turned_to_those_of_the_image(dataset, found, tmp_path):
    write_nifti(prior_path(tmp_path, "a/b"), Volume(found, AFFINE).oriented("RSA"))
    whole = with_priors(dataset, tmp_path, CLASSES)
    np.testing.assert_array_equal(whole.read(whole.cases[0])[0].array[..., 2], found == 5)


def test_the_digest_depends_on_the_label_map(dataset, found, tmp_path):
    whole = with_priors(dataset, tmp_path, CLASSES)
    before = whole.digest(whole.cases[0])
    write_nifti(prior_path(tmp_path, "a/b"), Volume(found * 0, AFFINE))
    assert whole.digest(whole.cases[0]) != before


def test_a_case_without_its_label_map_cannot_be_read(dataset, found, tmp_path):
    whole = with_priors(dataset, tmp_path, CLASSES)
    for function in (whole.read, whole.digest):
        with pytest.raises(DataError, match=r"c\.nii\.gz is missing: the first stage"):
            function(whole.cases[1])


def test_a_label_map_on_another_grid_or_with_other_values_is_refused(dataset, found, tmp_path):
    whole = with_priors(dataset, tmp_path, CLASSES)
    path = prior_path(tmp_path, "a/b")
    write_nifti(path, Volume(found, AFFINE @ np.diag([1, 1, 1.1, 1])))
    with pytest.raises(DataError, match="is not on the grid of its image"):
        whole.read(whole.cases[0])
    write_nifti(path, Volume(found + 1, AFFINE))
    with pytest.raises(DataError, match="label value 1, 6, 10 is not in the class map"):
        whole.read(whole.cases[0])


def test_the_box_of_the_priors_is_measured_apart(dataset, found, tmp_path):
    whole = with_priors(dataset, tmp_path, CLASSES)
    facts, _ = measure(whole.cases[0], whole)
    assert facts["prior_box"] == [[0, 2], [1, 4], [0, 3]]
    assert facts["box"] == [[0, 2], [0, 4], [0, 5]]
    assert "prior_box" not in measure(dataset.cases[0], dataset)[0]


def test_a_margin_is_rounded_up_to_voxels_and_ends_with_the_image():
    box, shape = [[10, 20], [1, 30], [4, 6]], [40, 31, 8]
    # 7 / 0.7 = 10 voxels exactly, also where the spacing has passed through float32;
    # 7 / 2 = 3.5, 4 voxels.
    spacing_mm = [np.float32(0.7), 2.0, 3.5]
    assert widened(box, shape, spacing_mm, 7.0) == [[0, 30], [0, 31], [2, 8]]
    assert widened(box, shape, spacing_mm, 0.0) == box


def test_the_region_of_interest_is_cut_out_and_put_back():
    image = np.zeros((6, 12, 10, 2), np.float32)
    image[..., 0] = np.arange(6 * 12 * 10).reshape(6, 12, 10) + 1
    image[2, 5:8, 4, 1] = 1
    plan = Plan("SAR", None, False, (ZSCORE, PRIOR), roi_margin_mm=4.0)
    prepared = prepare(Volume(image, AFFINE), None, plan)
    # Margins of 2 slices, 4 rows and 2 columns around [2, 3), [5, 8), [4, 5): [0, 5), [1, 12),
    # [2, 7) of the source, whose axes all run against SAR's: sizes 6, 12, 10 minus those.
    assert prepared.geometry["crop"] == [[1, 6], [0, 11], [3, 8]]
    expected = np.flip(image[0:5, 1:12, 2:7], (0, 1, 2))
    np.testing.assert_array_equal(prepared.image[..., 1], expected[..., 1])
    back = undo(np.ones(prepared.geometry["shape"], np.uint8), prepared.geometry)
    inside = np.zeros((6, 12, 10), bool)
    inside[0:5, 1:12, 2:7] = True
    np.testing.assert_array_equal(back, inside)


def test_an_empty_prior_keeps_the_whole_image():
    image = np.zeros((6, 12, 10, 2), np.float32)
    image[3, 4, 5, 0] = 1
    plan = Plan("SAR", None, True, (ZSCORE, PRIOR), roi_margin_mm=2.0)
    assert prepare(Volume(image, AFFINE), None, plan).image.shape == image.shape


def test_without_a_margin_the_crop_is_that_of_all_channels():
    plan = Plan("SAR", None, True, (ZSCORE, PRIOR))
    case = geometry((6, 12, 10), AFFINE, [[1, 3], [0, 12], [0, 10]], plan)
    assert case["crop"] == [[3, 5], [0, 12], [0, 10]]


def test_the_plan_knows_priors_by_their_names(dataset, found, tmp_path):
    from data_prep.fingerprint import make_fingerprint

    whole = with_priors(dataset, tmp_path, CLASSES)
    labelled = measure(whole.cases[0], whole)
    facts, samples = {"a": labelled[0]}, {"a": np.ones((5, 4), np.float32)}
    fingerprint = make_fingerprint(facts, samples)
    plan = make_plan(fingerprint, whole.channels, roi_margin_mm=5.0)
    assert plan.normalization[2:] == (PRIOR, PRIOR)
    assert plan.normalization[0]["scheme"] == "zscore"
    assert plan.num_priors == 2
    assert Plan.from_json(plan.as_json()) == plan
    plain = make_plan(fingerprint, whole.channels)
    assert "roi_margin_mm" not in plain.as_json()
    assert Plan.from_json(plain.as_json()) == plain
    with pytest.raises(ConfigError, match="needs the priors of a first stage"):
        make_plan(fingerprint, ("T1", "T2", "x", "y"), roi_margin_mm=5.0)


@pytest.mark.parametrize("margin", [-1.0, np.inf, np.nan])
def test_an_impossible_margin_is_refused(margin):
    with pytest.raises(ConfigError, match="a length in mm from 0"):
        check_margin(margin)
