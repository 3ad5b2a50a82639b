"""The tool restore, on runs whose generators are known functions."""

import json

import numpy as np
import pytest
from PIL import Image

from segkit.config import config_from_dict
from segkit.io.dicom import write_series
from segkit.io.nifti import read_nifti
from segkit.io.nifti import write_nifti
from segkit.volume import Volume
from tests.inference.test_restorer import line
from tools.restore import main
from tools.restore import parse_slices

# (k, j, i) to RAS+ mm: slices to Inferior, rows to Posterior, columns to Left.
AFFINE = np.array([[0, 0, -0.9, 40], [0, -1.1, 0, 30], [-2.5, 0, 0, 20], [0, 0, 0, 1.0]])
SIDES = (4, 6, 6)
MR = {
    "orientation": "SAR",
    "spacing_mm": [2.5, 1.1, 0.9],
    "crop_to_nonzero": True,
    "normalization": [{"scheme": "zscore", "masked": False}],
}
PHOTO = {
    "orientation": "SAR",
    "spacing_mm": None,
    "crop_to_nonzero": False,
    "normalization": [{"scheme": "rescale", "low": 0, "high": 255}] * 3,
}


def make_run(folder, task, preprocess=MR, sides=SIDES, factor=2.0, offset=0.5, **manifest):
    from segkit.training.run import create_run

    channels = len(preprocess["normalization"])
    config = {
        "model": {"name": "translator"},
        "data": {"patch_size": list(sides)},
        "loss": {"name": "adversarial"},
        "task": {"name": task} if task else {},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    names = [f"channel{n}" for n in range(channels)]
    manifest = {"channels": names, "classes": [], "preprocess": preprocess, **manifest}
    create_run(folder, config_from_dict(config), manifest)
    model = line(factor, offset, sides, channels, mask=task == "inpainting")
    model.save(folder / "model.keras")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders by task; the inpainter makes the mean plus half a deviation everywhere."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "inpainting": make_run(root / "inpaint", "inpainting", factor=0.0),
        "enhancement": make_run(root / "enhance", "enhancement"),
        "style": make_run(
            root / "style",
            "style",
            factor=1.0,
            offset=0.0,
            style={
                "preprocess": {
                    "normalization": [
                        {"scheme": "ct", "clip": [-500.0, 500.0], "mean": -10.0, "std": 20.0}
                    ]
                }
            },
        ),
        "photo": make_run(root / "photo", "style", PHOTO, (8, 8), -1.0, 1.0),
    }


@pytest.fixture
def study(tmp_path):
    """Path of an image in LPI axes, and its array."""
    array = np.random.default_rng(0).integers(100, 900, (7, 9, 10)).astype(np.int16)
    write_nifti(tmp_path / "study.nii.gz", Volume(array, AFFINE))
    return tmp_path / "study.nii.gz", array


def restored(run, study, tmp_path, *more, output="out.nii.gz"):
    arguments = ["--run", run, "--input", study, "--output", tmp_path / output, *more]
    assert main([str(a) for a in arguments]) == 0
    return tmp_path / output


def test_an_image_is_enhanced_on_its_own_grid_and_in_its_own_units(runs, study, tmp_path, capsys):
    path, array = study
    output = restored(runs["enhancement"], path, tmp_path)
    found, source = read_nifti(output), read_nifti(path)
    np.testing.assert_allclose(found.affine, source.affine, atol=1e-6)
    assert found.array.dtype == array.dtype
    mean, std = array.mean(), array.std()
    np.testing.assert_allclose(found.array, 2 * array - mean + 0.5 * std, atol=0.51)
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["task"] == "enhancement"
    assert report["run"] == "enhance"
    assert report["made_by_a_network"]
    assert "rounded to integers" in report["notes"][-1]
    change = np.abs(found.array - array.astype(float))
    assert report["mean_absolute_change"] == pytest.approx(change.mean())
    assert report["values_changed"] == (change > 0).sum()
    shown = capsys.readouterr()
    assert "rounded to integers" in shown.err
    assert "enhancement by enhance" in shown.out


def test_holes_are_filled_and_no_other_voxel_changes(runs, study, tmp_path):
    path, array = study
    mask = np.zeros(array.shape, np.uint8)
    mask[2:4, 3:6, 1:7] = 1
    # The same grid with its axes in another order.
    write_nifti(tmp_path / "mask.nii.gz", Volume(mask, AFFINE).oriented("RAS"))
    options = ("--mask", tmp_path / "mask.nii.gz", "--picture")
    found = read_nifti(restored(runs["inpainting"], path, tmp_path, *options)).array
    np.testing.assert_array_equal(found[mask == 0], array[mask == 0])
    known = array[mask == 0]
    np.testing.assert_allclose(found[mask == 1], known.mean() + 0.5 * known.std(), atol=0.51)
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["voxels_filled"] == mask.sum()
    picture = np.asarray(Image.open(tmp_path / "out_before_after.png"))
    assert picture.shape == (9, 3 * 10, 3)
    before, marked, after = np.split(picture.astype(int), 3, axis=1)
    drawn = (marked != before).any(axis=-1)
    assert drawn.sum() == 3 * 6
    np.testing.assert_array_equal(before[~drawn], after[~drawn])


