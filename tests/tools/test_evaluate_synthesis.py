import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from data_prep.covering import covering_patches
from data_prep.manifest import load_manifest
from data_prep.pipeline import build_dataset
from segkit.config import config_from_dict
from segkit.config import save_config
from segkit.models import build_model
from tests.tools.conftest import threshold_model
from tools.evaluate_synthesis import main

SIDES = (16, 16)
SHAPE = (*SIDES, 1)
TRAINING = ("fold1", "fold2")


def painter():
    """From labels and noise: classes have levels, and noise is a plane on top."""
    label = keras.Input(SIDES, dtype="int32", name="label")
    noise = keras.Input((8,), name="noise")
    levels = keras.layers.Embedding(2, 1, name="levels")
    planes = keras.layers.Dense(int(np.prod(SHAPE)), name="planes")
    image = levels(label) + keras.layers.Reshape(SHAPE)(planes(noise))
    model = keras.Model({"label": label, "noise": noise}, image)
    levels.set_weights([np.array([[-0.3], [3.0]], np.float32)])
    rng = np.random.default_rng(0)
    planes.set_weights([rng.normal(size=(8, 256)).astype("float32"), np.zeros(256, "f4")])
    return model


def parrot(images):
    """From noise: one of the images that it holds."""
    noise = keras.Input((len(images),), name="noise")
    table = keras.layers.Embedding(len(images), images[0].size, name="table")
    made = keras.layers.Reshape(images[0].shape)(table(ops.argmax(noise, axis=-1)))
    model = keras.Model({"noise": noise}, made)
    table.set_weights([images.reshape(len(images), -1)])
    return model


def constant(value):
    """Fills images with one value."""
    image, mask = keras.Input(SHAPE, name="image"), keras.Input(SHAPE, name="mask")
    made = keras.layers.Rescaling(0.0, value, name="made")(image)
    return keras.Model({"image": image, "mask": mask}, made)


def identity(scale=1.0):
    image = keras.Input(SHAPE, name="image")
    return keras.Model({"image": image}, keras.layers.Rescaling(scale, name="made")(image))


@pytest.fixture(scope="module")
def make_run(mr_run, tmp_path_factory):
    """Function of a generator, a task and data settings that returns a run folder."""
    manifest = load_manifest(mr_run.data)

    def make(generator, task, **data):
        folder = tmp_path_factory.mktemp("gan") / f"gan-{task['name']}"
        folder.mkdir()
        config = {
            "model": {"name": "spade"},
            "data": {"path": str(mr_run.data), "patch_size": list(SIDES), **data},
            "loss": {"name": "adversarial"},
            "task": task,
            "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 4},
        }
        save_config(config_from_dict(config), folder / "config.yaml")
        (folder / "dataset.json").write_text(json.dumps(manifest))
        generator.save(folder / "model.keras")
        return folder

    return SimpleNamespace(make=make, manifest=manifest, data=mr_run.data)


@pytest.fixture(scope="module")
def labels_run(make_run):
    return make_run.make(painter(), {"name": "labels"})


def results(folder, name="fold0"):
    return json.loads((folder / "evaluation" / name / "results.json").read_text())


def run(folder, *argv):
    assert main(["--run", str(folder), "--devices", "cpu", *map(str, argv)]) == 0


def test_made_images_are_scored_against_held_out_ones(labels_run, capsys):
    run(labels_run, "--count", 120)
    report = results(labels_run)
    assert (report["split"], report["made"], report["cases"]) == ("fold0", 120, 2)
    assert 98 < report["held_out"] <= 120  # of a patch that was drawn twice, one counts
    assert report["task"] == {"name": "labels"}
    (scores,) = report["realism"]
    assert scores["features"] == "random convolutions"
    assert scores["made"]["frechet_distance"] > 2 * scores["training"]["frechet_distance"] > 0
    assert scores["made"]["kernel_distance"] > 2 * scores["training"]["kernel_distance"]
    assert scores["made"]["precision"] < scores["training"]["precision"]
    assert not scores["memorisation"]["alarm"]
    out = capsys.readouterr().out
    assert "random convolutions (98; not FID or KID)" in out
    assert "real, of training cases" in out
    folder = labels_run / "evaluation" / "fold0"
    assert (folder / "results.md").read_text().startswith(out[:300])
    names = {path.name for path in folder.iterdir()}
    pictures = {"samples.png", "nearest-random.png", "nearest-intensities.png"}
    assert names == {"results.json", "results.md", *pictures}
    assert all(np.asarray(Image.open(folder / name)).std() > 20 for name in pictures)


