import json

import numpy as np
import pytest
from PIL import Image

from segkit.errors import DataError
from segkit.inference.cross_validation import fold_table
from segkit.inference.cross_validation import merge_cases
from segkit.inference.cross_validation import merge_folds
from segkit.inference.cross_validation import save_summary

CLASSES = [{"name": "background", "value": 0}, {"name": "tumour", "value": 1}]
CLASSES += [{"name": "cyst", "value": 4}]
#      fold: case: Dice of background, tumour, cyst; a class absent from both masks has none
FOLDS = {
    0: {"a": [1.0, 0.8, None], "b": [1.0, 0.6, 0.5]},
    1: {"c": [0.9, 0.9, None]},
    2: {"d": [0.8, 0.1, 0.3], "e": [0.7, None, 0.1]},
}


@pytest.fixture
def evaluations(tmp_path):
    """Writes the folders of evaluations; gives the mapping to them."""

    def write(folds, classes=CLASSES):
        for fold, cases in folds.items():
            folder = tmp_path / str(fold)
            folder.mkdir(exist_ok=True)
            per_case = {
                case: {"dice": dice, "iou": [d and d / 2 for d in dice], "accuracy": dice}
                for case, dice in cases.items()
            }
            report = {"classes": [{**c, "dice": 9.0} for c in classes], "per_case": per_case}
            (folder / "results.json").write_text(json.dumps(report))
            rows = [f"{case},{dice[1]}\n" for case, dice in cases.items()]
            (folder / "cases.csv").write_text("case,tumour\n" + "".join(rows))
        return {fold: tmp_path / str(fold) for fold in folds}

    return write


def test_means_are_over_cases_and_deviations_over_folds(evaluations):
    report = merge_folds(evaluations(FOLDS))
    assert report["cases"] == 5
    background, tumour, cyst = report["classes"]
    assert background["dice"] == pytest.approx(4.4 / 5)
    assert tumour["dice"] == pytest.approx((0.8 + 0.6 + 0.9 + 0.1) / 4)
    assert cyst["dice"] == pytest.approx((0.5 + 0.3 + 0.1) / 3)
    assert (background["absent"], tumour["absent"], cyst["absent"]) == (0, 1, 2)
    assert report["mean_foreground_dice"] == pytest.approx((0.6 + 0.3) / 2)
    assert tumour["iou"] == pytest.approx(tumour["dice"] / 2)
    # Tumour per fold: .7, .9, .1, mean 17/30; cyst: .5, none, .2, mean .35.
    folds = report["per_fold"].values()
    assert [f["classes"][1]["dice"] for f in folds] == pytest.approx([0.7, 0.9, 0.1])
    assert [f["classes"][2]["dice"] for f in folds] == [0.5, None, 0.2]
    assert tumour["dice_sd"] == pytest.approx((156 / 900) ** 0.5)  # (16 + 100 + 196) / 900 / 2
    assert cyst["dice_sd"] == pytest.approx(0.15 * 2**0.5)
    # Mean foreground: (.7 + .5) / 2, .9, (.1 + .2) / 2: mean .55, squares .0025 + .1225 + .16.
    assert report["mean_foreground_dice_sd"] == pytest.approx((0.285 / 2) ** 0.5)


def test_the_interval_is_over_all_cases_and_not_over_folds(evaluations):
    # All cases of a fold are alike, so an interval over folds would be as wide for 20 as for 2.
    def width(cases):
        folds = {
            fold: {f"{fold}-{n}": [1.0, dice, None] for n in range(cases)}
            for fold, dice in enumerate((0.5, 0.7))
        }
        low, high = merge_folds(evaluations(folds))["classes"][1]["dice_interval"]
        return high - low

    # 1.96 standard errors either side: 2 * 1.96 * .1 / sqrt(200)
    assert width(100) == pytest.approx(0.0277, rel=0.15)
    assert width(2) > 0.15


def test_every_case_stands_once_with_its_fold(evaluations):
    folders = evaluations(FOLDS)
    report = merge_folds(folders)
    assert {case: c["fold"] for case, c in report["per_case"].items()} == {
        "a": 0, "b": 0, "c": 1, "d": 2, "e": 2
    }  # fmt: skip
    assert report["per_case"]["e"]["dice"] == [0.7, None, 0.1]
    assert merge_cases(folders).splitlines() == [
        "fold,case,tumour", "0,a,0.8", "0,b,0.6", "1,c,0.9", "2,d,0.1", "2,e,None"
    ]  # fmt: skip


