"""Methods without training in predict and evaluate, on the data of the network's tests."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from segkit.io import read_label
from segkit.io.nifti import write_nifti
from segkit.volume import Volume
from tools import evaluate
from tools import predict

ROOT = Path(__file__).resolve().parents[2]
SEEDED = ("region_growing", "--set", "seeds={1: [[0.5, 0.5, 0.5]]}")
SEEDED += ("--set", "seed_units=fraction", "--set", "tolerance=1.5")


def call(tool, *arguments):
    assert tool.main([str(a) for a in arguments]) == 0


def scored(folder, name="cases.csv"):
    with open(folder / "evaluation" / "fold0" / name, newline="") as file:
        return {(row["case"], row["class"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def evaluated(labelled_mr_run, tmp_path_factory):
    """Folder of the report of region growing on fold 0."""
    out = tmp_path_factory.mktemp("methods") / "report"
    call(evaluate, "--method", *SEEDED, "--data", labelled_mr_run.data, "--fold", 0, "--out", out)
    return out


def test_a_mask_of_class_indices_lies_on_the_grid_of_the_input(mr_run, tmp_path):
    source = mr_run.source / "imagesTr" / "case_0_0000.nii.gz"
    given = ("--method", "otsu", "--set", "smooth_mm=0.5", "--set", "channel=0")
    call(predict, *given, "--input", source, "--output", tmp_path / "mask.nii.gz")
    image, mask = nibabel.load(source), nibabel.load(tmp_path / "mask.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-6)
    found = read_label(tmp_path / "mask.nii.gz").array
    truth = read_label(mr_run.source / "labelsTr" / "case_0.nii.gz").array == 7
    assert 2 * (truth & (found == 1)).sum() / (truth.sum() + (found == 1).sum()) > 0.95
    report = json.loads((tmp_path / "mask.json").read_text())
    assert (report["method"], report["options"]) == ("otsu", {"smooth_mm": 0.5, "channel": 0})
    assert [entry["name"] for entry in report["classes"]] == ["background", "class 1"]
    assert report["classes"][1]["voxels"] == (found == 1).sum()


def test_a_picture_is_segmented_too(tmp_path):
    pixels = np.full((12, 20), 40, np.uint8)
    pixels[3:7, 4:9] = 200
    Image.fromarray(pixels).save(tmp_path / "cell.png")
    given = ("--method", "multi_otsu", "--set", "classes=[0, 2]")
    call(predict, *given, "--input", tmp_path / "cell.png", "--output", tmp_path / "m.png")
    mask = np.asarray(Image.open(tmp_path / "m.png"))
    np.testing.assert_array_equal(mask, np.where(pixels == 200, 2, 0))


def test_with_a_data_set_prediction_and_evaluation_agree(labelled_mr_run, evaluated, tmp_path):
    case = next(case for case, name in scored(evaluated) if name == "lesion")
    source = labelled_mr_run.source / "imagesTr" / f"{case}_0000.nii.gz"
    given = ("--method", *SEEDED, "--data", labelled_mr_run.data)
    call(predict, *given, "--input", source, "--output", tmp_path / "m.nii.gz")
    mask = read_label(tmp_path / "m.nii.gz").array
    assert set(np.unique(mask)) == {0, 7}
    assert int(scored(evaluated)[case, "lesion"]["predicted_voxels"]) == (mask == 7).sum()
    assert json.loads((tmp_path / "m.json").read_text())["classes"][1]["name"] == "lesion"


def test_the_report_is_that_of_a_network(evaluated, labelled_mr_run):
    folder = evaluated / "evaluation" / "fold0"
    assert {path.name for path in folder.iterdir()} == {
        *("results.json", "cases.csv", "worst.png", "median.png", "best.png")
    }
    report = json.loads((folder / "results.json").read_text())
    assert report["method"] == "region_growing"
    assert report["options"]["tolerance"] == 1.5
    assert report["split"] == "fold0"
    dice = [float(row["dice"]) for (_, name), row in scored(evaluated).items() if name == "lesion"]
    assert report["mean_foreground_dice"] == pytest.approx(np.mean(dice))
    assert min(dice) > 0.8
    low, high = report["mean_foreground_dice_interval"]
    assert low <= np.mean(dice) <= high
    for case, name in scored(evaluated):
        label = read_label(labelled_mr_run.source / "labelsTr" / f"{case}.nii.gz").array
        expected = (label == (7 if name == "lesion" else 0)).sum()
        assert int(scored(evaluated)[case, name]["true_voxels"]) == expected


def test_reports_go_beside_the_runs(phantom_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ("--method", "multi_otsu", "--set", "classes=[0, 0, 1, 3, 4]", "--set", "smooth_mm=2")
    call(evaluate, *given, "--data", phantom_data)
    rows = scored(Path("runs") / "multi_otsu-phantom")
    assert float(rows[next(iter(rows))[0], "spine"]["dice"]) > 0.8
    out = capsys.readouterr().out
    assert "multi_otsu on fold0 of phantom-ct: 1 cases" in out
    assert str(Path("runs/multi_otsu-phantom/evaluation/fold0")) in out


def test_thresholds_are_in_hounsfield_units(phantom_data, tmp_path):
    given = ("--method", "hysteresis", "--set", "classes=[0, 4]", "--set", "smooth_mm=3")
    given += ("--set", "low=200", "--set", "high=240")
    call(evaluate, *given, "--data", phantom_data, "--out", tmp_path)
    rows = scored(tmp_path)
    assert float(rows[next(iter(rows))[0], "spine"]["dice"]) > 0.8


def test_no_tensorflow_is_imported(phantom_data, mr_run, tmp_path):
    source = mr_run.source / "imagesTr" / "case_0_0000.nii.gz"
    code = (
        "import sys\nfrom tools import evaluate, predict\n"
        f"data, out = {str(phantom_data)!r}, {str(tmp_path)!r}\n"
        "assert evaluate.main(['--method', 'otsu', '--data', data, '--out', out]) == 0\n"
        "given = ['--method', 'otsu', '--output', out + '/m.nii.gz', '--input']\n"
        f"assert predict.main([*given, {str(source)!r}]) == 0\n"
        f"assert predict.main([*given, {str(source)!r}, '--data', {str(mr_run.data)!r}]) == 0\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "otsuu"), "Did you mean 'otsu'"),
        (("--method", "otsu", "--set", "tolerance=1"), "has no option 'tolerance'"),
        (("--method", "otsu", "--set", "channel=2"), "has 1 channel(s)"),
        (("--method", "otsu", "--set", "smooth_mm"), "must be like key=value"),
        (("--method", "otsu", "--set", "smooth_mm=[1"), "not valid YAML"),
        (("--method", "canny", "--set", "low=1e-2"), "write 0.01"),
        (("--method", "otsu", "--mirror"), "--mirror goes with --run"),
        (("--method", "otsu", "--devices", "cpu"), "--devices goes with --run"),
        (("--run", "x", "--set", "channel=1"), "--set goes with --method"),
        (
            ("--method", "region_growing", "--set", "seeds={1: [[900, 0, 0]]}"),
            "is outside the image, which spans x ",
        ),
    ],
)
def test_mistakes_are_one_line_in_both_tools(arguments, message, mr_run, tmp_path, mistake):
    source = mr_run.source / "imagesTr" / "case_0_0000.nii.gz"
    output = tmp_path / "m.nii.gz"
    assert message in mistake(predict.main, *arguments, "--input", source, "--output", output)
    assert not output.exists()
    line = mistake(evaluate.main, *arguments, "--data", mr_run.data)
    assert message in line


def test_mistakes_of_evaluation(mr_run, tmp_path, mistake):
    otsu = ("--method", "otsu")
    assert "--method needs --data" in mistake(evaluate.main, *otsu)
    line = mistake(evaluate.main, *otsu, "--data", mr_run.data, "--fold", 7)
    assert "Known: fold0, fold1, fold2, val." in line
    assert "goes with --method" in mistake(evaluate.main, "--run", "x", "--out", tmp_path)
    wide = ("--method", "region_growing", "--set", "seeds={1: [[900, 0, 0]]}")
    assert "error: case case_" in mistake(evaluate.main, *wide, "--data", mr_run.data)


def test_mistakes_of_prediction(mr_run, tmp_path, mistake):
    flat = Volume(np.full((3, 4, 5), 7, np.int16))
    write_nifti(tmp_path / "flat.nii.gz", flat)
    write_nifti(tmp_path / "two.nii.gz", Volume(np.zeros((3, 4, 5, 2), np.int16)))
    given = ("--method", "otsu", "--output", tmp_path / "m.nii.gz", "--input")
    assert "is 7 everywhere" in mistake(predict.main, *given, tmp_path / "flat.nii.gz")
    line = mistake(predict.main, *given, tmp_path / "two.nii.gz", "--data", mr_run.data)
    assert "the data set takes 1 channel(s) (MRI), --input has 2" in line
    unlabelled = json.loads((mr_run.data / "dataset.json").read_text()) | {"classes": []}
    (tmp_path / "unlabelled").mkdir()
    (tmp_path / "unlabelled" / "dataset.json").write_text(json.dumps(unlabelled))
    data = ("--data", tmp_path / "unlabelled")
    assert "has no labels" in mistake(predict.main, *given, "x", *data)
    assert "has no labels" in mistake(evaluate.main, "--method", "otsu", *data)
    for option in (("--probabilities", tmp_path / "p.nii.gz"), ("--covariates", "age=3")):
        line = mistake(predict.main, *given, "x", *option)
        assert f"{option[0]} goes with --run" in line
    assert "--missing goes with --run" in mistake(predict.main, *given, "x", "--missing", "T1")
    assert "goes with --method" in mistake(
        predict.main, "--run", "x", "--data", mr_run.data, *given[2:], "x"
    )
