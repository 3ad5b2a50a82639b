"""Several workers: two processes on this machine that train together."""

import json
import os
import socket
import subprocess
import time

import pytest

from segkit.errors import ConfigError
from segkit.training.checkpoint import list_checkpoints
from segkit.training.cluster import is_first_worker
from segkit.training.cluster import number_of_workers
from tests.tools.test_train import arguments
from tests.tools.test_train import command
from tests.tools.trainings import history
from tests.tools.trainings import wait_for
from tools import train


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for opened in sockets:
        opened.close()
    return addresses


def tf_config(addresses, index):
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


def start(argv, folder):
    """Starts two workers; their output goes to `worker0.txt` and `worker1.txt`."""
    addresses, processes = free_addresses(2), []
    for index in range(2):
        environment = {**os.environ, "TF_CONFIG": tf_config(addresses, index)}
        output = open(folder / f"worker{index}.txt", "w")  # noqa: SIM115 - the process' own
        with output:
            processes.append(
                subprocess.Popen(
                    command(*argv), env=environment, stdout=output, stderr=subprocess.STDOUT
                )
            )
    return processes


@pytest.mark.slow
def test_two_workers_train_as_two_replicas_lose_one_and_go_on(phantom_data, tmp_path):
    settings = ["train.epochs=4", "train.steps_per_epoch=2", "augment.policy=light"]
    replicas = tmp_path / "replicas"
    argv = arguments(phantom_data, replicas, "--devices", "cpu:2", settings=settings)
    subprocess.run(command(*argv), check=True, capture_output=True)

    workers = tmp_path / "workers"
    argv = arguments(phantom_data, workers, settings=settings)
    assert [p.wait(300) for p in start(argv, tmp_path)] == [0, 0]
    columns = ("train_loss", "validation_loss", "train_dice", "validation_dice", "gradient_norm")
    for one, other in zip(history(replicas), history(workers), strict=True):
        assert [one[c] for c in columns] == [other[c] for c in columns]
    assert (workers / "model.keras").is_file()

    cut, settings = tmp_path / "cut", ["train.epochs=400", *settings[1:]]
    argv = arguments(phantom_data, cut, settings=settings)
    first, second = start(argv, tmp_path)
    wait_for(lambda: list_checkpoints(cut / "checkpoints"))
    second.kill()
    assert first.wait(60) == 2
    last_line = (tmp_path / "worker0.txt").read_text().strip().splitlines()[-1]
    assert last_line.startswith("error: another worker ended or cannot be reached")
    assert last_line.endswith("Start all workers again with --resume.")
    done = len(history(cut))
    first, second = start([*argv, "--resume"], tmp_path)
    while len(history(cut)) < done + 2 and first.poll() is None:
        time.sleep(0.05)
    second.terminate()  # a request to one worker stops all of them after the same step
    assert [p.wait(60) for p in (first, second)] == [0, 0]
    for index in range(2):
        text = (tmp_path / f"worker{index}.txt").read_text()
        assert f"Resumed {cut} after epoch" in text
        assert "Stopped by " in text


def test_workers_are_counted_and_the_first_one_writes(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert (number_of_workers(), is_first_worker()) == (1, True)
    for index in range(2):
        monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:2"], index))
        assert (number_of_workers(), is_first_worker()) == (2, index == 0)
    chief = {"cluster": {"chief": ["a:1"], "worker": ["b:2"]}}
    for kind in ("chief", "worker"):
        config = chief | {"task": {"type": kind, "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        assert (number_of_workers(), is_first_worker()) == (2, kind == "chief")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"cluster": {}}', tf_config(["a:1"], 1), '{"cluster": 3, "task": {}}']
)
def test_a_malformed_tf_config_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match='TF_CONFIG must be JSON such as {"cluster"'):
        number_of_workers()


def test_workers_need_common_folders(monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:2"], 0))
    assert train.main(["--model", "unet"]) == 2
    assert "need --run and --data" in capsys.readouterr().err


def test_a_number_of_devices_is_refused_with_several_workers(monkeypatch):
    from segkit.training.devices import make_strategy

    monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:2"], 0))
    with pytest.raises(ConfigError, match="each takes the devices of its machine. Use cpu"):
        make_strategy("cpu:2")
