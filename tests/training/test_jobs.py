import os
import signal
import subprocess
import sys
import time

import pytest

from segkit.config import config_from_dict
from segkit.config import save_config
from segkit.errors import ConfigError
from segkit.training import jobs


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(jobs, "POLL_S", 0.02)


@pytest.fixture
def start(tmp_path):
    """Starts a script, given as text, and gives its job."""

    def call(text, *arguments, **options):
        script = tmp_path / "script.py"
        script.write_text(text)
        with jobs.exclusive(tmp_path / "out") as lock:
            return jobs.start(script, arguments, tmp_path / "out" / "log", lock=lock, **options)

    return call


def test_a_job_gets_its_arguments_and_environment_and_keeps_a_log(start, tmp_path):
    text = "import os, sys; print(sys.argv[1:], os.environ['COLOUR'], __name__)"
    assert start(text, "--x", 3, environment={"COLOUR": "red"}).failure() is None
    assert start("print('again')").failure() is None
    script = tmp_path / "script.py"
    assert (tmp_path / "out" / "log").read_text().splitlines() == [
        f"$ python {script} --x 3",
        "['--x', '3'] red __main__",
        f"$ python {script}",
        "again",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import sys; print('error: old');print('error: no data.'); print('more'); sys.exit(2)",
            "no data.",
        ),
        ("raise ValueError('bad\\n shape')", "ValueError: bad"),
        ("import sys; print('what?'); sys.exit(3)", "what?"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "it was ended by SIGKILL, often for want of memory.",
        ),
        ("import os; os.kill(os.getpid(), 15)", "it was ended by SIGTERM."),
        ("import sys; sys.exit(143)", "it was ended by SIGTERM."),
    ],
)
def test_why_a_job_failed_is_one_line(start, text, reason):
    start("import sys; print('error: of an earlier job'); sys.exit(2)").failure()
    job = start(text)
    assert job.failure() == reason
    assert job.terminated == ("SIGTERM" in reason)


def test_a_tool_that_says_nothing_has_a_reason_too():
    assert jobs.last_error("\n \n") == "it said nothing."


SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready")
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready")
time.sleep(60)
"""


def wait_for_ready(job):
    deadline = time.monotonic() + 30
    while "ready" not in job.log.read_text()[job.log_start :]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_may_save_before_it_ends(start, tmp_path):
    job = start(SAVES, tmp_path / "state")
    wait_for_ready(job)
    jobs.end([job])
    assert (tmp_path / "state").read_text() == "saved"
    assert job.failure() is None


def test_a_job_that_does_not_listen_is_killed(start):
    job = start(STUBBORN)
    wait_for_ready(job)
    jobs.end([job], patience_s=0.1)
    assert job.process.poll() == -signal.SIGKILL


def test_a_job_ends_when_its_parent_is_gone(start, tmp_path):
    job = start(SAVES, tmp_path / "state")
    wait_for_ready(job)
    job.process.stdin.close()  # what the system does for a process that ends in any way
    assert job.process.wait(30) == 0
    assert (tmp_path / "state").read_text() == "saved"


def test_a_folder_is_held_by_one_process_and_its_jobs(start, tmp_path):
    out = tmp_path / "out"
    with (
        jobs.exclusive(out),
        pytest.raises(ConfigError, match=f"in use by process {os.getpid()} "),
        jobs.exclusive(out),
    ):
        pass
    job = start("print('ready'); import time; time.sleep(60)")  # out of the block that held it
    with pytest.raises(ConfigError, match="a training that it started"), jobs.exclusive(out):
        pass
    jobs.end([job])
    with jobs.exclusive(out):
        pass


def test_sigterm_interrupts_within_the_block_only():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), jobs.sigterm_interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


WAITS = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
"""


def test_tasks_run_side_by_side_and_their_jobs_in_a_row(tmp_path):
    script, order, at_work = tmp_path / "script.py", [], []
    script.write_text(WAITS)

    def steps(task, environment):
        for number, waits_for in enumerate(task):
            at_work.append(environment["PLACE"])
            yield jobs.start(
                script, [tmp_path / waits_for], tmp_path / "log", lock=lock, environment=environment
            )
            order.append((waits_for, number))
        (tmp_path / task[-1]).with_suffix(".ended").touch()
        return f"outcome {number}"

    # The first waits until the last has ended, which starts when the second has.
    first, second, last = ("last.ended", "go"), ("go",), ("go", "last")
    for name in ("go", "last"):
        (tmp_path / name).touch()
    places, polls = [{"PLACE": "a"}, {"PLACE": "b"}], []
    with jobs.exclusive(tmp_path / "out") as lock:
        tasks = [first, second, last]
        ended = jobs.run_side_by_side(tasks, steps, places, on_poll=lambda: polls.append(1))
        assert list(ended) == [(second, "outcome 0"), (last, "outcome 1"), (first, "outcome 1")]
    assert order == [("go", 0), ("go", 0), ("last", 1), ("last.ended", 0), ("go", 1)]
    assert at_work == ["a", "b", "b", "b", "a"]
    assert polls