def test_a_case_in_two_folds_is_refused(evaluations):
    with pytest.raises(DataError, match="case c was scored by fold1 and fold2"):
        merge_folds(evaluations({**FOLDS, 2: {"c": [1.0, 1.0, 1.0]}}))


def test_folds_of_different_classes_are_refused(evaluations):
    folders = evaluations(FOLDS)
    folders |= evaluations({1: FOLDS[1]}, CLASSES[:2])
    with pytest.raises(DataError, match="fold0 and fold1 have different classes"):
        merge_folds(folders)


def test_a_damaged_report_is_named(evaluations):
    folders = evaluations(FOLDS)
    (folders[1] / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"results\.json"):
        merge_folds(folders)


def test_the_table_shows_folds_all_cases_interval_and_deviation(evaluations):
    lines = fold_table(merge_folds(evaluations(FOLDS))).splitlines()
    assert lines[0].split()[:5] == ["Dice", "fold0", "fold1", "fold2", "all"]
    tumour, cyst, mean = (line.split() for line in lines[2:5])
    assert tumour[1:5] == ["0.700", "0.900", "0.100", "0.600"]
    assert tumour[-1] == "0.416"
    assert cyst[1:5] == ["0.500", "-", "0.200", "0.300"]
    assert mean[2:6] == ["0.600", "0.900", "0.150", "0.450"]
    assert lines[6].startswith("IoU")
    assert lines[8].split()[1:5] == ["0.350", "0.450", "0.050", "0.300"]
    assert lines[-1].split() == ["cases", "2", "1", "2", "5"]
    assert len({len(line) for line in lines[:5]}) == 1


def test_one_fold_has_no_deviation_and_one_case_no_interval(evaluations):
    report = merge_folds(evaluations({3: {"a": [1.0, 0.5, None]}}))
    assert report["mean_foreground_dice_sd"] is None
    assert report["mean_foreground_dice_interval"] == [None, None]
    json.dumps(report, allow_nan=False)
    assert "0.500     -   -   -       -" in fold_table(report)


def test_the_picture_shows_each_fold_in_its_colour(evaluations, tmp_path):
    save_summary(tmp_path / "summary.png", merge_folds(evaluations(FOLDS)))
    picture = np.asarray(Image.open(tmp_path / "summary.png").convert("RGB")).reshape(-1, 3)
    for colour in ([0xE6, 0x9F, 0x00], [0x56, 0xB4, 0xE9], [0x00, 0x9E, 0x73]):
        assert (np.abs(picture.astype(int) - colour).max(axis=1) < 8).sum() > 20


def test_regions_are_merged_beside_the_classes(evaluations):
    folders = evaluations(FOLDS)
    classes = merge_folds(folders)["classes"]
    regions = [{"name": "whole", "classes": [1, 4]}, {"name": "core", "classes": [4]}]
    dice = {"a": [0.9, None], "b": [0.7, 0.5], "c": [0.5, None], "d": [0.3, 0.1], "e": [0.1, 0.3]}
    for folder in folders.values():
        report = json.loads((folder / "results.json").read_text())
        report["regions"] = regions
        for case, scores in report["per_case"].items():
            scores["regions"] = dict.fromkeys(("dice", "iou", "accuracy"), dice[case])
        (folder / "results.json").write_text(json.dumps(report))
    report = merge_folds(folders)
    whole, core = report["regions"]
    assert report["classes"] == classes
    assert whole["dice"] == pytest.approx(0.5)
    assert core["dice"] == pytest.approx(0.3)
    assert (whole["classes"], core["absent"]) == ([1, 4], 2)
    assert report["mean_region_dice"] == pytest.approx(0.4)
    # Whole per fold: .8, .5, .2.
    assert whole["dice_sd"] == pytest.approx(0.3)
    table = fold_table(report)
    assert ["whole", "0.800", "0.500", "0.200", "0.500"] in [
        x.split()[:5] for x in table.split("\n")
    ]
    assert "mean regions" in table
