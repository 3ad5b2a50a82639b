import csv
import json
import sys

import numpy as np
import pytest

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.inference.coco_json import write_coco
from segkit.inference.detections import Detections
from segkit.inference.detections import InstanceMap
from segkit.inference.detections import Truth
from segkit.inference.detections import instance_map
from segkit.inference.detections import separate
from segkit.inference.instance_report import instance_table
from segkit.inference.instance_report import method_table
from segkit.inference.instance_report import worst_median_best
from segkit.inference.instance_report import write_instance_pictures
from segkit.inference.instance_report import write_instances
from segkit.inference.instance_report import write_results
from segkit.inference.instance_scores import class_values
from segkit.inference.instance_scores import score_case
from segkit.inference.instance_summary import SCORES
from segkit.inference.instance_summary import summarise_instances

pytest.importorskip("pycocotools")
NAMES = ["background", "cell", "nucleus"]
TRUTH = np.zeros((20, 30), int)
TRUTH[2:8, 2:8], TRUTH[10:18, 2:12], TRUTH[3:5, 20:29] = 1, 2, 3


def true(labels=TRUTH, classes=(1, 1, 2), ignored=()):
    marks = np.isin(np.arange(1, len(classes) + 1), ignored)
    return Truth(np.asarray(labels), np.array(classes, np.int32), marks)


def found(labels=TRUTH, classes=(1, 1, 2), scores=None):
    scores = np.ones(len(classes)) if scores is None else scores
    return InstanceMap(
        np.asarray(labels, np.int32), np.array(scores, np.float32), np.array(classes, np.int32)
    )


def wider():
    """The truth but for the first object, found 6 x 8 in place of 6 x 6, and one that is extra."""
    labels = TRUTH.copy()
    labels[2:8, 8:10] = 1
    labels[12:16, 20:24] = 4
    return found(labels, (1, 1, 2, 1))


def test_a_case_is_scored_by_class_as_by_hand():
    case = score_case("a", true(), wider(), 3)
    cell, nucleus = (class_values(counted) for counted in case.classes)
    assert nucleus["dsb2018"] == nucleus["pq"] == nucleus["aji"] == 1
    # IoU 36/48 = 0.75, and 1; one extra. Up to 0.70 2 hits of 3, from 0.75 on 1 of 1 + 2 + 1.
    assert cell["dsb2018"] == pytest.approx((5 * 2 / 3 + 5 * 1 / 4) / 10)
    assert cell["dsb2018_50"] == pytest.approx(2 / 3)
    assert cell["pq"] == pytest.approx(1.75 / 2.5)
    assert cell["sq"] == pytest.approx(1.75 / 2)
    assert cell["dq"] == pytest.approx(2 / 2.5)
    assert cell["aji"] == pytest.approx((36 + 80) / (48 + 80 + 16))
    assert (cell["true_objects"], cell["predicted_objects"]) == (2, 3)
    assert (cell["hits"], cell["extra"], cell["missed"]) == (2, 1, 0)


def test_an_object_of_the_wrong_class_is_missed_and_extra():
    case = score_case("a", true(), found(classes=(1, 2, 2)), 3)
    cell, nucleus = (class_values(counted) for counted in case.classes)
    assert (cell["hits"], cell["extra"], cell["missed"]) == (1, 0, 1)
    assert (nucleus["hits"], nucleus["extra"], nucleus["missed"]) == (1, 1, 0)


def test_masks_that_overlap_are_painted_for_decisions_and_kept_for_precision():
    parts = separate(found())
    doubled = Detections(
        np.concatenate([parts.boxes, parts.boxes[:1]]),
        np.array([0.9, 0.8, 0.3, 0.6], np.float32),
        np.append(parts.classes, 1).astype(np.int32),
        [*parts.masks, parts.masks[0]],
        parts.shape,
    )
    case = score_case("a", true(), doubled, 3)
    cell, nucleus = (class_values(counted) for counted in case.classes)
    assert (cell["hits"], cell["extra"]) == (2, 0)  # the double is hidden
    assert nucleus["missed"] == 1  # its score is too low
    assert case.classes[0].froc[1].tolist() == [True, True, False]
    assert case.classes[1].froc[1].tolist() == [True]
    assert len(case.found) == 4


def test_a_map_is_a_decision_whatever_its_scores_unless_a_lowest_one_is_given():
    guess = found(scores=(0.9, 0.3, 0.4))
    hits = [
        [
            class_values(counted)["hits"]
            for counted in score_case("a", true(), guess, 3, **o).classes
        ]
        for o in ({}, {"min_score": 0.35}, {"min_score": 0.5})
    ]
    assert hits == [[2, 1], [1, 1], [1, 0]]


