import csv
import errno
import shutil
from functools import partial

import keras
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segkit.config import save_config
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.training.checkpoint import is_whole
from segkit.training.fit import fit
from segkit.training.progress import EpochResults
from segkit.training.run import create_run
from segkit.training.run import load_run
from tests.training.conftest import Task

MANIFEST = {
    "name": "discs",
    "channels": ["MRI"],
    "classes": [{"name": "background", "value": 0}, {"name": "disc", "value": 1}],
    "preprocess": {"spacing_mm": None},
}


def train(task, folder, *, replicas=1, resume=False, lines=None, model=None, **settings):
    return fit(
        folder,
        task.config(**settings),
        MANIFEST,
        task.strategy(replicas),
        partial(task.build, **(model or {})),
        task.batches,
        resume=resume,
        report=(lines if lines is not None else []).append,
    )


def train_until(task, folder, *, epoch, **settings):
    """Resumes a run of other settings, and stops it when so many epochs are done."""
    config = task.config(**settings)
    save_config(config, folder / "config.yaml")

    def report(line):
        if line.startswith(f"epoch {epoch}/"):
            (folder / "STOP").touch()

    options = {"resume": True, "report": report}
    parts = (MANIFEST, task.strategy(1), task.build, task.batches)
    return fit(folder, config, *parts, **options)


def checkpoint_arrays(folder):
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    with np.load(newest / "state.npz") as file:
        return {name: file[name] for name in file.files}


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    lines = []
    progress = train(task, folder, epochs=4, lines=lines)
    return folder, progress, lines


def test_a_run_learns_the_task(finished):
    _, progress, _ = finished
    assert progress.epoch == 4
    assert progress.best_score > 0.8


def test_each_epoch_reports_loss_dice_per_class_throughput_and_eta(finished):
    _, _, lines = finished
    assert len(lines) == 4
    for part in ("epoch 1/4", "loss", "val Dice", "disc 0.", "patches/s", "wait", "ETA"):
        assert part in lines[0]
    assert "ETA 0:00" in lines[-1]


def test_the_run_folder_reloads_as_the_best_model(finished, task):
    folder, progress, _ = finished
    run = load_run(folder)
    images, labels = next(iter(task.validation_batches()))
    logits = run.model(images)
    assert logits.dtype == "float32"
    predicted = np.argmax(logits, -1)
    overlap = 2 * (predicted * labels.numpy()).sum() / (predicted.sum() + labels.numpy().sum())
    assert overlap > progress.best_score - 0.2
    assert run.manifest == MANIFEST
    assert run.config.train.epochs == 4


def test_tensorboard_shows_scalars_and_pictures(finished):
    folder, _, _ = finished
    train_log = EventAccumulator(str(folder / "logs/train"), {"tensors": 0}).Reload()
    held_out = EventAccumulator(str(folder / "logs/validation"), {"tensors": 0}).Reload()
    wanted = {"loss", "dice", "dice/disc", "learning_rate", "patches_per_second"}
    assert wanted | {"input_wait_share", "loss_per_step"} <= set(train_log.Tags()["tensors"])
    assert {"loss", "dice", "dice/disc"} <= set(held_out.Tags()["tensors"])
    pictures = [tag for tag in held_out.Tags()["tensors"] if "image_truth" in tag]
    assert pictures == [f"image_truth_prediction/{n}" for n in range(4)]
    assert len(train_log.Tensors("loss_per_step")) == 16


def test_a_run_cut_short_and_resumed_equals_one_that_was_not(finished, task, tmp_path):
    whole, _, _ = finished
    cut = tmp_path / "cut"
    train(task, cut, epochs=4, keep_checkpoints=4)
    # As after a kill in epoch 3: only the checkpoints of epochs 1 and 2 are there.
    for late in sorted((cut / "checkpoints").glob("step-*"))[2:]:
        shutil.rmtree(late)
    lines = []
    train(task, cut, epochs=4, keep_checkpoints=4, resume=True, lines=lines)
    assert "after epoch 2 of 4" in lines[0]
    losses = [[row["train_loss"] for row in history(run)] for run in (whole, cut)]
    np.testing.assert_allclose(np.float64(losses[0]), np.float64(losses[1]), rtol=1e-5)


