"""From a generator to a data set, and from there into the batches of tools/train.py."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import yaml

from data_prep.convert import Options
from data_prep.convert import convert
from data_prep.layouts import scan_source
from data_prep.manifest import load_manifest
from data_prep.manifest import verify
from data_prep.manifest import write_json
from data_prep.pipeline import build_dataset
from data_prep.preprocess import prepared_affine
from data_prep.records import decode_numpy
from data_prep.records import read_records
from data_prep.whole_cases import read_cases
from segkit.config import config_from_dict
from segkit.training.run import create_run
from tests.tools.trainings import history
from tools import cross_validate
from tools import ensemble
from tools import evaluate
from tools import inspect_data
from tools import pretrain
from tools import synthesize
from tools import train

SIDES, COUNT = (16, 16), 10


def paint(sides, channels=1):
    """A generator that needs no training: intensity 2 per class, less the first number of noise."""
    import keras
    from keras import ops

    label = keras.Input(sides, dtype="int32", name="label")
    noise = keras.Input((3,), name="noise")
    level = ops.reshape(noise[:, 0], (-1, *[1] * len(sides), 1))
    # Keras' `add` takes a (batch, 1, ..., 1) for a bias where the batch is as long as the depth.
    image = 2.0 * ops.cast(label, "float32")[..., None] - level
    image = ops.repeat(image, channels, axis=-1)
    return keras.Model({"label": label, "noise": noise}, image)


def from_noise(sides):
    """The class of the case everywhere."""
    import keras
    from keras import ops

    noise = keras.Input((3,), name="noise")
    kind = keras.Input((), dtype="int32", name="class")
    level = ops.cast(kind, "float32")[:, None, None, None] - 0.0 * noise[:, :1, None, None]
    image = ops.tile(level, (1, *sides, 1))
    return keras.Model({"noise": noise, "class": kind}, image)


def brighten(sides):
    """A translator: twice the intensity, plus 1."""
    import keras

    image = keras.Input((*sides, 1), name="image")
    return keras.Model({"image": image}, 2.0 * image + 1.0)


@pytest.fixture(scope="module")
def make_run(labelled_mr_run, tmp_path_factory):
    """Function from a task and a generator to a run folder on six volumes in three folds."""
    folders = iter(range(100))

    def make(task, model, patch=SIDES, **data):
        config = {
            "model": {"name": data.pop("name", "spade"), **data.pop("options", {})},
            "data": {"path": str(labelled_mr_run.data), "patch_size": list(patch), **data},
            "loss": {"name": "adversarial"},
            "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 4},
        }
        if task:
            config["task"] = {"name": task}
        folder = tmp_path_factory.mktemp("generators") / f"run{next(folders)}"
        create_run(folder, config_from_dict(config), load_manifest(labelled_mr_run.data))
        model.save(folder / "model.keras")
        return folder

    return make


@pytest.fixture(scope="module")
def generator(make_run):
    return make_run("labels", paint(SIDES))


@pytest.fixture(scope="module")
def made(generator, tmp_path_factory):
    """Ten slices that nothing deformed."""
    out = tmp_path_factory.mktemp("made") / "synthetic"
    assert call(generator, out, "--deform", 0) == 0
    return SimpleNamespace(folder=out, manifest=load_manifest(out, synthetic=True))


def call(run, out, *more, count=COUNT):
    counted = [] if count is None else ["--count", count]
    return synthesize.main([str(a) for a in ("--run", run, "--out", out, *counted, *more)])


def chunks(folder):
    return [
        decode_numpy(record)
        for shard in load_manifest(folder, synthetic=True)["shards"]
        for record in read_records(folder / shard["file"])
    ]


def like(chunk, manifest):
    """The manifest's entry of the case that a chunk was made of."""
    return manifest["cases"][chunk.synthetic.rpartition(" ")[2]]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pairs_of_image_and_label_are_written_like_any_data_set(made, labelled_mr_run):
    verify(made.folder)
    real, manifest = load_manifest(labelled_mr_run.data), made.manifest
    for key in ("channels", "classes", "preprocess"):
        assert manifest[key] == real[key]
    found = chunks(made.folder)
    assert [chunk.case_id for chunk in found] == [f"synthetic-{n:06d}" for n in range(COUNT)]
    levels = []
    for chunk in found:
        assert chunk.image.shape == (1, *SIDES, 1)
        assert chunk.spacing_mm.tolist() == like(chunk, real)["spacing_mm"]
        np.testing.assert_allclose(chunk.affine, prepared_affine(like(chunk, real)))
        level = chunk.image[chunk.label == 0].mean()
        np.testing.assert_allclose(chunk.image[..., 0], 2 * chunk.label + level, atol=1e-3)
        levels.append(level)
    assert len(set(levels)) == COUNT
    assert max(chunk.label.max() for chunk in found) == 1
    assert (made.folder / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_label_maps_are_drawn_from_training_cases_only(made, labelled_mr_run):
    real = load_manifest(labelled_mr_run.data)
    splits = {case: entry["split"] for case, entry in real["cases"].items()}
    sources = {
        entry["made_of"].removeprefix("labels of ") for entry in made.manifest["cases"].values()
    }
    assert len(sources) > 1
    assert {splits[case] for case in sources} == {"fold1", "fold2"}  # fold 0 validates
    held_out = {e["source_sha256"] for e in real["cases"].values() if e["split"] == "fold0"}
    about = made.manifest["synthetic"]
    assert not held_out & set(about["trained_on"])
    assert len(about["trained_on"]) == 4
    assert (about["task"], about["patch_size"]) == ("labels", list(SIDES))


@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_not_deformed_they_are_patches_of_a_training_stream(
    made, generator, labelled_mr_run, tmp_path, foreground
):
    folder = made.folder
    if foreground:
        folder = tmp_path / "out"
        assert call(generator, folder, "--deform", 0, "--foreground", foreground) == 0
    found = [chunk.label for chunk in chunks(folder)]
    data, manifest = labelled_mr_run.data, load_manifest(labelled_mr_run.data)
    options = {"patch_size": SIDES, "batch_size": 1, "seed": 0, "foreground_fraction": foreground}
    stream = build_dataset(data, manifest, ("fold1", "fold2"), **options)
    for label, (_, expected) in zip(found, stream, strict=False):
        np.testing.assert_array_equal(label, expected)
    # At random positions some have no foreground, whatever the run's own share of these was.
    assert all(label.any() for label in found) == bool(foreground)


def test_a_case_depends_on_its_number_and_the_seed_only(made, generator, tmp_path):
    assert call(generator, tmp_path / "longer", "--deform", 0, count=COUNT + 3) == 0
    assert call(generator, tmp_path / "other", "--deform", 0, "--seed", 1) == 0
    first, longer, other = (
        [chunk.image for chunk in chunks(folder)]
        for folder in (made.folder, tmp_path / "longer", tmp_path / "other")
    )
    for a, b in zip(first, longer, strict=False):
        np.testing.assert_array_equal(a, b)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.slow
def test_deformed_label_maps_differ_and_stay_label_maps(made, generator, tmp_path):
    assert call(generator, tmp_path / "out", "--deform", 1) == 0
    pairs = [
        (a.label, b.label)
        for a, b in zip(chunks(made.folder), chunks(tmp_path / "out"), strict=True)
    ]
    assert set(np.unique([b for _, b in pairs])) == {0, 1}
    assert sum(not np.array_equal(a, b) for a, b in pairs) > COUNT // 2


def test_what_is_missing_is_written_again_with_the_same_bytes(made, tmp_path, generator, capsys):
    out = tmp_path / "out"
    shutil.copytree(made.folder, out)
    before = content(out)
    assert call(generator, out, "--deform", 0) == 0
    assert "is up to date" in capsys.readouterr().out
    (out / made.manifest["shards"][1]["file"]).unlink()
    (out / "dataset.json").unlink()
    assert call(generator, out, "--deform", 0) == 0
    assert content(out) == before


def test_other_settings_in_the_same_folder_are_refused(made, generator, mistake):
    argv = ("--run", generator, "--out", made.folder, "--count", COUNT, "--deform", 0, "--seed", 2)
    assert "synthetic.seed: 0 before, 2 now" in mistake(synthesize.main, *argv)


def test_volumes_are_made_by_a_generator_of_volumes(make_run, tmp_path):
    run = make_run("labels", paint((4, 8, 8)), patch=(4, 8, 8))
    assert call(run, tmp_path / "out", "--deform", 0, count=5) == 0
    for chunk in chunks(tmp_path / "out"):
        assert chunk.label.shape == (4, 8, 8)
        level = chunk.image[chunk.label == 0].mean()
        np.testing.assert_allclose(chunk.image[..., 0], 2 * chunk.label + level, atol=1e-3)


def test_images_of_noise_have_no_labels(make_run, tmp_path, labelled_mr_run, mistake):
    run = make_run("noise", from_noise(SIDES), name="dcgan", options={"classes": 2})
    out = tmp_path / "out"
    assert call(run, out, count=6) == 0
    found = chunks(out)
    assert [chunk.image.mean() for chunk in found] == [0, 1, 0, 1, 0, 1]  # classes in turn
    assert [chunk.synthetic for chunk in found] == ["noise of class 0", "noise of class 1"] * 3
    assert all(chunk.label is None for chunk in found)
    argv = training(labelled_mr_run.data, tmp_path / "run", out)
    assert "has images without labels, from which unet cannot learn" in mistake(train.main, *argv)


def test_whole_cases_are_translated_and_keep_their_labels(make_run, tmp_path, labelled_mr_run):
    data = labelled_mr_run.data
    run = make_run("style", brighten(SIDES), name="translator", style=str(data))
    out = tmp_path / "out"
    assert call(run, out, count=None) == 0
    real = load_manifest(data)
    source = {c.id: c for split in ("fold1", "fold2") for c in read_cases(data, real, split)}
    manifest = load_manifest(out, synthetic=True)
    assert len(manifest["cases"]) == len(source) == 4
    assert "patch_size" not in manifest["synthetic"]
    for case in read_cases(out, manifest, "synthetic"):
        like = source[manifest["cases"][case.id]["made_of"].removeprefix("style of ")]
        np.testing.assert_allclose(case.image, 2 * like.image + 1, atol=1e-3)
        np.testing.assert_array_equal(case.label, like.label)


def of_field(field, change):
    """A change of a manifest, for `edited`."""

    def apply(manifest):
        manifest[field] = change(manifest[field])

    return apply


def edited(run, folder, change):
    """A copy of a run with another manifest."""
    shutil.copytree(run, folder)
    manifest = json.loads((folder / "dataset.json").read_text())
    change(manifest)
    write_json(folder / "dataset.json", manifest)
    return folder


def test_labels_that_the_generator_has_never_seen_are_refused(generator, tmp_path, mistake):
    def forget(cases):
        return {c: {**e, "class_voxels": [e["class_voxels"][0], 0]} for c, e in cases.items()}

    run = edited(generator, tmp_path / "run", of_field("cases", forget))
    argv = ("--run", run, "--out", tmp_path / "out", "--count", 5)
    error = mistake(synthesize.main, *argv)
    assert "holds the class 'lesion', of which the generator has seen no voxel" in error
    assert not (tmp_path / "out").exists()


def test_label_maps_of_other_classes_are_refused(generator, tmp_path, mistake):
    names = [{"name": "background", "value": 0}, {"name": "liver", "value": 1}]
    run = edited(generator, tmp_path / "run", of_field("classes", lambda _: names))
    argv = ("--run", run, "--out", tmp_path / "out", "--count", 5)
    assert "does not fit the generator" in mistake(synthesize.main, *argv)


def test_a_single_image_is_no_data_set(make_run, labelled_mr_run, tmp_path, mistake):
    cases = list(load_manifest(labelled_mr_run.data)["cases"])
    run = make_run("labels", paint(SIDES), repeats=dict.fromkeys(cases[1:], 0))
    argv = ("--run", run, "--out", tmp_path / "out", "--count", 5)
    assert "is made of a single image repeats it" in mistake(synthesize.main, *argv)


def test_mistakes_are_told_before_anything_is_loaded(generator, make_run, tmp_path, mistake):
    out = ("--out", tmp_path / "out")
    for argv, message in [
        (("--run", tmp_path, *out), "is not a trained run"),
        (("--run", make_run(None, paint(SIDES)), *out), "is no generator: its config has no task"),
        (("--run", make_run("inpainting", paint(SIDES)), *out), "tools/restore.py"),
        (("--run", generator, *out), "--count is missing"),
        (("--run", generator, *out, "--count", 0), "--count must be at least 1, got 0"),
        (("--run", generator, *out, "--count", 1, "--seed", -1), "--seed must be 0 or more"),
        (("--run", generator, *out, "--count", 1, "--deform", 2), "--deform must be between"),
        (("--run", generator, *out, "--count", 1, "--foreground", 2), "--foreground must be"),
        (("--run", generator, *out, "--count", 1, "--source", "x"), "--source goes with the task"),
    ]:
        assert message in mistake(synthesize.main, *argv)
    assert not (tmp_path / "out").exists()


def training(data, run, made, *more, ratio=0.5):
    mixed = yaml.safe_dump({"path": str(made), "ratio": ratio}, default_flow_style=True).strip()
    settings = (
        "model.filters=4",
        "model.downsamplings=1",
        f"data.patch_size=[{SIDES[0]},{SIDES[1]}]",
        "train.epochs=1",
        "train.steps_per_epoch=2",
        "train.batch_size=4",
        "train.validation_batches=2",
        f"data.synthetic={mixed}",
        *more,
    )
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["--model", "unet", "--data", str(data), "--run", str(run), "--no-evaluate", *sets]


@pytest.mark.slow
def test_training_mixes_in_slices_and_evaluation_does_not(made, labelled_mr_run, tmp_path, capsys):
    run = tmp_path / "mixed"
    assert train.main(training(labelled_mr_run.data, run, made.folder)) == 0
    assert f"2 of 4 patches per step: {made.folder}" in capsys.readouterr().out
    assert train.main(training(labelled_mr_run.data, tmp_path / "none", made.folder, ratio=0)) == 0
    losses = [history(folder)[0]["train_loss"] for folder in (run, tmp_path / "none")]
    assert losses[0] != losses[1]
    # The copy of the manifest, what is validated and what is scored are those of the real data.
    assert load_manifest(run) == load_manifest(labelled_mr_run.data)
    assert evaluate.main(["--run", str(run)]) == 0
    report = json.loads((run / "evaluation" / "fold0" / "results.json").read_text())
    real = load_manifest(labelled_mr_run.data)["cases"]
    assert set(report["per_case"]) == {case for case in real if real[case]["split"] == "fold0"}


def test_a_ratio_of_0_trains_as_without(made, labelled_mr_run):
    def batches(**synthetic):
        config = config_from_dict(
            {
                "model": {"name": "unet"},
                "data": {
                    "path": str(labelled_mr_run.data),
                    "patch_size": list(SIDES),
                    "synthetic": synthetic,
                },
                "augment": {"policy": []},
                "loss": {"name": "ce_dice"},
                "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 4},
            }
        )
        manifest = load_manifest(labelled_mr_run.data)
        strategy = tf.distribute.get_strategy()
        augment, _ = train.build_augmentation(config, manifest, 2, strategy)
        chosen = (("fold1", "fold2"), {}), (("fold0",), {})
        data, mixed = labelled_mr_run.data, train.read_synthetic(config, manifest)
        return train.build_batches(config, data, manifest, augment, *chosen, synthetic=mixed)

    def same(one, other):
        parts = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
        return all(np.array_equal(a, b) for a, b in parts)

    without = batches()
    nothing = batches(path=str(made.folder), ratio=0)
    half = batches(path=str(made.folder), ratio=0.5)
    assert same(*(list(b.train(8, (0, 1)).take(3)) for b in (without, nothing)))
    assert not same(*(list(b.train(8, (0, 1)).take(3)) for b in (without, half)))
    assert same(*(list(b.validation((0, 1))) for b in (without, half)))
    assert same(list(half.train(0, (0, 1)).take(4))[2:], list(half.train(8, (0, 1)).take(2)))
    cases, images, _ = half.inspect(4)
    assert [case.startswith("synthetic-") for case in cases] == [False, True] * 2
    np.testing.assert_array_equal(images, next(iter(half.train(4, (0, 1))))[0])


def test_a_synthetic_data_set_is_refused_wherever_cases_are_scored(made, mr_run, tmp_path, mistake):
    data, model = ("--data", made.folder), ("--model", "unet")
    out = ("--out", tmp_path / "out")
    for main, argv in [
        (train.main, (*model, *data, "--run", tmp_path / "out")),
        (evaluate.main, ("--method", "otsu", *data)),
        (evaluate.main, ("--run", mr_run.folder, *data)),
        (cross_validate.main, (*model, *data, *out)),
        (ensemble.main, ("--method", "bagging", *model, *data, *out)),
        (ensemble.main, ("--method", "stacking", *model, *data, *out)),
        (
            pretrain.main,
            ("--model", "dpn", "--pretext", "masked", *data, "--run", tmp_path / "out"),
        ),
    ]:
        assert "is synthetic: a network made its images" in mistake(main, *argv)
    generator = ("--run", made.folder.parent / "nothing", "--out", tmp_path / "out")
    assert "is not a trained run" in mistake(synthesize.main, *generator)


def test_label_maps_are_not_drawn_from_a_synthetic_data_set(made, generator, tmp_path, mistake):
    argv = ("--run", generator, "--data", made.folder, "--out", tmp_path / "out", "--count", 5)
    assert "is synthetic: a network made its images" in mistake(synthesize.main, *argv)


def test_another_fold_would_be_scored_too_well(made, labelled_mr_run, tmp_path, mistake):
    argv = training(labelled_mr_run.data, tmp_path / "run", made.folder, "data.fold=1")
    assert "was made from 2 cases that are held out here" in mistake(train.main, *argv)
    assert not (tmp_path / "run").exists()


def test_pretraining_mixes_nothing_in(made, labelled_mr_run, tmp_path, mistake):
    mixed = f"data.synthetic={{path: {made.folder}, ratio: 0.5}}"
    argv = ("--model", "dpn", "--pretext", "masked", "--set", mixed, "--run", tmp_path / "run")
    assert "data.synthetic goes with tools/train.py" in mistake(pretrain.main, *argv)


def test_a_generator_does_not_learn_from_synthetic_images(generator, made, tmp_path, mistake):
    mixed = f"data.synthetic={{path: {made.folder}, ratio: 0.5}}"
    argv = ("--config", generator / "config.yaml", "--set", mixed, "--run", tmp_path / "run")
    assert "data.synthetic is for networks that learn from labels" in mistake(train.main, *argv)


def test_synthetic_cases_can_be_looked_at(made, tmp_path):
    sheet = tmp_path / "sheet.png"
    argv = ["--data", made.folder, "--patch", *SIDES, "--rows", 1, "--columns", 3, "--out", sheet]
    assert inspect_data.main([str(a) for a in argv]) == 0
    assert sheet.is_file()


def test_a_data_set_of_another_spacing_is_refused(made, labelled_mr_run, tmp_path, mistake):
    options = Options(layout="nnunet", folds=3, spacing_mm=(2.0, 2.0, 2.0))
    source = scan_source("nnunet", str(labelled_mr_run.source))
    convert(source, tmp_path / "data", source=str(labelled_mr_run.source), options=options)
    argv = training(tmp_path / "data", tmp_path / "run", made.folder)
    assert "spacing_mm is [2.0, 1.0, 1.0] there, [2.0, 2.0, 2.0] here" in mistake(train.main, *argv)
