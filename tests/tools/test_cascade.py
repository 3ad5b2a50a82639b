"""A cascade whose networks are closed forms, so that what they find is known."""

import json
import shutil
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import yaml

from data_prep.manifest import load_manifest
from data_prep.priors import prior_path
from data_prep.priors import with_priors
from segkit.io import read_image
from segkit.io import read_label
from segkit.io.nifti import write_nifti
from segkit.volume import Volume
from tools import evaluate
from tools import export
from tools import predict
from tools.cascade import main

# The threshold of each fold's network, in deviations above the mean: the lesion, nothing,
# everything. Of the mean of their probabilities the lesion is left: (1 + 0 + 1) / 3 inside of it,
# (0 + 0 + 1) / 3 elsewhere.
THRESHOLDS = {"fold0": 1.4, "fold1": 99.0, "fold2": -99.0}


@pytest.fixture(scope="module")
def first(labelled_mr_run, make_threshold_model, tmp_path_factory):
    """A cross-validation, and the raw data it was made of: two cases per fold.

    Attributes: `folder`, `source`, and `arguments` for the tool.
    """
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source

    root, source = tmp_path_factory.mktemp("first"), str(labelled_mr_run.source)
    grid = {"spacing_mm": "keep", "orientation": "LPI"}
    options = Options(layout="nnunet", folds=3, test_share=1 / 3, **grid)
    dataset = scan_source("nnunet", source)
    manifest, _ = convert(dataset, root / "data", source=source, options=options)
    for number, threshold in enumerate(THRESHOLDS.values()):
        model = make_threshold_model((8, 16, 16), threshold)
        write_run(root / "cv" / f"fold{number}", root / "data", manifest, model, number)
    common = ["--source", source, "--layout", "nnunet", "--spacing", "2,1,1", "--workers", "1"]
    arguments = ["--first", str(root / "cv"), *common]
    return SimpleNamespace(folder=root / "cv", source=labelled_mr_run.source, arguments=arguments)


