"""Runs that are stopped, killed or run out of disk, and go on to the bit."""

import contextlib
import hashlib
import json
import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from segkit.training.checkpoint import list_checkpoints
from segkit.training.interrupt import stop_requests
from segkit.training.monitor import Monitor
from tests.training.conftest import Task
from tests.training.test_fit import history
from tests.training.test_fit import train

KILLS = 25
LONG = {
    "epochs": 60,
    "steps_per_epoch": 6,
    "averaging": {"name": "ema", "decay": 0.9},
    "schedule": {"name": "plateau", "patience": 3},
    "early_stopping": 0,
}


def state(folder):
    """Digest of each variable of a run's newest checkpoint, and its progress without times."""
    with np.load(list_checkpoints(folder / "checkpoints")[0] / "state.npz") as file:
        digests = {name: hashlib.sha256(file[name].tobytes()).hexdigest() for name in file.files}
        progress = json.loads(file["progress"].tobytes())
    del digests["progress"]
    for key in ("seconds", "waited"):
        del progress["results"][key]
    return digests, progress


def at_step(monkeypatch, number, action):
    """Calls `action` when so many steps were done."""
    before_step = Monitor.before_step

    def do(monitor, step):
        if step == number:
            action()
        before_step(monitor, step)

    monkeypatch.setattr(Monitor, "before_step", do)


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(task, folder, epochs=4, averaging="ema", model={"dropout": 0.2})
    return folder


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "STOP"])
def test_a_request_to_stop_ends_the_run_within_an_epoch_and_it_goes_on_to_the_bit(
    task, tmp_path, monkeypatch, whole, how
):
    folder, lines = tmp_path / "run", []
    settings = {"epochs": 4, "averaging": "ema", "model": {"dropout": 0.2}}

    def ask():
        if how == "STOP":
            (folder / "STOP").touch()
        else:
            signal.raise_signal(signal.Signals[how])

    with monkeypatch.context() as patch:
        at_step(patch, 9, ask)
        progress = train(task, folder, lines=lines, **settings)
    # The step at hand and the one that was under way when its result was read.
    assert progress.stopped == how
    stopped_at = progress.step
    assert 10 <= stopped_at <= 11
    assert lines[-1] == f"Stopped by {how} after step {stopped_at}."
    assert len(history(folder)) == 2
    assert not (folder / "STOP").exists()
    progress = train(task, folder, resume=True, lines=lines, **settings)
    assert f"after epoch 2 of 4, step {stopped_at}." in lines[3]
    assert progress.stopped == ""
    assert state(folder) == state(whole)
    losses = [[row["train_loss"] for row in history(run)] for run in (whole, folder)]
    assert losses[0] == losses[1]


def test_a_second_ctrl_c_ends_the_process_at_once_and_a_second_sigterm_does_not(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests(tmp_path) as requests:
        assert not requests.asked()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert requests.asked()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def run_deterministic(folder):
    """The training of a child process; goes on if there is something to go on from."""
    from segkit.training.devices import make_deterministic

    make_deterministic()
    resume = bool(list_checkpoints(Path(folder) / "checkpoints"))
    train(Task(), Path(folder), resume=resume, model={"dropout": 0.2}, **LONG)


@pytest.mark.slow
def test_a_run_killed_25_times_ends_with_the_bits_of_one_that_was_not(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_stop_and_go"])
    rng = np.random.default_rng(0)

    def start(name):
        process = context.Process(target=run_deterministic, args=(str(tmp_path / name),))
        process.start()
        return process

    process = start("whole")
    process.join()
    assert process.exitcode == 0

    kills, while_writing = 0, 0
    while kills < KILLS:
        process = start("cut")
        # Half of the kills while a checkpoint is being written.
        wait_for_a_moment(process, tmp_path / "cut", writing=rng.random() < 0.5, rng=rng)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # else the run ended before
        kills += 1
        while_writing += bool(list((tmp_path / "cut" / "checkpoints").glob(".step-*.tmp")))
    process = start("cut")
    process.join()
    assert process.exitcode == 0
    assert while_writing > 3
    assert state(tmp_path / "cut") == state(tmp_path / "whole")


def wait_for_a_moment(process, folder, writing, rng):
    """Waits until a run goes on and then a little, or until it writes a checkpoint."""

    def seen():
        names = (folder / "checkpoints").glob(".step-*.tmp" if writing else "step-*")
        with contextlib.suppress(FileNotFoundError):
            return {(p.name, p.stat().st_mtime_ns) for p in names}
        return set()

    before = seen()
    while process.is_alive() and not seen() - before:
        time.sleep(0.001)
    if not writing:
        time.sleep(rng.uniform(0, 0.3))
