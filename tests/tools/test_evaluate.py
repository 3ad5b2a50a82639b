import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tools.evaluate import main
from tools.evaluate import whole_cases

SPLITS = ("fold0", "fold1", "fold2")


@pytest.fixture(scope="module")
def run(mr_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(mr_run.folder, folder)
    return folder


@pytest.fixture(scope="module")
def rows(run):
    """All rows of cases.csv of all folds, by case and class."""
    found = {}
    for split in SPLITS:
        assert main(["--run", str(run), "--split", split, "--devices", "cpu"]) == 0
        with open(run / "evaluation" / split / "cases.csv", newline="") as file:
            found |= {(r["case"], r["class"]): r for r in csv.DictReader(file)}
    return found


def report_of(run, split):
    return json.loads((run / "evaluation" / split / "results.json").read_text())


def test_a_network_that_is_right_scores_high(rows):
    assert {case for case, _ in rows} == {f"case_{n}" for n in range(6)}
    for number in range(5):
        assert float(rows[f"case_{number}", "lesion"]["dice"]) > 0.9
        assert float(rows[f"case_{number}", "background"]["dice"]) > 0.99


def test_what_is_found_where_the_label_has_nothing_scores_zero(rows):
    row = rows["case_5", "lesion"]
    assert float(row["dice"]) == 0
    assert row["accuracy"] == ""
    assert row["true_voxels"] == "0"
    assert int(row["predicted_voxels"]) > 0


def test_scores_are_those_of_the_source_grid(rows, mr_run):
    from segkit.io import read_label

    truth = read_label(mr_run.source / "labelsTr" / "case_1.nii.gz").array == 7
    row = rows["case_1", "lesion"]
    assert int(row["true_voxels"]) == truth.sum()
    assert int(rows["case_1", "background"]["true_voxels"]) == (~truth).sum()
    ml = truth.sum() * 2.5 * 1.1 * 0.9 / 1000
    assert float(row["true_ml"]) == pytest.approx(ml, rel=1e-4)


def test_evaluation_and_prediction_agree(rows, mr_run, tmp_path):
    from segkit.io import read_label
    from tools import predict

    source = mr_run.source / "imagesTr" / "case_2_0000.nii.gz"
    arguments = ["--run", mr_run.folder, "--input", source, "--output", tmp_path / "m.nii.gz"]
    assert predict.main([str(a) for a in arguments]) == 0
    voxels = (read_label(tmp_path / "m.nii.gz").array == 7).sum()
    assert int(rows["case_2", "lesion"]["predicted_voxels"]) == voxels


def test_the_summary_follows_from_the_cases(rows, run):
    for split in SPLITS:
        report = report_of(run, split)
        dice = [float(rows[case, "lesion"]["dice"]) for case in report["per_case"]]
        assert report["cases"] == len(dice)
        assert report["mean_foreground_dice"] == pytest.approx(np.mean(dice))
        assert report["classes"][1]["dice"] == pytest.approx(np.mean(dice))
        low, high = report["mean_foreground_dice_interval"]
        assert min(dice) <= low <= np.mean(dice) <= high <= max(dice)


def test_pictures_of_three_cases_are_written(rows, run):
    for name in ("worst", "median", "best"):
        picture = np.asarray(
            Image.open(run / "evaluation" / "fold0" / f"{name}.png").convert("RGB")
        )
        assert picture.std() > 20


def test_the_table_names_classes_and_folder(run, rows, capsys):
    assert main(["--run", str(run)]) == 0
    out = capsys.readouterr().out
    assert "fold0" in out
    for word in ("background", "lesion", "mean foreground", "95 % interval", "results.json"):
        assert word in out


def test_evaluating_again_replaces_the_folder(run, rows):
    stray = run / "evaluation" / "fold1" / "stray"
    stray.write_text("")
    before = report_of(run, "fold1")
    assert main(["--run", str(run), "--split", "fold1"]) == 0
    assert not stray.exists()
    assert report_of(run, "fold1") == before
    assert {p.name for p in (run / "evaluation").iterdir()} == set(SPLITS)


def test_a_case_is_put_together_from_its_chunks(mr_run, tmp_path):
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source
    from data_prep.manifest import load_manifest

    options = Options(
        layout="nnunet", folds=3, spacing_mm=(2.0, 1.0, 1.0), chunk=10, chunk_overlap=4
    )
    source = str(mr_run.source)
    chunked, _ = convert(
        scan_source("nnunet", source), tmp_path / "chunked", source=source, options=options
    )
    assert sum(shard["records"] for shard in chunked["shards"]) > 6
    whole = load_manifest(mr_run.data)
    expected = {case[0]: case[1:] for case in whole_cases(mr_run.data, whole, "fold0")}
    found = {case[0]: case[1:] for case in whole_cases(tmp_path / "chunked", chunked, "fold0")}
    assert found.keys() == expected.keys()
    for case, (image, label, truth) in expected.items():
        # Half a step of 16 bits over about 4 deviations, in each of the two.
        np.testing.assert_allclose(found[case][0], image, atol=2e-4)
        np.testing.assert_array_equal(found[case][1], label)
        np.testing.assert_array_equal(found[case][2], truth)


def test_unknown_splits_and_other_data_are_refused(run, mr_run, tmp_path, mistake):
    assert "Known: fold0, fold1, fold2, val." in mistake(main, "--run", run, "--split", "test")
    line = mistake(main, "--run", run, "--data", tmp_path)
    assert "no prepared data set" in line
    other = tmp_path / "other"
    shutil.copytree(mr_run.data, other)
    manifest = json.loads((other / "dataset.json").read_text())
    manifest["classes"][1]["value"] = 3
    (other / "dataset.json").write_text(json.dumps(manifest))
    assert "'classes' differs" in mistake(main, "--run", run, "--data", other)


@pytest.fixture(scope="module")
def membrane_run(tmp_path_factory, make_threshold_model):
    """Run on images of two cells, 8 and 7 columns wide; of the odd ones the membrane has a gap.

    The network takes for membrane what is dark. The masks do not show the gaps.
    """
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source
    from segkit.config import config_from_dict
    from segkit.training.run import create_run

    root = tmp_path_factory.mktemp("membrane")
    for name in ("images", "masks"):
        (root / "isbi" / name).mkdir(parents=True)
    for number in range(4):
        image = np.full((16, 16), 200, np.uint8)
        image[:, 8] = 40
        Image.fromarray(np.where(image < 100, 0, 255).astype(np.uint8)).save(
            root / "isbi" / "masks" / f"{number}.png"
        )
        image[5, 8] = 200 if number % 2 else 40
        Image.fromarray(image).save(root / "isbi" / "images" / f"{number}.png")
    labels = {"labels": "membrane=0,interior=255"}
    source = str(root / "isbi")
    manifest, _ = convert(
        scan_source("images", source, **labels),
        root / "data",
        source=source,
        options=Options(layout="images", layout_options=labels, folds=2),
    )
    config = {
        "model": {"name": "unet"},
        "data": {"path": str(root / "data"), "patch_size": [16, 16]},
        "loss": {"name": "ce_dice"},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    create_run(root / "run", config_from_dict(config), manifest)
    make_threshold_model((16, 16), -1.0).save(root / "run" / "model.keras")
    return root / "run"


def test_segments_between_membranes_are_scored(membrane_run, capsys):
    rows = []
    for split in ("fold0", "fold1"):
        arguments = ["--run", str(membrane_run), "--split", split, "--boundary", "membrane"]
        assert main(arguments) == 0
        folder = membrane_run / "evaluation" / split
        with open(folder / "boundary.csv", newline="") as file:
            rows += list(csv.DictReader(file))
        report = report_of(membrane_run, split)["boundary"]
        decided = [float(r["v_rand"]) for r in rows[-20:] if r["threshold"] == "decided"]
        assert report["class"] == "membrane"
        assert report["v_rand"] == pytest.approx(np.mean(decided))
        assert report["best_threshold"]["v_rand"] >= report["v_rand"]
        assert np.asarray(Image.open(folder / "segments.png").convert("RGB")).std() > 20
    assert "V_rand" in capsys.readouterr().out
    assert len(rows) == 4 * 10
    for row in rows:
        if row["threshold"] == "decided":
            # Merged: 2 (128^2 + 112^2) / (240^2 + 128^2 + 112^2) = 0.6686, one pixel of 256.
            gap = int(row["case"]) % 2
            assert float(row["v_rand"]) == pytest.approx(0.66864 if gap else 1, abs=1e-5)
            assert float(row["v_info"]) == pytest.approx(0 if gap else 1, abs=1e-9)
            assert float(row["pixel_error"]) == pytest.approx(gap / 256)
            assert row["true_segments"] == "2"
            assert row["predicted_segments"] == str(2 - gap)


def test_without_a_boundary_no_segments_are_scored(membrane_run):
    assert main(["--run", str(membrane_run), "--split", "fold0"]) == 0
    assert "boundary" not in report_of(membrane_run, "fold0")
    assert not (membrane_run / "evaluation" / "fold0" / "boundary.csv").exists()


def test_an_unknown_boundary_is_refused(membrane_run, mistake):
    line = mistake(main, "--run", membrane_run, "--boundary", "membran")
    assert "Did you mean 'membrane'" in line
