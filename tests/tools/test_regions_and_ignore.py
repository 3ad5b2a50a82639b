"""From raw data with a label to ignore to a served model, with regions and without."""

import csv
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import scan_source
from segkit.io import read_image
from segkit.io import read_label
from segkit.io.nifti import write_nifti
from segkit.volume import Volume
from tools import evaluate
from tools import export
from tools import predict
from tools import train

LABELS = {"background": 0, "oedema": 3, "core": 7, "ignore": 9}
TINY = (
    "model.filters=4",
    "model.downsamplings=1",
    "data.patch_size=[16, 16]",
    "train.epochs=1",
    "train.steps_per_epoch=2",
    "train.batch_size=4",
    "train.validation_batches=2",
    "augment.policy=none",
)


def write_source(folder):
    """Six volumes: a core in an oedema, and bright slices without a label, to be ignored."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    rng, grid = np.random.default_rng(0), np.stack(np.indices((6, 20, 22)), axis=-1)
    for number in range(6):
        centre = np.array([3, 9, 10]) + rng.integers(-1, 2, size=3)
        distance = np.sqrt((((grid - centre) * (3, 1, 1)) ** 2).sum(-1))
        label = np.select([distance < 4, distance < 7], [7, 3], 0)
        image = np.select([label == 7, label == 3], [1000, 500], 10)
        label[:2, :12], image[:2, :12] = 9, 1000
        image += rng.integers(0, 5, size=image.shape)
        name = f"case_{number}"
        write_nifti(folder / "imagesTr" / f"{name}_0000.nii.gz", Volume(image.astype(np.int16)))
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", Volume(label.astype(np.uint8)))
    description = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("marked")
    source = write_source(root / "raw")
    options = Options(layout="nnunet", folds=3)
    manifest, _ = convert(
        scan_source("nnunet", source), root / "data", source=source, options=options
    )
    return SimpleNamespace(folder=root / "data", source=root / "raw", manifest=manifest)


def arguments(data, run, *settings):
    sets = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    return ["--model", "unet", "--data", str(data.folder), "--run", str(run), *sets]


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    """A config file of the loss over regions."""
    path = tmp_path_factory.mktemp("config") / "regions.yaml"
    text = (train.CONFIGS / "unet.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("loss:")]
    loss = "loss: {name: region_ce_dice, regions: {whole: [1, 2], core: [2]}}"
    path.write_text("\n".join([*lines, loss]))
    return path


def run_training(data, run, *settings, config=None):
    argv = arguments(data, run, *settings)
    argv = argv if config is None else ["--config", str(config), *argv[2:]]
    assert train.main([*argv, "--devices", "cpu"]) == 0
    with open(run / "history.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    return row, json.loads((run / "evaluation" / "fold0" / "results.json").read_text())


@pytest.fixture(scope="module")
def region_run(data, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "regions"
    row, report = run_training(data, folder, config=config)
    return SimpleNamespace(folder=folder, row=row, report=report)


@pytest.fixture(scope="module")
def exact_run(data, region_run, tmp_path_factory):
    """The run with a network in closed form in place of the trained one.

    Its regions are where the intensity is above that of the background, and of the oedema.
    """
    import keras

    folder = tmp_path_factory.mktemp("runs") / "exact"
    shutil.copytree(region_run.folder, folder)
    files = sorted((data.source / "imagesTr").iterdir())
    images = np.stack([read_image(file).array for file in files])
    # Each case is normalised by its own mean and deviation, which differ little.
    low, high = ((x - images.mean()) / images.std() for x in (250, 750))
    inputs = keras.Input((16, 16, 1), name="image")
    logits = keras.layers.Conv2D(2, 1, name="logits")
    model = keras.Model(inputs, logits(inputs))
    logits.set_weights([np.full((1, 1, 1, 2), 9, np.float32), np.float32([-9 * low, -9 * high])])
    model.save(folder / "model.keras")
    return folder


def test_a_run_over_regions_tells_of_regions_by_name(region_run):
    for name in ("whole", "core"):
        assert 0 <= float(region_run.row[f"validation_dice/{name}"]) <= 1
    assert "validation_dice/oedema" not in region_run.row
    shares = [float(region_run.row[f"validation_dice/{name}"]) for name in ("whole", "core")]
    assert float(region_run.row["validation_dice"]) == pytest.approx(np.mean(shares))
    assert [entry["name"] for entry in region_run.report["regions"]] == ["whole", "core"]


def test_a_class_to_ignore_has_no_channel_and_no_score(data, tmp_path):
    from segkit.training.run import load_run

    row, report = run_training(data, tmp_path / "run")
    assert "validation_dice/core" in row
    assert "validation_dice/ignore" not in row
    assert [entry["name"] for entry in report["classes"]] == ["background", "oedema", "core"]
    assert "regions" not in report
    assert load_run(tmp_path / "run").model.output_shape[-1] == 3


def test_regions_and_classes_are_scored_and_ignored_voxels_are_not(data, exact_run, capsys):
    assert evaluate.main(["--run", str(exact_run), "--devices", "cpu"]) == 0
    folder = exact_run / "evaluation" / "fold0"
    report = json.loads((folder / "results.json").read_text())
    # The network finds a core in the bright slices: only because they are ignored, all is right.
    assert [entry["dice"] for entry in report["classes"]] == [1, 1, 1]
    assert [entry["dice"] for entry in report["regions"]] == [1, 1]
    assert (report["mean_foreground_dice"], report["mean_region_dice"]) == (1, 1)
    with open(folder / "regions.csv", newline="") as file:
        rows = {(row["case"], row["region"]): row for row in csv.DictReader(file)}
    for case in report["per_case"]:
        truth = read_label(data.source / "labelsTr" / f"{case}.nii.gz").array
        assert int(rows[case, "whole"]["true_voxels"]) == np.isin(truth, [3, 7]).sum()
        assert int(rows[case, "core"]["predicted_voxels"]) == (truth == 7).sum()
    assert "mean regions" in capsys.readouterr().out


def test_masks_hold_painted_classes_and_the_export_gives_the_same(data, exact_run, tmp_path):
    source = data.source / "imagesTr" / "case_1_0000.nii.gz"
    out = ["--output", str(tmp_path / "m.nii.gz"), "--devices", "cpu"]
    assert predict.main(["--run", str(exact_run), "--input", str(source), *out]) == 0
    mask = read_label(tmp_path / "m.nii.gz")
    truth = read_label(data.source / "labelsTr" / "case_1.nii.gz").array
    np.testing.assert_array_equal(mask.array, np.where(truth == 9, 7, truth))
    report = json.loads((tmp_path / "m.json").read_text())
    assert [entry["value"] for entry in report["classes"]] == [0, 3, 7]

    assert export.main(["--run", str(exact_run), "--out", str(tmp_path / "model")]) == 0
    card = json.loads((tmp_path / "model" / "1" / "assets" / "segkit.json").read_text())
    assert card["regions"] == [
        {"name": "whole", "classes": [1, 2], "paints": 1},
        {"name": "core", "classes": [2], "paints": 2},
    ]
    assert [entry["name"] for entry in card["classes"]] == ["background", "oedema", "core"]
    served = tf.saved_model.load(str(tmp_path / "model" / "1")).signatures["mask"]
    volume = read_image(source).oriented(card["orientation"])
    image = tf.constant(volume.array[..., None], tf.float32)
    spacing_mm = tf.constant(volume.spacing_mm, tf.float32)
    found = served(image=image, spacing_mm=spacing_mm)["mask"].numpy()
    np.testing.assert_array_equal(np.array([0, 3, 7])[found], mask.oriented("SAR").array)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["loss.ignore_label=1"], "'ignore' has the index 3"),
        (["augment.policy=[{mixup: {}}]"], "mixup makes class probabilities .* cannot be ignored"),
        (
            ["augment.policy=[{copy_paste: {classes: [3]}}]"],
            "class indices from 1 to 2",
        ),
        (["loss.regions={whole: [1, 2]}"], "class_order is needed"),
        (["loss.regions={whole: [1, 3]}", "loss.class_order=[1]"], "'whole' holds 3"),
        (["loss.regions=[[1, 2], [2]]"], "loss.regions must be dict"),
    ],
)
def test_settings_that_do_not_fit_are_refused(data, config, tmp_path, mistake, settings, message):
    argv = arguments(data, tmp_path / "run", *settings)
    if any("regions" in setting for setting in settings):
        argv = ["--config", str(config), *argv[2:]]
    assert re.search(message, mistake(train.main, *argv))
    assert not (tmp_path / "run").exists()
