"""Objects of one study, found by networks with hand-made rules, as files."""

import inspect
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from segkit.io import read_label
from segkit.io.nifti import write_nifti
from segkit.models.mask_rcnn import builder
from segkit.models.mask_rcnn import garden
from segkit.models.mask_rcnn.network import MaskRCNN
from segkit.volume import Volume
from tests.tools.spots import AFFINE
from tests.tools.spots import CYLINDERS
from tests.tools.spots import SHAPES
from tests.tools.spots import VOLUME
from tests.tools.spots import cylinders
from tests.tools.spots import mosaic
from tests.tools.spots import spots
from tools import predict_instances
from tools.predict import main

SHAPE, CENTRES = SHAPES["a"], mosaic(SHAPES["a"])


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A grey picture of the mosaic."""
    path = tmp_path_factory.mktemp("grey") / "grey.png"
    Image.fromarray((spots(SHAPE, CENTRES)[0] * 250).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def predicted(picture_run, grey):
    """The map of the grey picture, with all that can be written beside it."""
    output = grey.with_name("objects.png")
    more = ["--coco", grey.with_name("coco.json"), "--overlay", grey.with_name("overlay.png")]
    call(picture_run, grey, output, *more)
    return output


def call(run, source, output, *more):
    arguments = ["--run", run.folder, "--input", source, "--output", output, *more]
    assert main([str(a) for a in arguments]) == 0


def test_a_grey_picture_given_to_a_run_on_colours_is_a_map_of_its_objects(predicted):
    with Image.open(predicted) as image:
        assert image.mode == "I;16"
        ids = np.asarray(image)
    assert len(np.unique(ids)) == len(CENTRES) + 1
    np.testing.assert_array_equal(ids > 0, spots(SHAPE, CENTRES)[1] > 0)
    assert len({ids[tuple(centre)] for centre in CENTRES}) == len(CENTRES)


def test_the_json_tells_of_each_object(predicted):
    report = json.loads(predicted.with_suffix(".json").read_text())
    assert report["model"] == "mask_rcnn"
    assert report["min_score"] == 0.5
    ids = read_label(predicted).array[0]
    assert [entry["id"] for entry in report["objects"]] == list(range(1, len(CENTRES) + 1))
    for entry in report["objects"]:
        rows, columns = np.nonzero(ids == entry["id"])
        tight = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        assert entry["box"] == tight
        assert entry["area"] == len(rows)
        assert entry["class"] == "nucleus"
        assert entry["score"] == pytest.approx(0.9)


def test_coco_json_and_overlay(predicted):
    from segkit.metrics.instances.rle import mask_module

    coco = json.loads(predicted.with_name("coco.json").read_text())
    assert coco["images"][0]["file_name"] == "grey.png"
    assert coco["categories"] == [{"id": 1, "name": "nucleus"}]
    assert len(coco["annotations"]) == len(CENTRES)
    masks = [mask_module().decode(a["segmentation"]) for a in coco["annotations"]]
    np.testing.assert_array_equal(sum(masks) > 0, read_label(predicted).array[0] > 0)
    assert np.asarray(Image.open(predicted.with_name("overlay.png")).convert("RGB")).std() > 20


def test_an_opaque_alpha_and_the_format_of_the_map_do_not_matter(
    picture_run, predicted, grey, tmp_path
):
    array = np.asarray(Image.open(grey))
    Image.fromarray(np.dstack([array] * 3 + [np.full_like(array, 255)])).save(tmp_path / "a.png")
    call(picture_run, tmp_path / "a.png", tmp_path / "objects.tif", "--tile", 256)
    found = read_label(tmp_path / "objects.tif").array
    np.testing.assert_array_equal(found > 0, read_label(predicted).array > 0)
    described = [json.loads((f / "objects.json").read_text()) for f in (tmp_path, predicted.parent)]
    assert len(described[0]["objects"]) == len(described[1]["objects"])


def test_objects_below_the_lowest_score_are_left_out(picture_run, tmp_path):
    image = spots((64, 64), [(30, 30), (30, 3)])[0]  # the second is cut: 11 of 15 columns remain
    Image.fromarray((image * 250).astype(np.uint8)).save(tmp_path / "in.png")
    numbers = {}
    for score in ("0.5", "0.7"):
        call(picture_run, tmp_path / "in.png", tmp_path / "out.png", "--min-score", score)
        numbers[score] = len(json.loads((tmp_path / "out.json").read_text())["objects"])
    assert numbers == {"0.5": 2, "0.7": 1}


def test_a_picture_without_objects(picture_run, tmp_path, capsys):
    Image.fromarray(np.zeros((50, 90, 3), np.uint8)).save(tmp_path / "in.png")
    more = ("--coco", tmp_path / "coco.json", "--overlay", tmp_path / "overlay.png")
    call(picture_run, tmp_path / "in.png", tmp_path / "out.png", *more)
    found = read_label(tmp_path / "out.png").array
    assert found.shape == (1, 50, 90)
    assert not found.any()
    assert json.loads((tmp_path / "out.json").read_text())["objects"] == []
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"] == []
    assert (tmp_path / "overlay.png").is_file()
    assert "nucleus" in capsys.readouterr().out


def test_a_volume_of_any_orientation_gives_the_same_objects(volume_run, tmp_path):
    image, ids, _ = cylinders()
    volume = Volume((image * 250).astype(np.int16), AFFINE)
    maps = {}
    for codes in (volume.orientation, "RAS", "ALS"):
        write_nifti(tmp_path / f"{codes}.nii.gz", volume.oriented(codes))
        call(volume_run, tmp_path / f"{codes}.nii.gz", tmp_path / f"{codes}_out.nii.gz")
        found = read_label(tmp_path / f"{codes}_out.nii.gz")
        np.testing.assert_allclose(found.affine, volume.oriented(codes).affine, atol=1e-5)
        maps[codes] = found.oriented(volume.orientation).array
    assert len(np.unique(maps["RAS"])) == len(CYLINDERS) + 1
    for found in maps.values():
        assert found.shape == VOLUME
        np.testing.assert_array_equal(found > 0, maps["RAS"] > 0)
        overlap = ((found > 0) & (ids > 0)).sum() / ((found > 0) | (ids > 0)).sum()
        assert overlap > 0.85
    described = json.loads((tmp_path / "RAS_out.json").read_text())["objects"]
    ml = 0.9 * 1.1 * 2.5 / 1000
    for entry in described:
        assert entry["volume_ml"] == pytest.approx(entry["voxels"] * ml, rel=1e-4)
    kinds = sorted(entry["class"] for entry in described)
    assert kinds == ["bright", "bright", "dim", "dim"]


def test_the_overlay_of_a_volume_is_a_slice(volume_run, tmp_path):
    volume = Volume((cylinders()[0] * 250).astype(np.int16), AFFINE)
    write_nifti(tmp_path / "in.nii.gz", volume)
    more = ("--overlay", tmp_path / "overlay.png")
    call(volume_run, tmp_path / "in.nii.gz", tmp_path / "out.tif", *more)
    assert read_label(tmp_path / "out.tif").shape == VOLUME
    assert np.asarray(Image.open(tmp_path / "overlay.png").convert("RGB")).std() > 20


def test_mistakes_are_one_line(picture_run, volume_run, grey, tmp_path, mistake):
    def refusal(run, source, *more, output="out.png"):
        arguments = ("--run", run.folder, "--input", source, "--output", tmp_path / output)
        return mistake(main, *arguments, *more)

    two = refusal(picture_run, grey, "--input", grey)
    assert "the run takes 3 channel(s) (red, green, blue), --input has 2" in two
    deep = Image.fromarray(np.full((40, 40), 4000, np.uint16))
    deep.save(tmp_path / "deep.png")
    line = refusal(picture_run, tmp_path / "deep.png")
    assert "from 0 to 255, --input has values up to 4000. Convert it to 8 bits" in line
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "colour.png")
    assert "takes 1 channel(s)" in refusal(volume_run, tmp_path / "colour.png")
    write_nifti(tmp_path / "in.nii.gz", Volume(np.zeros(VOLUME, np.int16), AFFINE))
    source = tmp_path / "in.nii.gz"
    assert "holds one slice, the input has 7. Write .nii.gz or" in refusal(volume_run, source)
    coco = ("--coco", tmp_path / "c.json")
    assert "--coco" in refusal(volume_run, source, *coco, output="out.tif")
    assert "must end in .png" in refusal(picture_run, grey, "--overlay", tmp_path / "o.jpg")
    assert "must end in .nii.gz" in refusal(picture_run, grey, output="out.jpg")
    assert "--min-score must be" in refusal(picture_run, grey, "--min-score", 7)
    assert not (tmp_path / "out.png").exists()


def test_options_for_labels_of_pixels_are_refused(picture_run, grey, capsys):
    with pytest.raises(SystemExit):
        call(picture_run, grey, "out.png", "--mirror")
    assert "unrecognized arguments: --mirror" in capsys.readouterr().err


def test_without_model_garden_it_is_said_what_to_install(
    picture_run, grey, tmp_path, mistake, monkeypatch
):
    shutil.copytree(picture_run.folder, tmp_path / "run")
    parameters = inspect.signature(builder.mask_rcnn).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    options |= {"filters": 8, "anchor_aspects": [1.0]}
    MaskRCNN(2, 3, options).save(tmp_path / "run" / "model.keras")
    monkeypatch.setitem(sys.modules, "official.vision.ops", None)
    garden.require.cache_clear()
    arguments = ("--run", tmp_path / "run", "--input", grey, "--output", tmp_path / "out.png")
    assert 'pip install "segkit[maskrcnn]"' in mistake(predict_instances.main, *arguments)
    garden.require.cache_clear()