def test_ignored_objects_count_for_nothing():
    labels = np.where(TRUTH == 2, 0, TRUTH)
    both = [found(), found(np.unique(labels, return_inverse=True)[1].reshape(20, 30), (1, 2))]
    reports = []
    for guess in both:
        case = score_case("a", true(ignored=[2]), guess, 3)
        values = class_values(case.classes[0])
        assert (values["true_objects"], values["predicted_objects"]) == (1, 1)
        assert values["dsb2018"] == values["aji"] == values["pq"] == 1
        report = summarise_instances([case], NAMES, {}, resamples=3)
        reports.append(report["groups"]["all"]["classes"][0]["mask_ap"])
    assert reports == [pytest.approx(1), pytest.approx(1)]


def test_objects_that_vanished_from_a_map_count_for_nothing():
    truth = true(classes=(1, 1, 2, 1))
    case = score_case("a", truth, found(classes=(1, 1, 2, 2)), 3)
    for counted in case.classes:
        assert class_values(counted)["dsb2018"] == class_values(counted)["pq"] == 1
    assert len(case.truth) == len(case.found) == 3


def test_a_volume_is_scored_as_a_whole_and_its_boxes_are_not():
    labels = np.stack([TRUTH, TRUTH, np.where(TRUTH == 1, 1, 0)])
    guess = labels.copy()
    guess[2] = 0
    case = score_case("a", true(labels), found(guess), 3)
    report = summarise_instances([case], NAMES, {}, resamples=3)
    cell = report["groups"]["all"]["classes"][0]
    assert cell["sq"] == pytest.approx((2 / 3 + 1) / 2)
    # IoU 2/3 reaches four thresholds of ten, in order of ids: else half of recall, 51 of 101.
    assert cell["mask_ap50"] == pytest.approx(1)
    assert "box_ap" not in cell
    assert "box AP" not in instance_table(report)


def test_images_of_different_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"a: the objects found are of an image of shape \(5, 5\)"):
        score_case("a", true(), instance_map(np.zeros((5, 5))), 3)


def cases():
    nothing = np.zeros((20, 30), int)
    return [
        score_case("good", true(), found(), 3, group="stained"),
        score_case("fair", true(), wider(), 3, group="fluorescence"),
        score_case("bad", true(), found(nothing, ()), 3, group="fluorescence"),
        score_case("void", true(nothing, ()), found(nothing, ()), 3, group="stained"),
    ]


