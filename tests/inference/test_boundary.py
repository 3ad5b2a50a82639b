import csv

import numpy as np
import pytest
from PIL import Image

from segkit.errors import ConfigError
from segkit.inference.boundary import THRESHOLDS
from segkit.inference.boundary import boundary_index
from segkit.inference.boundary import boundary_lines
from segkit.inference.boundary import score_boundary
from segkit.inference.boundary import summarise_boundary
from segkit.inference.boundary import write_boundary
from segkit.inference.overlay import Slice
from segkit.outputs import Outputs

# Two slices of two cells, 3 and 4 columns wide and 5 rows high; class 0 is the membrane.
TRUTH = np.ones((2, 5, 8), int)
TRUTH[:, :, 3] = 0
MERGED = 2 * (9 + 16) / (49 + 9 + 16)


def probabilities(gap):
    """Probability of membrane: 0.95 on it, but `gap` at one of its pixels in the second slice."""
    found = np.where(TRUTH == 0, 0.95, 0.02)
    found[1, 2, 3] = gap
    return found


def score(gap, truth=TRUTH, **options):
    found = probabilities(gap)
    rows = score_boundary(truth, (found < 0.5).astype(int), found, 0, **options)
    return {row["threshold"]: row for row in rows}


def test_a_case_is_the_mean_of_its_slices():
    decided = score(0.25)["decided"]
    assert decided["v_rand"] == pytest.approx((1 + MERGED) / 2)
    assert decided["v_info"] == pytest.approx(0.5)
    assert decided["pixel_error"] == pytest.approx(1 / 80)
    assert (decided["true_segments"], decided["predicted_segments"]) == (4, 3)


def test_each_threshold_is_scored():
    rows = score(0.25)
    assert list(rows) == ["decided", *THRESHOLDS]
    whole = [t for t in THRESHOLDS if rows[t]["v_rand"] == pytest.approx(1)]
    assert whole == [0.1, 0.2]


def test_ignored_voxels_count_for_nothing():
    truth = TRUTH.copy()
    truth[1, :, 4:] = 2  # one of the two cells that the gap joins
    decided = score(0.25, truth, ignore_label=2)["decided"]
    assert decided["v_rand"] == pytest.approx(1)
    assert decided["pixel_error"] == pytest.approx((0 + 1 / 20) / 2)
    assert decided["true_segments"] == 3


def test_a_slice_without_segments_is_left_out():
    truth = TRUTH.copy()
    truth[1] = 0
    assert score(0.95, truth)["decided"]["v_rand"] == pytest.approx(1)
    nothing = score(0.95, np.zeros_like(TRUTH))["decided"]
    assert nothing["v_rand"] is None
    assert nothing["pixel_error"] == pytest.approx(7 / 8)


def test_the_summary_has_the_masks_scores_and_the_best_threshold():
    cases = [list(score(gap).values()) for gap in (0.25, 0.35, 0.95)]
    report = summarise_boundary("membrane", cases)
    assert report["v_rand"] == pytest.approx((1 + MERGED + 1) / 3)
    low, high = report["v_rand_interval"]
    assert (1 + MERGED) / 2 <= low <= report["v_rand"] <= high <= 1
    # 0.1 and 0.2 close all gaps; the first is taken
    assert report["best_threshold"]["threshold"] == 0.1
    assert report["best_threshold"]["v_rand"] == pytest.approx(1)
    text = "\n".join(boundary_lines(report, "{:.3f}".format))
    assert f"V_rand {report['v_rand']:.3f}" in text
    assert "V_rand 1.000, V_info 1.000 at 0.1" in text


def test_the_table_and_a_picture_of_the_worst_case_are_written(tmp_path):
    slice_ = Slice(np.zeros((5, 8), np.uint8), TRUTH[1], (probabilities(0.2)[1] < 0.5) * 1, 1.0)
    cases = {name: (list(score(gap).values()), slice_) for name, gap in (("a", 0.9), ("b", 0.2))}
    write_boundary(tmp_path, "membrane", cases, [{"name": "membrane"}, {"name": "interior"}])
    with open(tmp_path / "boundary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["case"] for r in rows] == ["a"] * 10 + ["b"] * 10
    assert float(rows[10]["v_rand"]) == pytest.approx((1 + MERGED) / 2)
    picture = np.asarray(Image.open(tmp_path / "segments.png").convert("RGB"))
    left, right = np.split(picture[picture.shape[0] // 2], 2)
    # The truth has two cells with a line between them, the prediction one.
    assert len(np.unique(left, axis=0)) > len(np.unique(right, axis=0))


def test_only_classes_can_be_boundaries():
    classes = [{"name": "membrane", "value": 0}, {"name": "interior", "value": 255}]
    assert boundary_index("membrane", Outputs(classes)) == 0
    assert boundary_index(None, Outputs(classes)) is None
    with pytest.raises(ConfigError, match="Did you mean 'membrane'"):
        boundary_index("membranes", Outputs(classes))
    with pytest.raises(ConfigError, match="predicts regions"):
        boundary_index("membrane", Outputs(classes, regions={"all": [1]}, class_order=(1,)))