def test_leaving_early_ends_the_jobs_at_work(tmp_path):
    script, started = tmp_path / "script.py", []
    script.write_text(WAITS)

    def steps(task, _environment):
        started.append(jobs.start(script, [tmp_path / task], tmp_path / "log", lock=lock))
        yield started[-1]

    def interrupt():
        if len(started) == 2:
            raise KeyboardInterrupt

    with jobs.exclusive(tmp_path / "out") as lock, pytest.raises(KeyboardInterrupt):
        list(jobs.run_side_by_side(["x", "y", "z"], steps, [{}, {}], on_poll=interrupt))
    assert [job.process.returncode for job in started] == [-signal.SIGTERM] * 2


def test_gpus_are_dealt_among_jobs(monkeypatch):
    def shares(count, visible):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return [e.get("CUDA_VISIBLE_DEVICES") for e in jobs.gpu_shares(count)]

    assert shares(2, "0,1,2,3") == ["0,1", "2,3"]
    assert shares(2, "3,GPU-5,7") == ["3", "GPU-5"]
    assert shares(4, "0,1") == ["0", "1", "0", "1"]
    assert jobs.gpu_shares(4)[0]["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert "TF_FORCE_GPU_ALLOW_GROWTH" not in jobs.gpu_shares(2)[0]
    assert shares(1, "0,1") == [None]
    assert shares(2, "") == [None, None]


def test_gpus_are_those_that_the_driver_lists(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jobs.gpu_shares(2) == [{}, {}]
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!{sys.executable}\nprint('0')\nprint('1')\n")
    tool.chmod(0o755)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in jobs.gpu_shares(2)] == ["0", "1"]
    tool.write_text(f"#!{sys.executable}\nprint('no driver')\nraise SystemExit(9)\n")
    assert jobs.gpu_shares(2) == [{}, {}]


@pytest.fixture
def run(tmp_path):
    """Writes a run folder of 5 epochs with the given validation Dice."""

    def write(*dice, early_stopping=0):
        raw = {
            "model": {"name": "unet"},
            "data": {"patch_size": [8, 8]},
            "loss": {"name": "dice"},
            "train": {"epochs": 5, "steps_per_epoch": 1, "batch_size": 1},
        }
        raw["train"]["early_stopping"] = early_stopping
        save_config(config_from_dict(raw), tmp_path / "config.yaml")
        rows = [f"{n},{value}\n" for n, value in enumerate(dice, start=1)]
        (tmp_path / "history.csv").write_text("epoch,validation_dice\n" + "".join(rows))
        return tmp_path

    return write


def test_a_run_is_complete_after_its_last_epoch_or_an_early_stop(run):
    assert not jobs.is_complete(run())
    assert not jobs.is_complete(run(0.1, 0.3, 0.2, 0.3))
    assert jobs.is_complete(run(0.1, 0.3, 0.2, 0.3, 0.1))
    # The best epoch is the second: an equal one later is no better.
    assert jobs.is_complete(run(0.1, 0.3, 0.2, 0.3, early_stopping=2))
    assert not jobs.is_complete(run(0.1, 0.3, 0.2, early_stopping=2))
    assert not jobs.is_complete(run(0.1, 0.2, 0.3, 0.4, early_stopping=2))


def test_a_history_is_read_again_when_it_has_changed(run, tmp_path):
    assert jobs.read_history(tmp_path) == ()
    assert jobs.read_history(run(0.1)) == ((1, 0.1),)
    assert jobs.read_history(run(0.1, 0.25)) == ((1, 0.1), (2, 0.25))


def test_a_run_with_a_checkpoint_is_resumed_and_one_without_starts_anew(run):
    folder = run(0.1)
    expected = ["--config", "c.yaml", "--run", folder, "--devices", "cpu", "--no-evaluate"]
    expected += ["--set", "a.b=1", "--set", "c.d=2"]
    arguments = (folder, "c.yaml", ["a.b=1", "c.d=2"], "cpu")
    assert jobs.training_arguments(*arguments) == expected
    assert jobs.read_history(folder) == ()
    (run(0.1) / "checkpoints" / "step-00000001").mkdir(parents=True)
    assert jobs.training_arguments(*arguments) == [*expected, "--resume"]
    assert jobs.read_history(folder) == ((1, 0.1),)


def test_jobs_are_started_without_tensorflow():
    code = "import sys, segkit.training.jobs; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
