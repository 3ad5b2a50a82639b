import json
import shutil
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image

from segkit.io import read_label
from segkit.io.dicom import write_series
from segkit.io.nifti import read_nifti
from segkit.io.nifti import write_nifti
from segkit.volume import Volume
from tools.predict import main

PHOTO = {
    "orientation": "SAR",
    "spacing_mm": None,
    "crop_to_nonzero": False,
    "normalization": [{"scheme": "rescale", "low": 0, "high": 255}],
}


@pytest.fixture(scope="module")
def photo_run(tmp_path_factory, make_threshold_model):
    """A run on grey photographs: class 255 where a pixel is brighter than half."""
    from segkit.config import config_from_dict
    from segkit.training.run import create_run

    folder = tmp_path_factory.mktemp("photo") / "run"
    config = {
        "model": {"name": "unet"},
        "data": {"patch_size": [8, 8]},
        "loss": {"name": "ce_dice"},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    manifest = {
        "channels": ["gray"],
        "classes": [{"name": "background", "value": 0}, {"name": "cell", "value": 255}],
        "preprocess": PHOTO,
    }
    create_run(folder, config_from_dict(config), manifest)
    make_threshold_model((8, 8), 0.5).save(folder / "model.keras")
    return folder


@pytest.fixture(scope="module")
def predicted(mr_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    source = mr_run.source / "imagesTr" / "case_0_0000.nii.gz"
    arguments = ["--run", mr_run.folder, "--input", source, "--output", out / "mask.nii.gz"]
    arguments += ["--probabilities", out / "p.nii.gz", "--devices", "cpu"]
    assert main([str(a) for a in arguments]) == 0
    return SimpleNamespace(folder=out, source=source)


def test_the_mask_lies_on_the_grid_of_the_input(predicted):
    image, mask = nibabel.load(predicted.source), nibabel.load(predicted.folder / "mask.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-6)


def test_the_mask_holds_the_source_values_of_the_classes(predicted, mr_run):
    mask = read_label(predicted.folder / "mask.nii.gz").array
    truth = read_label(mr_run.source / "labelsTr" / "case_0.nii.gz").array
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 7}
    # Slices of 2.5 mm resampled to 2 mm and back: only voxels at the surface may differ.
    assert 2 * ((mask == 7) & (truth == 7)).sum() / ((mask == 7).sum() + (truth == 7).sum()) > 0.9


def test_the_json_beside_it_tells_the_volumes(predicted):
    report = json.loads((predicted.folder / "mask.json").read_text())
    lesion = report["classes"][1]
    voxels = int((read_label(predicted.folder / "mask.nii.gz").array == 7).sum())
    assert (lesion["name"], lesion["value"], lesion["voxels"]) == ("lesion", 7, voxels)
    assert lesion["volume_ml"] == pytest.approx(voxels * 2.5 * 1.1 * 0.9 / 1000, rel=1e-5)
    assert report["run"] == "run"
    assert report["spacing_mm"] == pytest.approx([2.5, 1.1, 0.9])
    assert "case_0" not in json.dumps(report)


def test_probabilities_are_written_on_the_same_grid(predicted):
    probabilities = read_nifti(predicted.folder / "p.nii.gz")
    mask = read_label(predicted.folder / "mask.nii.gz")
    np.testing.assert_array_equal(probabilities.array.argmax(-1) * 7, mask.array)
    np.testing.assert_allclose(probabilities.affine, mask.affine, atol=1e-6)


def test_a_dicom_folder_gives_the_same_as_nifti(predicted, mr_run, tmp_path):
    write_series(tmp_path / "series", read_nifti(predicted.source), modality="CT")
    output = tmp_path / "mask.nii.gz"
    arguments = ["--run", mr_run.folder, "--input", tmp_path / "series", "--output", output]
    assert main([str(a) for a in arguments]) == 0
    expected = read_label(predicted.folder / "mask.nii.gz").oriented("SAR")
    found = read_label(output).oriented("SAR")
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)


def test_a_photograph_gives_a_png_of_source_values(photo_run, tmp_path, capsys):
    photo = np.random.default_rng(0).integers(0, 256, (11, 19), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    arguments = ["--run", photo_run, "--input", tmp_path / "photo.png"]
    assert main([str(a) for a in [*arguments, "--output", tmp_path / "mask.png"]]) == 0
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    np.testing.assert_array_equal(mask, np.where(photo > 127, 255, 0))
    report = json.loads((tmp_path / "mask.json").read_text())
    assert [entry["volume_ml"] for entry in report["classes"]] == [None, None]
    assert "unknown" in capsys.readouterr().out


def test_a_picture_of_more_bits_is_refused_and_one_of_fewer_noted(
    photo_run, tmp_path, mistake, capsys
):
    picture, output = tmp_path / "picture.png", tmp_path / "mask.png"
    arguments = ["--input", picture, "--output", output]
    Image.fromarray(np.full((8, 8), 60000, np.uint16)).save(picture)
    line = mistake(main, "--run", photo_run, *arguments)
    assert "from 0 to 255, --input has values up to 60000. Convert it to 8 bits" in line
    assert not output.exists()
    deep = tmp_path / "deep"
    shutil.copytree(photo_run, deep)
    text = (deep / "dataset.json").read_text()
    assert text.count("255") == 2  # the value of the class, and the largest intensity
    (deep / "dataset.json").write_text("65535".join(text.rsplit("255", 1)))
    assert main(["--run", str(deep), *map(str, arguments)]) == 0
    assert "8 bits" not in capsys.readouterr().err
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(picture)
    assert main(["--run", str(deep), *map(str, arguments)]) == 0
    assert "the run is of 16-bit pictures, --input has 8 bits" in capsys.readouterr().err


def test_the_reader_s_notes_are_shown_and_kept(mr_run, tmp_path, capsys):
    image = nibabel.load(mr_run.source / "imagesTr" / "case_1_0000.nii.gz")
    header = image.header.copy()
    header.set_sform(None, 0)
    header.set_qform(None, 0)
    nibabel.Nifti1Image(np.asarray(image.dataobj), None, header).to_filename(tmp_path / "a.nii.gz")
    arguments = ["--run", mr_run.folder, "--input", tmp_path / "a.nii.gz"]
    assert main([str(a) for a in [*arguments, "--output", tmp_path / "mask.nii"]]) == 0
    notes = json.loads((tmp_path / "mask.json").read_text())["notes"]
    assert len(notes) >= 1
    assert f"note: {notes[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "message"),
    [("mask.mha", "must end in .nii.gz"), ("no/mask.nii.gz", "does not exist")],
)
def test_an_output_that_cannot_be_written_is_refused_first(
    mr_run, tmp_path, mistake, output, message
):
    line = mistake(main, "--run", mr_run.folder, "--input", "x", "--output", tmp_path / output)
    assert message in line


def test_a_failed_write_is_one_line(predicted, mr_run, tmp_path, mistake):
    (tmp_path / "mask.json").mkdir()  # in the way of the sidecar
    named = ("--input", predicted.source, "--output", tmp_path / "mask.nii.gz")
    assert "cannot write beside" in mistake(main, "--run", mr_run.folder, *named)


def test_wrong_inputs_are_refused(predicted, mr_run, tmp_path, mistake):
    def refusal(*inputs, run=mr_run.folder, output="m.nii.gz", more=()):
        named = [part for path in inputs for part in ("--input", path)]
        return mistake(main, "--run", run, *named, "--output", tmp_path / output, *more)

    source = predicted.source
    assert "takes 1 channel(s) (MRI), --input has 2" in refusal(source, source)
    assert "a PNG holds one slice, the input has 9" in refusal(source, output="m.png")
    assert "does not exist" in refusal(tmp_path / "missing.nii.gz")
    assert "--series chooses within one" in refusal(source, source, more=("--series", "1"))
    assert "is not a trained run" in refusal(source, run=tmp_path)
    assert "below 1" in refusal(source, more=("--overlap", "1.5"))
    small = Volume(np.zeros((2, 3, 4), np.int16))
    write_nifti(tmp_path / "small.nii.gz", small)
    assert "one grid" in refusal(source, tmp_path / "small.nii.gz")
    damaged = tmp_path / "damaged"
    shutil.copytree(mr_run.folder, damaged)
    (damaged / "model.keras").write_bytes(b"no zip")
    assert "is damaged" in refusal(source, run=damaged)
    assert not list(tmp_path.glob("m.*"))