def test_the_same_command_gives_the_same_scores_and_says_what_is_too_few(labels_run):
    run(labels_run, "--count", 40)
    first = results(labels_run)
    (scores,) = first["realism"]
    assert scores["made"]["frechet_distance"] is None
    (note,) = scores["notes"]
    assert "more than 98 images of each kind on these features, there are" in note
    assert scores["made"]["kernel_distance"] > 0
    run(labels_run, "--count", 40)
    assert results(labels_run) == first


def segmenter_run(folder, make_run, network, sides, name="unet"):
    """Writes a run of a network for segmentation to a folder."""
    config = {
        "model": {"name": name, "filters": 4, "downsamplings": 1},
        "data": {"path": str(make_run.data), "patch_size": sides},
        "loss": {"name": "ce_dice"},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    save_config(config_from_dict(config), folder / "config.yaml")
    (folder / "dataset.json").write_text(json.dumps(make_run.manifest))
    network.save(folder / "model.keras")
    return folder


def test_features_of_a_run_are_named_with_their_layer(labels_run, make_run, tmp_path):
    options = {"filters": 4, "downsamplings": 1}
    network = build_model("unet", 2, (8, 24, 1), **options)  # on patches of another size
    folder = segmenter_run(tmp_path, make_run, network, [8, 24])
    run(labels_run, "--count", 30, "--features", folder, "random")
    first, second = results(labels_run)["realism"]
    assert (first["features"], first["size"]) == (f"{folder.name}, layer encoder1_relu2", 8)
    assert second["features"] == "random convolutions"
    run(labels_run, "--count", 30, "--features", folder, "--layer", "logits")
    (scores,) = results(labels_run)["realism"]
    assert (scores["features"], scores["size"]) == (f"{folder.name}, layer logits", 2)


def test_a_generator_that_copies_training_images_is_found_and_a_fresh_one_is_not(
    make_run, labels_run, capsys
):
    patches = covering_patches(make_run.data, make_run.manifest, TRAINING, SIDES)
    images = np.stack([image for _, image in patches])
    copies = make_run.make(parrot(images), {"name": "noise"})
    run(copies, "--count", 60)
    report = results(copies)
    assert report["all_training"] == len(images)
    for found in (report["realism"][0]["memorisation"], report["memorisation_of_intensities"]):
        assert found["alarm"]
        assert found["p_value"] < 1e-6
        assert found["distance"] == pytest.approx(0, abs=1e-6)
    assert "YES" in capsys.readouterr().out
    drawn = build_dataset(
        make_run.data,
        make_run.manifest,
        ["fold0"],
        patch_size=SIDES,
        batch_size=80,
        seed=1,
        batches=1,
    )
    fresh = make_run.make(parrot(next(iter(drawn))[0].numpy()), {"name": "noise"})
    run(fresh, "--count", 60)
    report = results(fresh)
    assert not report["realism"][0]["memorisation"]["alarm"]
    assert not report["memorisation_of_intensities"]["alarm"]


def test_training_patches_are_those_of_the_stream(make_run):
    data, manifest, sides = make_run.data, make_run.manifest, (22, 18)  # the cases' own
    covered = {x.tobytes() for _, x in covering_patches(data, manifest, ["fold0"], sides)}
    options = {"patch_size": sides, "batch_size": 8, "seed": 0, "batches": 2}
    drawn = build_dataset(data, manifest, ["fold0"], **options)
    assert {image.tobytes() for images, _ in drawn for image in images.numpy()} <= covered


def test_filled_holes_are_scored_beside_the_biharmonic_ones(make_run, capsys):
    folder = make_run.make(constant(0.0), {"name": "inpainting", "share": [0.1, 0.3]})
    run(folder, "--count", 12)
    report = results(folder)
    assert (report["scales"], report["patches"], report["examples"]) == (1, "random", 12)
    methods = report["methods"]
    assert list(methods) == ["as given", "network", "biharmonic"]
    network, given = methods["network"], methods["as given"]
    # Holes are given as 0, and 0 is what the network fills in.
    assert all(network[key] == given[key] for key in ("psnr", "ssim", "psnr_inside"))
    assert network["psnr"] > network["psnr_inside"]
    assert network["ms_ssim"] is None
    low, high = network["psnr_interval"]
    assert low <= network["psnr"] <= high
    other = methods["biharmonic"]
    assert other["psnr_gain"] == pytest.approx(network["psnr"] - other["psnr"])
    assert "PSNR in holes" in capsys.readouterr().out
    assert (folder / "evaluation" / "fold0" / "restored.png").exists()


def test_denoising_is_scored_beside_tuned_methods_at_a_level_of_choice(make_run):
    folder = make_run.make(identity(), {"name": "enhancement", "gaussian": [0.0, 0.5]})
    run(folder, "--count", 12, "--set", "gaussian=[0.4, 0.4]")
    report = results(folder, "fold0-gaussian=0.4-0.4")
    assert report["task"] == {"name": "enhancement", "gaussian": [0.4, 0.4]}
    methods = report["methods"]
    filters = ["median", "non_local_means", "total_variation", "bicubic"]
    assert list(methods)[:2] == ["as given", "network"]
    assert [name for name in list(methods)[2:] if "SSIM" not in name] == filters
    assert methods["network"]["psnr"] == methods["as given"]["psnr"]
    assert methods["as given"]["psnr_gain"] == 0
    assert set(methods["non_local_means"]["options"]) == {"strength", "patch"}
    assert methods["total_variation"]["psnr"] > methods["network"]["psnr"] + 1
    low, high = methods["total_variation"]["psnr_gain_interval"]
    assert low <= methods["total_variation"]["psnr_gain"] <= high < 0
    run(folder, "--count", 12, "--set", "gaussian=[0.1, 0.1]")
    less = results(folder, "fold0-gaussian=0.1-0.1")["methods"]
    # A quarter of the noise: 20 log10(4) = 12 dB.
    gain = less["network"]["psnr"] - methods["network"]["psnr"]
    assert gain == pytest.approx(12.04, abs=0.01)


def test_held_out_slices_are_covered_whole_or_evenly(make_run):
    folder = make_run.make(constant(0.0), {"name": "inpainting"})
    patches = list(covering_patches(make_run.data, make_run.manifest, ["fold0"], SIDES))
    scored = [np.ptp(image) > 0 for _, image in patches]  # constant ones are left out
    run(folder, "--cover")
    report = results(folder)
    assert (report["patches"], report["examples"]) == ("covering", sum(scored))
    assert set(report["per_case"]) == {case for case, _ in patches}
    run(folder, "--cover", "--count", 6)
    chosen = np.linspace(0, len(patches) - 1, 6).round().astype(int)
    few = results(folder)
    assert few["examples"] == sum(scored[n] for n in chosen)
    assert set(few["per_case"]) == {patches[n][0] for n in chosen if scored[n]}


def test_translated_images_are_compared_with_the_other_data_set(make_run):
    folder = make_run.make(identity(2.0), {"name": "style"}, style=str(make_run.data))
    run(folder, "--count", 40)
    (scores,) = results(folder)["realism"]
    assert scores["made"]["kernel_distance"] > scores["training"]["kernel_distance"]
    assert (folder / "evaluation" / "fold0" / "samples.png").exists()


def test_mistakes_are_answered_in_one_line(labels_run, make_run, mr_run, mistake):
    assert "has no task" in mistake(main, "--run", mr_run.folder)
    assert "--count must be 1" in mistake(main, "--run", labels_run, "--count", 0)
    assert "trained on fold1" in mistake(main, "--run", labels_run, "--split", "fold1")
    assert "Did you mean 'fold1'" in mistake(main, "--run", labels_run, "--split", "fold11")
    assert "--layer goes with" in mistake(main, "--run", labels_run, "--layer", "x")
    line = mistake(main, "--run", labels_run, "--count", 10)
    assert "at least 20 held_out examples" in line
    assert "--cover is for true images" in mistake(main, "--run", labels_run, "--cover")
    folder = make_run.make(identity(), {"name": "enhancement"})
    assert "no option 'noise'" in mistake(main, "--run", folder, "--set", "noise=1")
    assert "without features" in mistake(main, "--run", folder, "--features", mr_run.folder)
    broken = make_run.make(identity(np.nan), {"name": "style"}, style=str(make_run.data))
    assert "images hold NaN" in mistake(main, "--run", broken, "--count", 30)
    assert not (broken / "evaluation").exists() or not list((broken / "evaluation").iterdir())


def test_features_of_volumes_are_refused_for_slices(labels_run, make_run, mistake, tmp_path):
    network = threshold_model((8, 16, 16), 1.0)
    folder = segmenter_run(tmp_path, make_run, network, [8, 16, 16], "unet3d")
    line = mistake(main, "--run", labels_run, "--features", folder, "--count", 30)
    assert "unet3d" in line
    assert "(16, 16, 1)" in line
