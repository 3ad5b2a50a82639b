"""Objects scored: of networks with hand-made rules, of a watershed, and of maps of ids."""

import csv
import json
import shutil
import sys
from unittest import mock

import keras
import numpy as np
import pytest
from PIL import Image

from segkit.inference.instance_summary import summarise_instances
from tests.tools.spots import CYLINDERS
from tests.tools.spots import EMPTY
from tests.tools.spots import SHAPES
from tests.tools.spots import STAINED
from tests.tools.spots import cylinders
from tests.tools.spots import mosaic
from tests.tools.spots import spots
from tools import evaluate
from tools.evaluate_instances import main


@pytest.fixture(scope="module", autouse=True)
def _few_resamples():
    """Intervals are tested elsewhere, and take most of the time."""
    with mock.patch.dict(summarise_instances.__kwdefaults__, resamples=20):
        yield


def report_of(folder):
    return json.loads((folder / "results.json").read_text())


def saved(folder, case):
    return np.asarray(Image.open(folder / "maps" / f"{case}.png"))


def copy_of(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run.folder, folder)
    return folder


def same_objects(first, second):
    """Whether two maps hold the same objects, whatever their ids."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    return len(pairs[0]) == len(np.unique(first)) == len(np.unique(second))


@pytest.fixture(scope="module")
def run(picture_run, tmp_path_factory):
    """A run that both folds of the pictures were scored on, by tools/evaluate.py."""
    folder = copy_of(picture_run, tmp_path_factory)
    for fold in ("0", "1"):
        assert evaluate.main(["--run", str(folder), "--fold", fold, "--save"]) == 0
    return folder


@pytest.fixture(scope="module")
def fold_of(picture_run):
    cases = json.loads((picture_run.data / "dataset.json").read_text())["cases"]
    return {case: entry["split"] for case, entry in cases.items()}


def test_a_network_that_is_right_has_full_scores(run):
    for fold in ("fold0", "fold1"):
        report = report_of(run / "evaluation" / fold)
        assert report["min_score"] == 0.5
        assert report["tile"] == [64, 64]
        found = report["groups"]["all"]["classes"][0]
        assert [found[name] for name in ("mask_ap", "dsb2018", "pq", "aji")] == [1, 1, 1, 1]
        assert report["semantic"]["classes"][1]["dice"] == 1


def test_scores_are_given_by_kind_and_case(run, fold_of):
    rows = {}
    for fold in ("fold0", "fold1"):
        folder = run / "evaluation" / fold
        with open(folder / "instances.csv", newline="") as file:
            rows |= {row["case"]: row for row in csv.DictReader(file)}
        assert np.asarray(Image.open(folder / "instances.png").convert("RGB")).std() > 20
    assert {case: row["group"] for case, row in rows.items()} == {
        case: "stained" if case == STAINED else "fluorescence" for case in SHAPES
    }
    truth = {case: 0 if case == EMPTY else len(mosaic(shape)) for case, shape in SHAPES.items()}
    assert {case: int(row["predicted_objects"]) for case, row in rows.items()} == truth
    groups = report_of(run / "evaluation" / fold_of[STAINED])["groups"]
    assert groups["stained"]["cases"] == 1


def test_tiles_give_what_the_whole_picture_gives(run, fold_of):
    """The mosaic has spots on every seam; its map is that of all masks."""
    fold = fold_of["a"]
    tiled = saved(run / "evaluation" / fold, "a")
    assert main(["--run", str(run), "--split", fold, "--tile", "256", "--save"]) == 0
    assert report_of(run / "evaluation" / fold)["tile"] == [256, 256]
    assert same_objects(tiled, saved(run / "evaluation" / fold, "a"))
    assert same_objects(tiled, spots(SHAPES["a"], mosaic(SHAPES["a"]))[1])
    assert tiled.dtype == np.uint16


def test_maps_that_were_saved_have_the_same_scores(run, picture_run, fold_of, tmp_path, capsys):
    fold = fold_of["a"]
    folder = run / "evaluation" / fold
    arguments = ["--data", str(picture_run.data), "--split", fold, "--out", str(tmp_path / "out")]
    assert main(["--maps", str(folder / "maps"), *arguments]) == 0
    assert "the other scores of all objects" in capsys.readouterr().out
    first, second = (report_of(f) for f in (folder, tmp_path / "out" / "evaluation" / fold))
    assert second["per_case"] == first["per_case"]
    assert second["min_score"] is None
    names = ("mask_ap", "dsb2018", "froc")
    means = [report["groups"]["all"]["mean"] for report in (first, second)]
    assert [means[1][name] for name in names] == [means[0][name] for name in names]


def test_objects_below_the_lowest_score_are_not_there(run, picture_run, fold_of, tmp_path):
    fold = fold_of["a"]
    (tmp_path / "maps").mkdir()
    for source in (run / "evaluation" / fold / "maps").iterdir():
        shutil.copy(source, tmp_path / "maps")
    described = json.loads((tmp_path / "maps" / "a.json").read_text())
    described["objects"][0]["score"] = 0.3
    (tmp_path / "maps" / "a.json").write_text(json.dumps(described))
    arguments = ["--data", str(picture_run.data), "--split", fold, "--out", str(tmp_path)]
    arguments += ["--min-score", "0.4", "--save"]
    assert main(["--maps", str(tmp_path / "maps"), *arguments]) == 0
    report = report_of(tmp_path / "evaluation" / fold)
    assert report["per_case"]["a"]["classes"][0]["missed"] == 1
    assert report["groups"]["all"]["mean"]["mask_ap50"] == 1  # it still counts for AP
    assert report["semantic"]["per_case"]["a"]["dice"][1] < 1
    kept = saved(tmp_path / "evaluation" / fold, "a")
    assert kept.max() == len(described["objects"]) - 1


def test_arrays_of_another_program_are_scored_without_classes(picture_run, fold_of, tmp_path):
    fold = fold_of["a"]
    (tmp_path / "maps").mkdir()
    for case in (case for case in SHAPES if fold_of[case] == fold):
        shape = SHAPES[case]
        ids = np.zeros(shape, int) if case == EMPTY else spots(shape, mosaic(shape))[1]
        ids = np.where(ids == 1, 0, ids * 7)  # the first object is missed
        np.save(tmp_path / "maps" / f"{case}.npy", ids)
    arguments = ["--data", str(picture_run.data), "--split", fold, "--out", str(tmp_path)]
    assert main(["--maps", str(tmp_path / "maps"), *arguments]) == 0
    scores = report_of(tmp_path / "evaluation" / fold)["per_case"]["a"]["classes"][0]
    assert (scores["missed"], scores["extra"]) == (1, 0)
    assert scores["hits"] == len(mosaic(SHAPES["a"])) - 1


def test_a_watershed_makes_objects_of_a_network_that_labels_pixels(
    picture_run, tmp_path_factory, fold_of
):
    folder = copy_of(picture_run, tmp_path_factory)
    text = (folder / "config.yaml").read_text()
    text = text.replace("name: mask_rcnn", "name: unet", 1)
    (folder / "config.yaml").write_text(text.replace("name: mask_rcnn", "name: ce_dice", 1))
    inputs = keras.Input((64, 64, 3))
    conv = keras.layers.Conv2D(2, 1)
    model = keras.Model(inputs, conv(inputs))
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 1] = 50
    conv.set_weights([kernel, np.array([0, -50 * 0.17], np.float32)])  # a third of the height
    model.save(folder / "model.keras")
    fold = fold_of["a"]
    assert main(["--run", str(folder), "--split", fold, "--watershed"]) == 0
    report = report_of(folder / "evaluation" / f"{fold}-objects")
    assert report["watershed"] == 1
    assert report["per_case"]["a"]["classes"][0]["hits"] == len(mosaic(SHAPES["a"]))
    assert report["groups"]["all"]["mean"]["pq"] > 0.9


@pytest.fixture(scope="module")
def volumes(volume_run, tmp_path_factory):
    """The evaluation of a run on volumes."""
    folder = copy_of(volume_run, tmp_path_factory)
    assert main(["--run", str(folder), "--save"]) == 0
    return folder / "evaluation" / "fold0"


def test_volumes_are_linked_and_scored_on_their_source_grid(volumes):
    from segkit.io import read_label

    report = report_of(volumes)
    for entry in report["groups"]["all"]["classes"]:
        assert entry["pq"] > 0.85
        assert entry["dq"] == 1
        assert "box_ap" not in entry
    dice = {entry["name"]: entry["dice"] for entry in report["semantic"]["classes"]}
    assert dice.keys() == {"background", "dim", "bright"}
    assert min(dice.values()) > 0.9
    case = next(iter(report["per_case"]))
    found = read_label(volumes / "maps" / f"{case}.nii.gz").array
    _, ids, _ = cylinders()
    for centre, (_, first, last) in CYLINDERS.items():
        column = found[(slice(None), *centre)]
        assert np.flatnonzero(column).tolist() == list(range(first, last))
    assert len(np.unique(found)) == len(np.unique(ids))


def test_the_classes_of_maps_stand_beside_them(volumes, volume_run, tmp_path, mistake):
    maps = tmp_path / "maps"
    shutil.copytree(volumes / "maps", maps)
    arguments = ("--maps", maps, "--data", volume_run.data, "--out", tmp_path)
    assert main([str(a) for a in arguments]) == 0
    before, after = report_of(volumes), report_of(tmp_path / "evaluation" / "fold0")
    assert after["per_case"] == before["per_case"]
    described = sorted(maps.glob("*.json"))[0]
    text = described.read_text()
    described.write_text(text.replace('"bright"', '"brght"'))
    assert "does not list objects with an id, a class" in mistake(main, *arguments)
    described.write_text(text.replace('"id": 1', '"id": 9'))
    assert "does not list the object 1" in mistake(main, *arguments)
    described.unlink()
    assert "several classes (dim, bright)" in mistake(main, *arguments)


def test_mistakes_are_one_line(run, picture_run, mr_run, tmp_path, mistake, monkeypatch):
    assert "--watershed is for runs that label pixels" in mistake(main, "--run", run, "--watershed")
    assert "unet3d labels pixels. Add --watershed" in mistake(main, "--run", mr_run.folder)
    assert "has no objects to compare with" in mistake(main, "--run", mr_run.folder, "--watershed")
    assert "--min-score must be" in mistake(main, "--run", run, "--min-score", 2)
    assert "a tile must have 32" in mistake(main, "--run", run, "--tile", 8)
    assert "Known: fold0, fold1, val." in mistake(main, "--run", run, "--split", "test")
    assert "--maps needs --data" in mistake(main, "--maps", tmp_path)
    maps = ("--maps", tmp_path, "--data", picture_run.data, "--out", tmp_path / "out")
    assert "--tile goes with --run" in mistake(main, *maps, "--tile", 64)
    assert "must hold one map of the case" in mistake(main, *maps)
    for case in SHAPES:
        np.save(tmp_path / f"{case}.npy", np.zeros((5, 5), int))
    assert "has the shape (1, 5, 5)" in mistake(main, *maps)
    np.save(tmp_path / f"{EMPTY}.npy", np.zeros(SHAPES[EMPTY]))
    np.save(tmp_path / f"{STAINED}.npy", np.zeros(SHAPES[STAINED]))
    np.save(tmp_path / "b.npy", np.zeros(SHAPES["b"]))
    assert "must hold ids of objects, whole numbers" in mistake(main, *maps)
    assert not (tmp_path / "out" / "evaluation").exists() or not any(
        (tmp_path / "out" / "evaluation").iterdir()
    )
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert 'pip install "segkit[maskrcnn]"' in mistake(main, "--run", run)


def test_further_options_are_those_of_runs_that_find_objects(mr_run, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--run", str(mr_run.folder), "--save"])
    assert "unrecognized arguments: --save" in capsys.readouterr().err
