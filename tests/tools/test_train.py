import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow  # noqa: F401 - seen by conftest, which then gives it two devices
import yaml

from data_prep.checks import check_patch
from segkit.errors import ConfigError
from tests.tools.trainings import TINY
from tests.tools.trainings import history
from tests.tools.trainings import wait_for
from tools import train

ROOT = Path(__file__).resolve().parents[2]


def arguments(data, run, *more, settings=()):
    sets = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    return [
        "--model",
        "unet",
        "--data",
        str(data),
        "--run",
        str(run),
        "--no-evaluate",
        *sets,
        *more,
    ]


def test_training_writes_a_run_scores_it_and_says_what_to_do_next(phantom_data, tmp_path, capsys):
    argv = arguments(phantom_data, tmp_path / "run", settings=["train.epochs=2"])
    code = train.main([part for part in argv if part != "--no-evaluate"])
    out = capsys.readouterr().out
    assert code == 0
    for tool in ("tensorboard --logdir", "evaluate.py", "predict.py", "export.py"):
        assert tool in out
    assert len(history(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "evaluation" / "test" / "results.json").is_file()
    for name in ("config.yaml", "dataset.json", "environment.json", "model.keras"):
        assert (tmp_path / "run" / name).is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "unt3d"], "unknown model 'unt3d'. Did you mean 'unet3d'"),
        (["--model", "unet", "--set", "train.epohcs=1"], "Did you mean 'epochs'"),
        (["--model", "unet", "--set", "train.optimizer=admw"], "Did you mean 'adamw'"),
        (["--model", "unet", "--set", "train.schedule=polly"], "Did you mean 'poly'"),
        (["--model", "unet", "--set", "train.optimizer={name: sgd, momentun: 0.9}"], "'momentum'"),
        (["--model", "unet", "--set", "train.optimizer={momentum: 0.9}"], "name is missing"),
        (["--model", "unet", "--set", "train.schedule={name: step, every: 0}"], "above 0, got 0"),
        (["--model", "unet", "--set", "augment.policy=nnunett"], "Did you mean 'nnunet'"),
        (["--model", "unet", "--set", "augment.policy=[rotate: {}]"], "Did you mean 'rotation'"),
        (["--config", "nowhere.yaml"], "no config file nowhere.yaml"),
        (["--model", "unet", "--data", "nowhere"], "nowhere"),
        (["--model", "unet", "--resume", "--runs", "nowhere"], "nothing to resume"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_fold_that_does_not_exist_is_refused(phantom_data, tmp_path, capsys):
    argv = arguments(phantom_data, tmp_path / "run", settings=["data.fold=5", "train.epochs=1"])
    assert train.main(argv) == 2
    assert "data.fold must be below 5" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_fold_decides_on_what_is_validated(phantom_data, tmp_path, capsys):
    scores = []
    for fold in (0, 1):
        run = tmp_path / str(fold)
        settings = ["train.epochs=1", f"data.fold={fold}"]
        assert train.main(arguments(phantom_data, run, settings=settings)) == 0
        assert f"validating on fold{fold}" in capsys.readouterr().out
        scores.append(history(run)[0]["validation_loss"])
    assert scores[0] != scores[1]


MIXED = """
- multi_scale: {scales: [0.8, 1.2]}
- rotation: {probability: 0.5}
- elastic: {probability: 0.5}
- gaussian_noise: {probability: 0.5}
- mixup: {probability: 0.5}
- copy_paste: {probability: 0.5, classes: [1, 2]}
"""


@pytest.mark.slow
def test_both_placements_on_one_and_two_replicas_train_alike(phantom_data, tmp_path):
    policy = tmp_path / "mixed.yaml"
    policy.write_text(MIXED)
    losses = {}
    for placement, devices, xla in (
        ("input", "cpu:1", "off"),
        ("input", "cpu:2", "off"),
        ("device", "cpu:1", "on"),
        ("device", "cpu:2", "off"),
    ):
        run = tmp_path / f"{placement}-{devices[-1]}"
        settings = [
            "train.epochs=2",
            f"augment.policy={policy}",
            f"augment.placement={placement}",
            f"train.xla={xla}",
        ]
        argv = arguments(phantom_data, run, "--devices", devices, settings=settings)
        subprocess.run(command(*argv), check=True, cwd=tmp_path, capture_output=True)
        losses[run.name] = [float(row["train_loss"]) for row in history(run)]
    for name, found in losses.items():
        np.testing.assert_allclose(found, losses["input-1"], rtol=1e-5, err_msg=name)
    plain = tmp_path / "plain"
    settings = ["train.epochs=2", "augment.policy=none"]
    assert train.main(arguments(phantom_data, plain, "--devices", "cpu:1", settings=settings)) == 0
    assert abs(float(history(plain)[0]["train_loss"]) / losses["input-1"][0] - 1) > 2e-3


def test_a_run_keeps_its_policy_and_not_the_name_of_a_file(phantom_data, tmp_path):
    policy = tmp_path / "mine.yaml"
    policy.write_text("- flip: {axes: [0.0, 0.5, 0.5]}\n")
    settings = ["train.epochs=1", f"augment.policy={policy}"]
    assert train.main(arguments(phantom_data, tmp_path / "run", settings=settings)) == 0
    policy.unlink()
    found = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert found["augment"]["policy"] == [{"flip": {"axes": [0.0, 0.5, 0.5]}}]


def test_mixing_on_devices_needs_whole_pairs_per_replica(phantom_data, tmp_path, capsys):
    settings = [
        "train.epochs=1",
        "train.batch_size=6",
        "augment.policy=[cutmix: {}]",
        "augment.placement=device",
    ]
    argv = arguments(phantom_data, tmp_path / "run", "--devices", "cpu:2", settings=settings)
    assert train.main(argv) == 2
    assert "train.batch_size must be a multiple of 4 for 2 replicas" in capsys.readouterr().err


def test_an_option_out_of_range_leaves_no_run(phantom_data, tmp_path, capsys):
    for policy, message in (
        ("[gamma: {gamma: [-1.0, 2.0]}]", "augment.gamma.gamma must be"),
        ("[hue: {}]", "3 channels"),
        ("[elastic: {}, elastic: {control_points: 9}]", "same number of control points"),
    ):
        settings = ["train.epochs=1", f"augment.policy={policy}"]
        assert train.main(arguments(phantom_data, tmp_path / "run", settings=settings)) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_too_little_memory_for_one_batch_says_how_much_is_needed(phantom_data, tmp_path, capsys):
    settings = ["train.epochs=1", "data.memory_mb=1"]
    assert train.main(arguments(phantom_data, tmp_path / "run", settings=settings)) == 2
    assert "Set data.memory_mb=" in capsys.readouterr().err


def test_a_corrupt_shard_is_named(phantom_data, tmp_path, capsys):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(phantom_data, broken)
    shard = sorted(broken.glob("fold1-*.tfrecord"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    argv = arguments(broken, tmp_path / "run", settings=["train.epochs=3", "train.batch_size=8"])
    assert train.main(argv) == 2
    assert shard.name in capsys.readouterr().err


def test_a_setting_that_does_not_fit_the_network_leaves_no_run(phantom_data, tmp_path, capsys):
    settings = ["train.epochs=1", "data.patch_size=[33, 32]"]
    assert train.main(arguments(phantom_data, tmp_path / "run", settings=settings)) == 2
    assert "Pad it to 34" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def chunked(length):
    return {
        "options": {"chunk": 160, "chunk_overlap": 64},
        "cases": {"a": {"shape": [20, 30, 40]}, "b": {"shape": [20, length, 40]}},
    }


def test_a_patch_larger_than_a_stored_chunk_is_refused():
    with pytest.raises(ConfigError, match="a height of 192, .* --chunk-overlap 192"):
        check_patch([192, 32], chunked(300))
    check_patch([192, 32], chunked(100))  # the case is one chunk: nothing is cut off


def test_a_patch_larger_than_the_overlap_is_pointed_out():
    (note,) = check_patch([16, 96, 32], chunked(300))
    assert "the height of 96 is above their overlap of 64" in note
    assert check_patch([16, 64, 32], chunked(300)) == []


def test_resuming_with_other_settings_names_the_difference(phantom_data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train.main(arguments(phantom_data, run, settings=["train.epochs=1"])) == 0
    argv = arguments(phantom_data, run, "--resume", settings=["train.epochs=2"])
    assert train.main(argv) == 2
    assert "train.epochs differs" in capsys.readouterr().err
    assert train.main(arguments(phantom_data, run, settings=["train.epochs=1"])) == 2
    assert "Add --resume" in capsys.readouterr().err


def command(*argv):
    return [sys.executable, str(ROOT / "tools" / "train.py"), *argv]


@pytest.mark.slow
def test_a_run_killed_with_sigkill_resumes_from_its_last_checkpoint(phantom_data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = ["train.epochs=6", "train.steps_per_epoch=4"]
    assert train.main(arguments(phantom_data, whole, settings=settings)) == 0
    process = subprocess.Popen(
        command(*arguments(phantom_data, cut, settings=settings)),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    wait_for(lambda: list(cut.glob("checkpoints/step-*")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(history(cut)) < 6
    assert train.main(arguments(phantom_data, cut, "--resume", settings=settings)) == 0
    losses = [[float(row["train_loss"]) for row in history(run)] for run in (whole, cut)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("xla", ["off", "on"])
def test_two_cpu_replicas_give_the_curve_of_one(phantom_data, tmp_path, xla):
    losses = []
    for devices in ("cpu:1", "cpu:2"):
        run = tmp_path / devices.replace(":", "")
        settings = ["train.epochs=20", "train.steps_per_epoch=1", f"train.xla={xla}"]
        argv = arguments(phantom_data, run, "--devices", devices, settings=settings)
        subprocess.run(command(*argv), check=True, cwd=tmp_path, capture_output=True)
        losses.append([float(row["train_loss"]) for row in history(run)])
    assert len(losses[0]) == 20
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