def test_a_corrupt_newest_checkpoint_falls_back_to_the_one_before(task, tmp_path):
    folder = tmp_path / "run"
    train(task, folder, epochs=2)
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    with open(newest / "state.npz", "r+b") as file:
        file.seek(100)
        file.write(b"damage")
    lines = []
    train(task, folder, epochs=2, resume=True, lines=lines)
    assert "is corrupt" in lines[0]
    assert "after epoch 1 of 2" in lines[1]


def test_the_newest_checkpoints_and_the_best_are_kept(task, tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.1, 0.2, 0.3, 0.4, 0.5])
    row = EpochResults.row

    def scored(results, split, objective):
        fixed = {"validation_dice": next(scores)} if split == "validation" else {}
        return row(results, split, objective) | fixed

    monkeypatch.setattr(EpochResults, "row", scored)
    settings = {"epochs": 7, "steps_per_epoch": 1, "checkpoint_every": 2, "keep_checkpoints": 2}
    progress = train(task, tmp_path / "run", **settings)
    assert (progress.best_epoch, progress.best_score) == (2, 0.9)
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    # Every second epoch, each best one (1 and 2) and the last: 1, 2, 4, 6, 7.
    assert names == ["step-00000002", "step-00000006", "step-00000007"]


def test_a_corrupt_checkpoint_does_not_take_the_place_of_the_one_that_follows(task, tmp_path):
    folder = tmp_path / "run"
    train(task, folder, epochs=3, keep_checkpoints=3)
    for checkpoint in sorted((folder / "checkpoints").glob("step-*"))[1:]:
        (checkpoint / "state.sha256").write_text("damage")
    progress = train_until(task, folder, epoch=2, epochs=3, keep_checkpoints=1)
    kept = {p.name for p in (folder / "checkpoints").glob("step-*")}
    assert kept == {f"step-{n:08d}" for n in (progress.step, 4 * progress.best_epoch)}
    assert 8 < progress.step < 12  # the corrupt ones are of the steps 8 and 12
    assert all(is_whole(folder / "checkpoints" / name) for name in kept)