def write_run(folder, data, manifest, model, fold=0):
    """Writes a run that was trained for its one epoch."""
    from segkit.config import config_from_dict
    from segkit.training.run import create_run

    config = {
        "model": {"name": "unet3d"},
        "data": {"path": str(data), "patch_size": [8, 16, 16], "fold": fold},
        "loss": {"name": "ce_dice"},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    create_run(folder, config_from_dict(config), manifest)
    model.save(folder / "model.keras")
    (folder / "history.csv").write_text("epoch,validation_dice\n1,0.5\n")


def second_model(channel, sides=(8, 16, 16)):
    """A 1x1 convolution whose class is 1 where a channel of two exceeds 1/2."""
    import keras

    inputs = keras.Input((*sides, 2), name="image")
    logits = keras.layers.Conv3D(2, 1, name="logits")
    model = keras.Model(inputs, logits(inputs))
    kernel = np.zeros(logits.kernel.shape, np.float32)
    kernel[..., channel, 1] = 10
    logits.set_weights([kernel, np.array([0, -5], np.float32)])
    return model


@pytest.fixture(scope="module")
def data(first, tmp_path_factory):
    out = tmp_path_factory.mktemp("cascade") / "data"
    assert main([*first.arguments, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A second stage that repeats what its first stage found."""
    folder = tmp_path_factory.mktemp("runs") / "second"
    write_run(folder, data, load_manifest(data), second_model(1))
    return folder


def image_of(first, case):
    return read_image(first.source / "imagesTr" / f"{case}_0000.nii.gz").array


def expected_of(image, split):
    """What a split's network finds; the first and last column are outside of the nonzero box."""
    inside = np.zeros(image.shape, bool)
    inside[:, :, 1:-1] = True
    lesion = image > 500
    return {"fold0": lesion, "fold1": lesion & False, "fold2": inside, "test": lesion}[split]


def test_each_case_is_segmented_by_the_network_that_did_not_train_on_it(first, data):
    cases = load_manifest(data)["cases"]
    assert {entry["split"] for entry in cases.values()} == {*THRESHOLDS, "test"}
    for case, entry in cases.items():
        found = read_label(prior_path(data / "proposals", case))
        image = image_of(first, case)
        np.testing.assert_array_equal(found.array, 7 * expected_of(image, entry["split"]))


def test_the_records_hold_the_priors_beside_the_image(first, data):
    manifest = load_manifest(data)
    assert manifest["channels"] == ["MRI", "prior:lesion"]
    assert manifest["preprocess"]["normalization"][1] == {"scheme": "prior"}
    assert manifest["preprocess"]["orientation"] == "SAR"
    shares = {}
    for split in (*THRESHOLDS, "test"):
        for _, image, label, _ in evaluate.whole_cases(data, manifest, split):
            assert image.shape[-1] == 2
            assert 0 <= image[..., 1].min() <= image[..., 1].max() <= 1 + 1e-4
            shares[split] = (image[..., 1] > 0.5).mean(), (label > 0).mean()
    for split in ("fold0", "test"):
        assert shares[split][0] == pytest.approx(shares[split][1], rel=0.02)
    assert shares["fold1"][0] == 0
    assert shares["fold2"][0] == 1


def test_the_manifest_says_what_the_first_stage_was(first, data):
    entry = load_manifest(data)["options"]["first_stage"]
    assert list(entry["networks"]) == ["fold0", "fold1", "fold2"]


def test_other_data_sets_say_nothing_of_cascades(labelled_mr_run):
    """So those prepared before there were any are still up to date, and fit the runs on them."""
    manifest = load_manifest(labelled_mr_run.data)
    assert not {"roi_margin_mm", "first_stage"} & manifest["options"].keys()
    assert list(manifest["preprocess"]) == [
        "orientation",
        "spacing_mm",
        "crop_to_nonzero",
        "normalization",
    ]


def test_repeating_the_command_makes_only_what_is_missing(first, tmp_path, data, capsys):
    out = tmp_path / "data"
    shutil.copytree(data, out)
    case = next(iter(load_manifest(data)["cases"]))
    path, kept = prior_path(out / "proposals", case), out / "first_stage" / "model.keras"
    before = path.read_bytes(), kept.stat().st_mtime_ns
    path.unlink()
    assert main([*first.arguments, "--out", str(out)]) == 0
    assert "is up to date" in capsys.readouterr().out
    assert (path.read_bytes(), kept.stat().st_mtime_ns) == before
    assert load_manifest(out) == load_manifest(data)


def test_a_prediction_runs_both_stages_from_the_image_alone(first, run, tmp_path):
    source = first.source / "imagesTr" / "case_2_0000.nii.gz"
    arguments = ["--run", run, "--input", source, "--output", tmp_path / "mask.nii.gz"]
    assert predict.main([str(a) for a in arguments]) == 0
    found = read_label(tmp_path / "mask.nii.gz").array == 7
    lesion = image_of(first, "case_2") > 500  # the mean of the folds, resampled to and fro
    assert 2 * (found & lesion).sum() / (found.sum() + lesion.sum()) > 0.95


def test_a_test_case_scores_the_same_from_records_and_from_its_image(first, data, run, tmp_path):
    assert evaluate.main(["--run", str(run), "--split", "test"]) == 0
    text = (run / "evaluation" / "test" / "cases.csv").read_text()
    rows = [row.split(",") for row in text.splitlines() if ",lesion," in row]
    for case, _, *_, predicted, _, _ in rows:
        source = first.source / "imagesTr" / f"{case}_0000.nii.gz"
        arguments = ["--run", run, "--input", source, "--output", tmp_path / "mask.nii.gz"]
        assert predict.main([str(a) for a in arguments]) == 0
        assert int(predicted) == (read_label(tmp_path / "mask.nii.gz").array == 7).sum() > 0
    assert len(rows) == 2


@pytest.mark.slow
def test_the_export_holds_both_networks_and_takes_the_image_alone(first, run, tmp_path):
    import tensorflow as tf

    assert export.main(["--run", str(run), "--out", str(tmp_path / "model"), "--check", "1"]) == 0
    folder = tmp_path / "model" / "1"
    card = json.loads((folder / "assets" / "segkit.json").read_text())
    assert card["channels"] == ["MRI"]
    source = first.source / "imagesTr" / "case_3_0000.nii.gz"
    image = nibabel.as_closest_canonical(nibabel.load(source))
    array = image.get_fdata(dtype=np.float32).transpose(2, 1, 0)[..., None]
    spacing_mm = np.array(image.header.get_zooms()[::-1], np.float32)
    model = tf.saved_model.load(str(folder))
    inputs = {"image": tf.constant(array), "spacing_mm": tf.constant(spacing_mm)}
    served = model.signatures["mask"](**inputs)["mask"].numpy().transpose(2, 1, 0)
    arguments = ["--run", run, "--input", source, "--output", tmp_path / "mask.nii.gz"]
    assert predict.main([str(a) for a in arguments]) == 0
    mask = nibabel.as_closest_canonical(nibabel.load(tmp_path / "mask.nii.gz"))
    assert served.sum() > 100
    np.testing.assert_array_equal(7 * served, np.asarray(mask.dataobj))


def test_foreground_outside_of_the_region_counts_as_missed(first, tmp_path):
    """A first stage that points at a corner, a second stage that finds class 1 everywhere."""
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source

    dataset = scan_source("nnunet", str(first.source))
    (tmp_path / "proposals").mkdir()
    for case in dataset.cases:
        image = dataset.read(case)[0]
        corner = np.zeros(image.shape, np.uint8)
        corner[4, 9, 2] = 7
        write_nifti(prior_path(tmp_path / "proposals", case.id), Volume(corner, image.affine))
    options = Options(layout="nnunet", folds=3, spacing_mm="keep", roi_margin_mm=7.2)
    whole = with_priors(dataset, tmp_path / "proposals", dataset.classes)
    manifest, _ = convert(whole, tmp_path / "data", source="", options=options)
    # Voxels of 2.5 x 1.1 x 0.9 mm: margins of 3, 7 and 8 around (4, 9, 2).
    assert manifest["cases"]["case_0"]["shape"] == [7, 15, 11]
    (tmp_path / "data" / "first_stage").mkdir()
    write_run(tmp_path / "run", tmp_path / "data", manifest, second_model(1))
    model = second_model(1)
    model.get_layer("logits").set_weights([np.zeros((1, 1, 1, 2, 2)), np.array([0, 1.0])])
    model.save(tmp_path / "run" / "model.keras")
    shutil.rmtree(tmp_path / "run" / "first_stage")
    shutil.copytree(first.folder / "fold0", tmp_path / "run" / "first_stage")
    assert evaluate.main(["--run", str(tmp_path / "run"), "--split", "fold0"]) == 0
    report = json.loads((tmp_path / "run" / "evaluation" / "fold0" / "results.json").read_text())
    assert len(report["per_case"]) == 2
    for case, scores in report["per_case"].items():
        lesion = image_of(first, case) > 500
        inside = lesion[1:8, 2:17, :11].sum()
        assert 0 < inside < lesion.sum()
        assert scores["dice"][1] == pytest.approx(2 * inside / (lesion.sum() + 7 * 15 * 11))
        assert scores["accuracy"][1] == pytest.approx(inside / lesion.sum())


def test_the_tool_cuts_out_the_region_of_interest(first, tmp_path):
    out = tmp_path / "data"
    assert main([*first.arguments, "--out", str(out), "--roi-margin", "4"]) == 0
    manifest = load_manifest(out)
    assert manifest["preprocess"]["roi_margin_mm"] == 4
    for entry in manifest["cases"].values():
        sides = [high - low for low, high in entry["crop"]]
        if entry["split"] == "fold0":  # 12 mm across, and 4 mm on either side
            assert sides[0] * 2.5 >= 17.5
            assert sides[1] * 1.1 < 22
        if entry["split"] == "fold1":  # nothing was found: the whole image
            assert sides == entry["oriented_shape"]


@pytest.mark.slow
def test_an_ordinary_training_takes_the_first_stage_along(first, data, tmp_path):
    from tools import train

    arguments = ["--model", "unet3d", "--data", data, "--run", tmp_path / "run", "--no-evaluate"]
    settings = [
        "data.patch_size=[8,16,16]",
        "model.filters=2",
        "model.downsamplings=1",
        "train.epochs=1",
    ]
    settings += ["train.steps_per_epoch=1", "train.batch_size=2", "train.validation_batches=1"]
    settings += ["augment.policy=nnunet", "data.fold=0"]
    for setting in settings:
        arguments += ["--set", setting]
    assert train.main([str(a) for a in arguments]) == 0
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    source = first.source / "imagesTr" / "case_2_0000.nii.gz"
    arguments = ["--run", tmp_path / "moved", "--input", source, "--output", tmp_path / "m.nii.gz"]
    assert predict.main([str(a) for a in arguments]) == 0


def test_a_cascade_as_first_stage_is_refused(first, data, tmp_path, mistake):
    """Its own first stage is the mean of networks that have trained on every case."""
    for number in range(3):
        folder = tmp_path / "cv" / f"fold{number}"
        write_run(folder, data, load_manifest(data), second_model(1), number)
    out = ["--out", tmp_path / "out"]
    line = mistake(main, *first.arguments, "--first", tmp_path / "cv", *out)
    assert "is a cascade itself" in line


def test_a_run_without_its_first_stage_is_refused(run, tmp_path, mistake):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "first_stage")
    line = mistake(evaluate.main, "--run", folder)
    assert "is the second stage of a cascade, but has no folder first_stage" in line


def test_data_without_its_first_stage_is_refused(data, tmp_path):
    from segkit.errors import DataError

    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "first_stage")
    with pytest.raises(DataError, match="has channels of a first stage, but no folder"):
        write_run(tmp_path / "run", tmp_path / "data", load_manifest(data), second_model(1))


def test_a_fold_that_is_not_trained_is_refused(first, tmp_path, mistake):
    shutil.copytree(first.folder, tmp_path / "cv")
    (tmp_path / "cv" / "fold1" / "history.csv").unlink()
    out = ["--out", tmp_path / "out"]
    line = mistake(main, *first.arguments, "--first", tmp_path / "cv", *out)
    assert "fold1 is not trained to its end; all 3 folds are needed" in line
    assert "has no fold0" in mistake(main, *first.arguments, "--first", tmp_path, *out)
    assert not (tmp_path / "out").exists()


def test_another_split_of_the_cases_is_refused(first, tmp_path, mistake):
    source = tmp_path / "raw"
    shutil.copytree(first.source, source)
    for kind in ("imagesTr/case_9_0000", "labelsTr/case_9"):
        old = source / f"{kind.replace('9', '0', 1)}.nii.gz"
        shutil.copyfile(old, source / f"{kind}.nii.gz")
    shutil.copyfile(source / "imagesTr/case_1_0000.nii.gz", source / "imagesTr/case_8_0000.nii.gz")
    shutil.copyfile(source / "labelsTr/case_1.nii.gz", source / "labelsTr/case_8.nii.gz")
    line = mistake(main, *first.arguments, "--source", source, "--out", tmp_path / "out")
    assert "the split of cases is not the first stage's" in line


def test_other_channels_are_refused(first, tmp_path, mistake):
    source = tmp_path / "raw"
    shutil.copytree(first.source, source)
    text = (source / "dataset.json").read_text().replace('"MRI"', '"CT"')
    (source / "dataset.json").write_text(text)
    line = mistake(main, *first.arguments, "--source", source, "--out", tmp_path / "out")
    assert "the first stage takes the channels MRI, the source has CT" in line


def test_another_first_stage_or_other_data_in_the_folder_is_refused(
    first, data, labelled_mr_run, tmp_path, mistake
):
    shutil.copytree(first.folder, tmp_path / "cv")
    shutil.copyfile(tmp_path / "cv/fold0/model.keras", tmp_path / "cv/fold1/model.keras")
    out = tmp_path / "data"
    shutil.copytree(data, out)
    changed = [*first.arguments, "--first", str(tmp_path / "cv"), "--out", str(out)]
    assert "was made by another first stage. Give --overwrite" in mistake(main, *changed)
    assert main([*changed, "--overwrite"]) == 0
    for case, entry in load_manifest(out)["cases"].items():
        if entry["split"] == "fold1":
            assert read_label(prior_path(out / "proposals", case)).array.any()
    plain = tmp_path / "plain"
    shutil.copytree(labelled_mr_run.data, plain)
    line = mistake(main, *first.arguments, "--out", plain)
    assert "holds a data set that is no cascade's" in line


def test_a_changed_image_is_segmented_again(first, data, tmp_path, capsys):
    source, out = tmp_path / "raw", tmp_path / "data"
    shutil.copytree(first.source, source)
    shutil.copytree(data, out)
    cases = load_manifest(data)["cases"]
    case = next(case for case, entry in cases.items() if entry["split"] == "fold0")
    path = source / "imagesTr" / f"{case}_0000.nii.gz"
    image = read_image(path)
    array = image.array.copy()
    array[4, 9, 10] = 0
    write_nifti(path, Volume(array, image.affine))
    arguments = [*first.arguments, "--source", str(source), "--out", str(out)]
    assert main(arguments) == 2
    assert f"made otherwise (cases.{case}.source_sha256" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert not read_label(prior_path(out / "proposals", case)).array[4, 9, 10]


@pytest.fixture(scope="module")
def by_method(first, tmp_path_factory):
    pytest.importorskip("segkit.classical")
    out = tmp_path_factory.mktemp("method") / "data"
    common = first.arguments[2:]
    arguments = ["--method", "otsu", "--set", "smooth_mm=1", "--folds", "3", "--out", str(out)]
    assert main([*common, *arguments]) == 0
    return out


def test_a_method_proposes_and_the_prediction_runs_it_again(first, by_method, tmp_path):
    from segkit.classical import segment

    manifest = load_manifest(by_method)
    assert manifest["folds"] == 3
    assert manifest["options"]["first_stage"]["options"] == {"smooth_mm": 1}
    path = first.source / "imagesTr" / "case_4_0000.nii.gz"
    expected = segment("otsu", read_image(path), 2, smooth_mm=1).array
    found = read_label(prior_path(by_method / "proposals", "case_4")).array
    np.testing.assert_array_equal(found, 7 * expected)
    assert 0 < expected.mean() < 0.2
    write_run(tmp_path / "run", by_method, manifest, second_model(1))
    arguments = ["--run", tmp_path / "run", "--input", path, "--output", tmp_path / "mask.nii.gz"]
    assert predict.main([str(a) for a in arguments]) == 0
    mask = read_label(tmp_path / "mask.nii.gz").array == 7
    assert 2 * (mask & (expected == 1)).sum() / (mask.sum() + expected.sum()) > 0.95


def test_a_cascade_that_begins_with_a_method_is_not_exported(by_method, tmp_path, mistake):
    write_run(tmp_path / "run", by_method, load_manifest(by_method), second_model(1))
    line = mistake(export.main, "--run", tmp_path / "run")
    assert "the first stage is the method 'otsu', which is no network" in line


def test_a_first_stage_with_covariates_is_refused(first, tmp_path, mistake):
    shutil.copytree(first.folder, tmp_path / "cv")
    for path in tmp_path.glob("cv/fold*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        config["model"] = {"name": "fusion_unet", "covariates": 3}
        path.write_text(yaml.safe_dump(config))
    arguments = ["--first", tmp_path / "cv", *first.arguments[2:], "--out", tmp_path / "out"]
    assert "takes covariates, which a first stage is not given" in mistake(main, *arguments)
    assert not (tmp_path / "out").exists()


def test_options_of_the_other_kind_of_first_stage_are_refused(first, tmp_path, mistake):
    out = ["--out", tmp_path / "out"]
    assert "--set goes with --method" in mistake(main, *first.arguments, *out, "--set", "a=1")
    assert "--seed goes with --method" in mistake(main, *first.arguments, *out, "--seed", "0")
    pytest.importorskip("segkit.classical")
    seeds = ["--method", "region_growing", "--set", "seeds={1: [[0, 0, 0]]}"]
    assert "give --set seed_units=fraction" in mistake(main, *first.arguments[2:], *out, *seeds)