def test_the_summary_holds_means_over_cases_by_class_and_group():
    report = summarise_instances(cases(), NAMES, {"run": "r"}, resamples=200)
    json.dumps(report, allow_nan=False)
    assert report["run"] == "r"
    assert report["cases"] == 4
    assert list(report["groups"]) == ["all", "fluorescence", "stained"]
    cell, nucleus = report["groups"]["all"]["classes"]
    fair = (5 * 2 / 3 + 5 * 1 / 4) / 10
    assert cell["dsb2018"] == pytest.approx((1 + fair + 0) / 3)  # the empty case has no score
    assert cell["dsb2018_50"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert nucleus["dsb2018"] == pytest.approx((1 + 1 + 0) / 3)
    assert report["groups"]["all"]["mean"]["dsb2018"] == pytest.approx(((2 + 1 + fair) / 3) / 2)
    # Sums over cases: IoU 2 + 1.75; TP 2 + 2, FP 1, FN 2.
    assert cell["pq"] == pytest.approx(3.75 / (4 + 0.5 + 1))
    assert cell["count_error"] == pytest.approx((0 + 1 + 2 + 0) / 4)
    assert cell["count_bias"] == pytest.approx((0 + 1 - 2 + 0) / 4)
    # All hits but the missed case's come at once, with 1/4 false positive per case.
    assert cell["froc_curve"] == [
        [r, v] for r, v in zip((1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8), [0] + [4 / 6] * 6, strict=True)
    ]
    stained = report["groups"]["stained"]["classes"][0]
    assert report["groups"]["stained"]["cases"] == 2
    assert stained["dsb2018"] == stained["mask_ap"] == stained["box_ap"] == 1
    assert stained["dsb2018_interval"] == [1, 1]
    assert report["per_case"]["void"]["classes"][0]["dsb2018"] is None
    assert report["per_case"]["fair"]["group"] == "fluorescence"


def test_intervals_are_those_of_cases_drawn_anew():
    parts = cases()[:3]
    report = summarise_instances(parts, NAMES, {}, resamples=150)
    entry = report["groups"]["all"]["classes"][1]
    # Scores 1, 1, 0: means of three draws are 0, 1/3, 2/3, 1, each above a chance of 2.5 %.
    assert entry["dsb2018_interval"] == [0, 1]
    low, high = entry["mask_ap50_interval"]
    assert 0 <= low < entry["mask_ap50"] < high <= 1
    again = summarise_instances(parts, NAMES, {}, resamples=150)
    assert again["groups"] == report["groups"]
    alone = summarise_instances(parts[:1], NAMES, {}, resamples=10)
    assert alone["groups"]["all"]["classes"][0]["pq_interval"] == [None, None]


def test_average_precision_of_a_group_is_that_of_its_cases_alone():
    whole = summarise_instances(cases(), NAMES, {}, resamples=1)["groups"]["fluorescence"]
    alone = summarise_instances(cases()[1:3], NAMES, {}, resamples=1)["groups"]["all"]
    for name in SCORES:
        assert whole["classes"][0][name] == pytest.approx(alone["classes"][0][name])


def test_files_and_table_say_what_the_report_says(tmp_path):
    report = summarise_instances(cases(), NAMES, {"run": "r"}, resamples=20)
    write_results(tmp_path, report)
    write_instances(tmp_path, report)
    assert json.loads((tmp_path / "results.json").read_text()) == report
    with open(tmp_path / "instances.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["group"], r["class"]) for r in rows[:2]] == [
        ("good", "stained", "cell"),
        ("good", "stained", "nucleus"),
    ]
    assert len(rows) == 8
    assert (rows[2]["hits"], rows[2]["extra"], rows[6]["dsb2018"]) == ("2", "1", "")
    table = instance_table(report)
    assert "fluorescence: 2 cases" in table
    cell = report["groups"]["all"]["classes"][0]
    line = next(line for line in table.splitlines() if line.startswith("cell"))
    assert f"{cell['mask_ap']:.3f}" in line
    assert f"{cell['pq']:.3f}" in line


def test_methods_stand_side_by_side_on_the_same_cases_only():
    parts = cases()[:2]
    perfect = [score_case(c.case, true(), found(), 3, group=c.group) for c in parts]
    reports = {
        name: summarise_instances(scored, NAMES, {}, resamples=2)
        for name, scored in (("network", parts), ("watershed", perfect))
    }
    lines = method_table(reports).splitlines()
    assert lines[0] == "all: 2 cases"
    assert [line.split()[0] for line in lines[2:6:2]] == ["network", "watershed"]
    mean = reports["network"]["groups"]["all"]["mean"]
    assert f"{mean['dsb2018']:.3f}" in lines[2]
    assert set(lines[4].split()[1:-2]) == {"1.000"}
    other = summarise_instances(perfect[:1], NAMES, {}, resamples=2)
    with pytest.raises(DataError, match="watershed was scored on other cases than network"):
        method_table({"network": reports["network"], "watershed": other})


def test_the_worst_the_median_and_the_best_case_are_drawn(tmp_path):
    from PIL import Image

    parts = cases()
    report = summarise_instances(parts, NAMES, {}, resamples=1)
    ranks = worst_median_best(report)
    assert {rank: case for rank, (case, _) in ranks.items()} == {
        "worst": "bad",
        "median": "fair",
        "best": "good",
    }
    asked = []

    def load(case):
        asked.append(case)
        return np.random.default_rng(0).random((20, 30, 3)), true(ignored=[3]), wider()

    write_instance_pictures(tmp_path, report, load)
    assert asked == ["bad", "fair", "good"]
    with Image.open(tmp_path / "instances.png") as image:
        assert image.width > 500
    write_instance_pictures(tmp_path / "none", {"per_case": {}}, load)  # nothing to draw
    assert not (tmp_path / "none").exists()


def test_coco_json_is_read_back_by_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    images = {"one.png": wider(), "two.png": separate(found(scores=(0.9, 0.5, 0.25)))}
    write_coco(tmp_path / "found.json", images, NAMES)
    coco = COCO(tmp_path / "found.json")
    assert coco.loadCats([1, 2]) == [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
    assert coco.imgs[2] == {"id": 2, "file_name": "two.png", "height": 20, "width": 30}
    assert len(coco.getAnnIds(imgIds=[1])) == 4
    painted = np.zeros((20, 30), int)
    for number, entry in enumerate(coco.loadAnns(coco.getAnnIds(imgIds=[2])), start=1):
        mask = coco.annToMask(entry) > 0
        painted[mask] = number
        assert entry["area"] == mask.sum()
        x, y, width, height = map(int, entry["bbox"])
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        assert entry["score"] == pytest.approx((0.9, 0.5, 0.25)[number - 1])
    np.testing.assert_array_equal(painted, TRUTH)
    assert list(tmp_path.glob(".*")) == []


def test_a_folder_that_is_missing_and_a_module_that_is_missing_are_said(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cannot write"):
        write_coco(tmp_path / "none" / "found.json", {"a": found()}, NAMES)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.delitem(sys.modules, "pycocotools.mask", raising=False)
    with pytest.raises(ConfigError, match="need pycocotools"):
        score_case("a", true(), found(), 3)