def test_resuming_brings_back_the_best_model_of_the_checkpoint(task, tmp_path):
    folder = tmp_path / "run"
    train(task, folder, epochs=3, averaging="ema")
    before = [w.numpy() for w in load_run(folder).model.weights]
    (folder / "model.keras").write_bytes(b"left behind by what came after the checkpoint")
    train(task, folder, epochs=3, averaging="ema", resume=True)
    for weight, expected in zip(load_run(folder).model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_the_seed_decides_on_the_initial_weights(task, tmp_path):
    losses = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        train(task, folder, epochs=1, steps_per_epoch=1, seed=seed)
        losses.append(history(folder)[0]["train_loss"])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_each_step_is_taken_at_the_learning_rate_of_the_schedule(task, tmp_path):
    # After the first epoch the rate is 0: nothing moves any more.
    schedule = {"name": "step", "every": 1, "factor": 0.0}
    train(task, tmp_path / "run", epochs=3, steps_per_epoch=2, schedule=schedule)
    rows = history(tmp_path / "run")
    assert [float(row["learning_rate"]) for row in rows] == [0.01, 0.0, 0.0]
    assert rows[0]["validation_loss"] == rows[1]["validation_loss"] == rows[2]["validation_loss"]
    assert rows[0]["train_loss"] != rows[1]["train_loss"]


def test_a_resumed_run_remembers_the_results_that_its_schedule_depends_on(task, tmp_path):
    # No Dice exceeds the first by 0.9, so the rate is halved after the epochs 2 and 3.
    schedule = {"name": "plateau", "factor": 0.5, "patience": 1, "min_delta": 0.9}
    settings = {"epochs": 4, "steps_per_epoch": 1, "keep_checkpoints": 4, "schedule": schedule}
    train(task, tmp_path / "run", **settings)
    rates = [row["learning_rate"] for row in history(tmp_path / "run")]
    assert rates == ["0.01", "0.01", "0.005", "0.0025"]
    for late in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[2:]:
        shutil.rmtree(late)
    train(task, tmp_path / "run", resume=True, **settings)
    assert [row["learning_rate"] for row in history(tmp_path / "run")] == rates


def test_resuming_without_a_checkpoint_is_an_error(task, tmp_path):
    create_run(tmp_path / "run", task.config(), MANIFEST)
    with pytest.raises(DataError, match="nothing to resume"):
        train(task, tmp_path / "run", resume=True)


def test_early_stopping_ends_a_run_that_no_longer_improves(task, tmp_path):
    lines = []
    progress = train(
        task, tmp_path / "run", epochs=9, early_stopping=2, learning_rate=1e-9, lines=lines
    )
    assert progress.epoch < 9
    assert progress.epoch - progress.best_epoch == 2
    assert "Stopped early" in lines[-1]


def test_a_batch_that_does_not_divide_is_refused_before_training(task, tmp_path):
    with pytest.raises(ConfigError, match="does not divide by 2 replicas. Use 2 or 4"):
        train(task, tmp_path / "run", replicas=2, batch_size=3)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_explodes_stops_the_run(task, tmp_path):
    with pytest.raises(ConfigError, match="the loss became nan in step") as caught:
        train(task, tmp_path / "run", learning_rate=1e30, clip_norm=0.0, epochs=3)
    assert "lower train.learning_rate or train.clip_norm" in str(caught.value)


@pytest.mark.parametrize("step", [1, 6, 8])
def test_a_batch_with_which_the_loss_is_not_finite_is_named_and_saved(task, tmp_path, step):
    broken = Task()
    broken.images = task.images.copy()
    broken.images[4 * step - 2, 3, 3] = np.nan  # the third of its batch
    with pytest.raises(ConfigError, match=f"nan in step {step} on patches of disc") as caught:
        train(broken, tmp_path / "run")
    names = [f"disc{n}" for n in range(4 * step - 4, 4 * step)]
    assert f"on patches of {', '.join(names)} (saved as " in str(caught.value)
    with np.load(tmp_path / "run" / f"nonfinite-step-{step}.npz") as file:
        assert list(file["case"]) == names
        np.testing.assert_array_equal(file["image"], broken.images[4 * step - 4 : 4 * step])
        np.testing.assert_array_equal(file["label"], broken.labels[4 * step - 4 : 4 * step])
    saved = sorted(p.name for p in (tmp_path / "run").glob("checkpoints/step-*"))
    assert saved == ["step-00000004"][: (step - 1) // 4]


def test_the_averaged_weights_are_validated_and_saved(task, tmp_path):
    plain, averaged = tmp_path / "plain", tmp_path / "averaged"
    train(task, plain, epochs=1)
    train(task, averaged, epochs=1, averaging={"name": "ema", "decay": 0.999})
    rows = [history(run)[0] for run in (plain, averaged)]
    assert rows[0]["train_loss"] == rows[1]["train_loss"]
    assert rows[0]["validation_loss"] != rows[1]["validation_loss"]
    last = checkpoint_arrays(averaged)
    model = load_run(averaged).model
    kernel = model.get_layer("logits").get_weights()[0]
    assert any(np.array_equal(kernel, v) for k, v in last.items() if k.startswith("average/"))
    assert not any(np.array_equal(kernel, v) for k, v in last.items() if k.startswith("model/"))


def test_accumulation_changes_memory_and_not_the_curve(task, tmp_path):
    for steps in (1, 4):
        train(task, tmp_path / str(steps), epochs=1, accumulation_steps=steps)
    one, four = (history(tmp_path / str(steps))[0] for steps in (1, 4))
    np.testing.assert_allclose(float(four["train_loss"]), float(one["train_loss"]), rtol=1e-5)
    with pytest.raises(ConfigError, match="1 replicas of 3 accumulation steps. Use 3 or 6"):
        train(task, tmp_path / "3", epochs=1, accumulation_steps=3)


def test_the_whole_step_can_be_compiled_on_one_device(task, tmp_path):
    for xla in (False, "step"):
        train(task, tmp_path / str(xla), epochs=1, xla=xla)
    plain, compiled = (history(tmp_path / str(xla))[0] for xla in (False, "step"))
    for column in ("train_loss", "validation_loss", "gradient_norm"):
        np.testing.assert_allclose(float(compiled[column]), float(plain[column]), rtol=1e-4)
    with pytest.raises(ConfigError, match="train.xla=step .* GPUs only. Set train.xla=on"):
        train(task, tmp_path / "two", replicas=2, xla="step")


def test_deep_supervision_trains_all_resolutions_and_saves_the_finest(task, tmp_path):
    model = {"deep_supervision": True, "downsamplings": 2}
    progress = train(task, tmp_path / "run", epochs=4, model=model)
    assert progress.best_score > 0.5
    saved = load_run(tmp_path / "run").model
    assert saved.output.shape == (None, 16, 16, 2)
    assert "logits_1" not in [layer.name for layer in saved.layers]


def test_what_is_asked_for_is_shown(task, tmp_path):
    folder = tmp_path / "run"
    train(task, folder, epochs=2, histograms=True, hparams=True, profile_steps=[2, 3], l2=1e-3)
    log = EventAccumulator(str(folder / "logs/train"), {"tensors": 0}).Reload()
    tags = set(log.Tags()["tensors"])
    assert {"memory_mb", "loss/cross_entropy", "loss/dice", "loss/penalty"} <= tags
    assert {"learning_rate_per_step", "gradient_norm_per_step", "logits/kernel"} <= tags
    assert len(log.Tensors("learning_rate_per_step")) == 8
    held_out = EventAccumulator(str(folder / "logs/validation"), {"tensors": 0}).Reload()
    assert "best_dice" in held_out.Tags()["tensors"]
    plugins = held_out.summary_metadata.values()
    assert any(m.plugin_data.plugin_name == "hparams" for m in plugins)
    assert list((folder / "logs" / "train").rglob("*.xplane.pb"))
    with Image.open(folder / "progress.png") as picture:
        assert picture.size == (1200, 350)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_nothing_of_that_is_written_unasked(finished):
    folder, _, _ = finished
    log = EventAccumulator(str(folder / "logs/train"), {"tensors": 0}).Reload()
    assert not {"logits/kernel", "loss/penalty"} & set(log.Tags()["tensors"])
    assert not list((folder / "logs").rglob("*.xplane.pb"))


def test_two_replicas_save_a_model_that_loads(task, tmp_path):
    progress = train(task, tmp_path / "run", replicas=2, epochs=2)
    assert progress.epoch == 2
    assert load_run(tmp_path / "run").model.count_params() > 0


def test_mixed_precision_trains_and_leaves_the_policy_as_it_was(task, tmp_path):
    train(task, tmp_path / "run", epochs=1, precision="mixed_float16")
    assert keras.config.dtype_policy().name == "float32"
    model = load_run(tmp_path / "run").model
    assert model.get_layer("encoder0_conv1").compute_dtype == "float16"
    assert model.output.dtype == "float32"


def test_an_existing_run_is_not_overwritten(finished, task):
    folder, _, _ = finished
    with pytest.raises(ConfigError, match="holds a run already"):
        train(task, folder)


def test_a_run_that_died_before_its_first_checkpoint_starts_anew(task, tmp_path):
    create_run(tmp_path / "run", task.config(epochs=7), MANIFEST)
    (tmp_path / "run" / "logs" / "train").mkdir(parents=True)
    (tmp_path / "run" / "logs" / "train" / "stale").touch()
    train(task, tmp_path / "run", epochs=1)
    assert load_run(tmp_path / "run").config.train.epochs == 1
    assert not (tmp_path / "run" / "logs" / "train" / "stale").exists()


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint_before(task, tmp_path, monkeypatch):
    written, savez = [], np.savez

    def savez_until_full(file, **arrays):
        written.append(file)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", savez_until_full)
    with pytest.raises(DataError, match=r"cannot write .*No space left on device.*--resume"):
        train(task, tmp_path / "run", epochs=3)
    names = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["step-00000004"]
    lines = []
    train(task, tmp_path / "run", epochs=3, resume=True, lines=lines)
    assert "after epoch 1 of 3" in lines[0]


def test_a_folder_without_a_model_is_no_run(tmp_path):
    with pytest.raises(DataError, match="is not a trained run: it has no config.yaml"):
        load_run(tmp_path)
