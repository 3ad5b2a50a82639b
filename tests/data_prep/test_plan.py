"""Planning rules, checked against what nnU-Net's source does with the same numbers."""

import json

import numpy as np
import pytest

from data_prep.convert import Options
from data_prep.fingerprint import Fingerprint
from data_prep.plan import Plan
from data_prep.plan import make_plan
from data_prep.plan import target_spacing
from segkit.errors import ConfigError
from segkit.errors import ShapeError

FACTS = {
    "mean": 90.0,
    "std": 30.0,
    "percentile_00_5": -50.0,
    "percentile_99_5": 250.0,
    "lowest": -1000.0,
    "highest": 3000.0,
}


def fingerprint(spacings, shapes=((64, 64, 64),), relative=1.0, flat=False, **facts):
    spacings = np.array(spacings, dtype=float).reshape(-1, 3)
    return Fingerprint(
        spacings_mm=spacings,
        shapes=np.broadcast_to(shapes, spacings.shape),
        relative_size=relative,
        flat=flat,
        intensities=(FACTS | facts,),
        class_voxels=np.array([10, 1]),
        notes={},
    )


def test_target_spacing_is_the_median():
    spacings = [[1, 2, 1], [3, 2, 1], [2, 5, 1]]
    np.testing.assert_array_equal(target_spacing(spacings, [[64] * 3] * 3), [2, 2, 1])


def test_a_coarse_and_short_axis_gets_its_tenth_percentile():
    # Median 10 > 3 * 1 and 20 * 3 < 256: percentile 10 of (4, 10, 10) is 4 + 0.2 * 6 = 5.2.
    spacings = [[4, 1, 1], [10, 1, 1], [10, 1, 1]]
    target = target_spacing(spacings, [[20, 256, 256]] * 3)
    np.testing.assert_allclose(target, [5.2, 1, 1])


def test_a_coarse_but_long_axis_keeps_its_median():
    spacings = [[4, 1, 1], [10, 1, 1], [10, 1, 1]]
    np.testing.assert_allclose(target_spacing(spacings, [[90, 256, 256]] * 3), [10, 1, 1])


def test_the_tenth_percentile_never_becomes_finer_than_the_other_axes():
    spacings = [[0.5, 1, 1], [0.5, 1, 1], [10, 1, 1], [10, 1, 1], [10, 1, 1]]
    target = target_spacing(spacings, [[20, 256, 256]] * 5)
    np.testing.assert_allclose(target, [1 + 1e-5, 1, 1])  # percentile 10 is 0.5, finer than 1


@pytest.mark.parametrize(
    ("spacing", "orientation", "prepared"),
    [
        ([1, 1, 3], "SAR", (1, 1, 3)),
        ([1, 1, 3.1], "RSA", (3.1, 1, 1)),
        ([1, 8, 2], "ASR", (8, 1, 2)),
        ([9, 1, 2], "SAR", (9, 1, 2)),
    ],
)
def test_an_axis_over_three_times_coarser_comes_first(spacing, orientation, prepared):
    plan = make_plan(fingerprint(spacing), ("MRI",))
    assert plan.orientation == orientation
    assert plan.spacing_mm == prepared


def test_orientation_and_spacing_can_be_given():
    plan = make_plan(
        fingerprint([5, 1, 2]), ("MRI",), spacing_mm=(1.0, 2.0, 3.0), orientation="LPS"
    )
    assert (plan.orientation, plan.spacing_mm) == ("LPS", (1.0, 2.0, 3.0))
    assert make_plan(fingerprint([5, 1, 2]), ("MRI",), spacing_mm="keep").spacing_mm is None


def test_pictures_keep_their_grid_and_their_borders():
    plan = make_plan(fingerprint([1, 1, 1], [(1, 64, 64)], flat=True), ("gray",))
    assert plan.spacing_mm is None
    assert not plan.crop_to_nonzero


@pytest.mark.parametrize(
    ("channel", "facts", "relative", "expected"),
    [
        ("CT", {}, 0.5, {"scheme": "ct", "clip": [-50.0, 250.0], "mean": 90.0, "std": 30.0}),
        ("MRI", {}, 0.8, {"scheme": "zscore", "masked": False}),
        ("FLAIR", {}, 0.7, {"scheme": "zscore", "masked": True}),
        ("gray", {"lowest": 0, "highest": 255}, 1, {"scheme": "zscore", "masked": False}),
        ("red", {"lowest": 0, "highest": 255}, 1, {"scheme": "rescale", "low": 0, "high": 255}),
        ("G", {"lowest": 0, "highest": 4095}, 1, {"scheme": "rescale", "low": 0, "high": 65535}),
        ("blue", {"lowest": -1, "highest": 1}, 1, {"scheme": "zscore", "masked": False}),
    ],
)
def test_normalisation_follows_the_modality(channel, facts, relative, expected):
    plan = make_plan(fingerprint([1, 1, 1], relative=relative, **facts), (channel,))
    assert plan.normalization == (expected,)


def test_a_normalisation_can_be_asked_for():
    facts = fingerprint([1, 1, 1], [(1, 64, 64)], relative=1, lowest=0, highest=255)
    plan = make_plan(facts, ("red",), normalization="zscore")
    assert plan.normalization == ({"scheme": "zscore", "masked": False},)
    plan = make_plan(facts, ("prior:liver",), normalization="zscore")
    assert plan.normalization == ({"scheme": "prior"},)
    with pytest.raises(ConfigError, match="unknown normalization 'zscor'. Did you mean 'zscore'"):
        Options(layout="images", normalization="zscor")


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, float("nan"), 1), "isotropic"])
def test_a_spacing_must_be_three_positive_lengths(spacing):
    with pytest.raises(ConfigError, match="three positive lengths in mm or 'keep'"):
        make_plan(fingerprint([1, 1, 1]), ("MRI",), spacing_mm=spacing)


def test_an_orientation_must_name_each_direction_once():
    with pytest.raises(ShapeError, match="one of R/L, A/P and S/I"):
        make_plan(fingerprint([1, 1, 1]), ("MRI",), orientation="SAP")


def test_a_plan_survives_json():
    plan = make_plan(fingerprint([5, 1, 1]), ("CT",))
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