def test_whole_slices_are_filled(runs, study, tmp_path):
    path, array = study
    output = restored(runs["inpainting"], path, tmp_path, "--slices", "1,4-5")
    found = read_nifti(output).array
    changed = (found != array).mean(axis=(1, 2))
    assert (changed > 0.9).tolist() == [False, True, False, False, True, True, False]
    np.testing.assert_array_equal(changed[[0, 2, 3, 6]], 0)


def test_a_dicom_series_gives_the_same_as_nifti(runs, study, tmp_path):
    path, _ = study
    write_series(tmp_path / "series", read_nifti(path), modality="CT")
    expected = read_nifti(restored(runs["enhancement"], path, tmp_path)).oriented("SAR")
    output = restored(runs["enhancement"], tmp_path / "series", tmp_path, output="dicom.nii")
    found = read_nifti(output).oriented("SAR")
    np.testing.assert_allclose(found.array, expected.array, atol=1)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)


def test_a_translated_image_has_the_units_of_the_look(runs, study, tmp_path):
    path, array = study
    found = read_nifti(restored(runs["style"], path, tmp_path)).array
    expected = -10 + 20 * (array - array.mean()) / array.std()
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_a_photograph_gives_a_png_of_three_channels(runs, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (11, 19, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    output = restored(runs["photo"], tmp_path / "photo.png", tmp_path, "--picture", output="o.png")
    np.testing.assert_allclose(np.asarray(Image.open(output)), 255.0 - photo, atol=1)
    picture = np.asarray(Image.open(tmp_path / "o_before_after.png"))
    assert picture.shape == (11, 2 * 19, 3)


def test_the_settings_of_the_sliding_window_can_be_changed(runs, study, tmp_path):
    path, array = study
    options = ("--overlap", "0", "--mirror", "--devices", "cpu")
    found = read_nifti(restored(runs["enhancement"], path, tmp_path, *options)).array
    np.testing.assert_allclose(
        found, 2 * array - array.mean() + 0.5 * array.std(), atol=0.51
    )  # a function of each voxel alone does not depend on tiles


@pytest.mark.parametrize(
    ("text", "numbers"), [("3", [3]), ("1,4-5", [1, 4, 5]), ("4-5, 5,0", [0, 4, 5])]
)
def test_slices_are_named_by_numbers_and_ranges(text, numbers):
    assert parse_slices(text, 6) == numbers


def test_mistakes_are_one_line(runs, study, tmp_path, mistake):
    path, array = study

    def refusal(run, *more, source=path, output="o.nii.gz"):
        named = ("--input", source, "--output", tmp_path / output)
        return mistake(main, "--run", run, *named, *more)

    inpaint, enhance = runs["inpainting"], runs["enhancement"]
    assert "say which with --mask or --slices" in refusal(inpaint)
    assert "fills no holes" in refusal(enhance, "--slices", "2")
    assert "like 12,20-22" in refusal(inpaint, "--slices", "two")
    assert "names no slice" in refusal(inpaint, "--slices", "5-4")
    assert "0 to 6" in refusal(inpaint, "--slices", "7")
    assert "covers the whole image" in refusal(inpaint, "--slices", "0-6")
    assert "is not a trained run" in refusal(tmp_path / "none")
    assert "makes no images: use tools/predict.py" in refusal(make_run(tmp_path / "s", None))
    assert "use tools/synthesize.py" in refusal(make_run(tmp_path / "n", "noise"))
    assert "must end in .nii.gz" in refusal(enhance, output="o.mha")
    assert "a PNG holds one slice" in refusal(enhance, output="o.png")
    assert "overlap" in refusal(enhance, "--overlap", "1")
    write_nifti(tmp_path / "small.nii.gz", Volume(np.ones((3, 9, 10), np.uint8), AFFINE))
    assert "is not on the grid" in refusal(inpaint, "--mask", tmp_path / "small.nii.gz")
    write_nifti(tmp_path / "zero.nii.gz", Volume(np.zeros(array.shape, np.uint8), AFFINE))
    assert "no hole to fill" in refusal(inpaint, "--mask", tmp_path / "zero.nii.gz")
    assert "takes 3 channel(s)" in refusal(runs["photo"])
    write_nifti(tmp_path / "float.nii.gz", Volume(np.ones((1, 9, 10), np.float32), AFFINE))
    line = refusal(enhance, source=tmp_path / "float.nii.gz", output="o.png")
    assert "does not hold 1 channel(s) of float32" in line
    assert not (tmp_path / "o.nii.gz").exists()
