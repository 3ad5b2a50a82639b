"""Trainings in processes of their own, for tools that run many of them; no TensorFlow.

A process gives back its memory and its devices when it ends, and one that fails takes no other
with it. What a training has reached stands in its run folder, so nothing is kept here: a tool
that was killed looks at the folders and goes on.
"""

import contextlib
import csv
import fcntl
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from segkit.config import load_config
from segkit.errors import ConfigError
from segkit.errors import writing
from segkit.training.checkpoint import list_checkpoints

POLL_S = 0.2
PATIENCE_S = 120  # for the checkpoint that a training may write when it is ended
SCORES = ("validation_dice", "validation_instance_f1")  # by which the best epoch is chosen
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")


@dataclass(frozen=True)
class Job:
    """A tool at work in a process of its own.

    Attributes:
        process: The process; it ends when its standard input is closed.
        log: File that its output is appended to.
        log_start: Where its output starts there, in bytes.
    """

    process: subprocess.Popen
    log: Path
    log_start: int

    @property
    def running(self):
        """Whether the process has not ended yet."""
        return self.process.poll() is None

    @property
    def terminated(self):
        """Whether the process was ended by SIGTERM; a training may also save and end with 0."""
        return self.process.poll() in (-signal.SIGTERM, 128 + signal.SIGTERM)

    def failure(self):
        """Waits for the end; returns in one line why the job failed, or `None` if it did not."""
        code = self.process.wait()
        self.process.stdin.close()
        if code == 0:
            return None
        if self.terminated:
            return "it was ended by SIGTERM."
        if code < 0:
            hint = ", often for want of memory" if code == -signal.SIGKILL else ""
            return f"it was ended by {signal.Signals(-code).name}{hint}."
        with open(self.log, "rb") as file:
            file.seek(self.log_start)
            return last_error(file.read().decode(errors="replace"))


def start(tool, arguments, log, *, lock, environment=None):
    """Starts a tool in a process of its own, out of reach of the terminal's Ctrl-C.

    The process ends itself, as by SIGTERM, when this one is gone for whatever reason.

    Args:
        tool: Path of a Python script.
        arguments: Its arguments.
        log: File to append the command and its output to.
        lock: From `exclusive`; the job holds it too, until it ends.
        environment: Mapping of environment variables to set.

    Returns:
        `Job`.

    Raises:
        DataError: If the log cannot be written.
    """
    arguments = [str(tool), *map(str, arguments)]
    command = [sys.executable, "-P", "-m", "segkit.training.jobs", *arguments]
    with writing(log, "Free some space, then repeat the command."):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            output.write(f"$ python {shlex.join(arguments)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                start_new_session=True,
                pass_fds=[lock],
            )
            return Job(process, log, output.tell())


def end(jobs, *, patience_s=PATIENCE_S):
    """Ends jobs: asks with SIGTERM, on which a training may save, and kills what is left.

    Args:
        jobs: Iterable of `Job`; those that have ended stay as they are.
        patience_s: Seconds to wait before killing; Ctrl-C makes it short.
    """
    jobs = list(jobs)
    for job in jobs:
        job.process.terminate()
    deadline = time.monotonic() + patience_s
    try:
        for job in jobs:
            job.process.wait(max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for job in jobs:
            job.process.kill()
            job.process.wait()
            job.process.stdin.close()


def run_side_by_side(tasks, steps, environments, *, on_poll):
    """Runs tasks, each a row of jobs, as many at once as there are environments.

    When the block that iterates is left early, the jobs at work are ended.

    Args:
        tasks: List of anything.
        steps: Function `(task, environment)` that gives a generator: it yields each job that it
            started, goes on when that has ended, and returns the outcome of the task.
        environments: One dict per task at work, for `start`.
        on_poll: Called without arguments a few times per second.

    Yields:
        `(task, outcome)` in the order in which tasks end.
    """
    waiting, active = list(tasks), {}  # active: place -> [task, its generator, job or None]
    try:
        while waiting or active:
            for place, environment in enumerate(environments):
                if place not in active and waiting:
                    task = waiting.pop(0)
                    active[place] = [task, steps(task, environment), None]
                if place not in active or (active[place][2] and active[place][2].running):
                    continue
                try:
                    active[place][2] = next(active[place][1])
                except StopIteration as stop:
                    yield active.pop(place)[0], stop.value
            on_poll()
            time.sleep(POLL_S)
    finally:
        end(job for _, _, job in active.values() if job)


@contextlib.contextmanager
def exclusive(folder):
    """Makes a folder and holds it for this process and its jobs; yields what `start` calls `lock`.

    Raises:
        ConfigError: If another process holds it.
        DataError: If it cannot be written.
    """
    with writing(folder, "Name another --out."):
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = open(Path(folder) / "lock", "a+", encoding="utf-8")  # noqa: SIM115 - held below
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{folder} is in use by process {file.read()} or a training that it started. Wait "
                "for its end, or name another --out."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


@contextlib.contextmanager
def sigterm_interrupts():
    """Makes SIGTERM do what Ctrl-C does, for the time of the block."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def gpu_shares(count):
    """Returns environments that deal the visible GPUs among jobs that run at once.

    Each job gets the same number. More jobs than GPUs take turns in sharing one, and then take its
    memory as they need it. A single job, or a machine without GPUs, stays as it is.

    Args:
        count: Number of jobs at once.

    Returns:
        List of `count` dicts for `start`.
    """
    gpus = _visible_gpus() if count > 1 else []
    if not gpus:
        return [{}] * count
    each = max(1, len(gpus) // count)
    shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if count > len(gpus) else {}
    dealt = [[gpus[(n * each + k) % len(gpus)] for k in range(each)] for n in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share), **shared} for share in dealt]


def complete_config(train, args):
    """Returns the config that tools/train.py makes of `args`, with its data set made and named.

    Args:
        train: Names that tools/train.py defines, from `runpy.run_path`.
        args: Arguments with `model`, `config`, `data` and `set`, as tools/train.py has them.

    Raises:
        SegkitError: As tools/train.py.
    """
    config = train["read_config"](args)
    if config.task:
        raise ConfigError(
            f"the config makes images (task {config.task.name}), and this tool trains networks "
            "that segment. Use tools/train.py."
        )
    return train["find_data"](config)[0]


def training_arguments(folder, config_file, overrides, devices):
    """Returns the arguments for tools/train.py to start a run, or to go on with it.

    Args:
        folder: Run folder. Without a checkpoint the run starts anew, and what an earlier attempt
            told of its epochs goes.
        config_file: Configuration.
        overrides: Strings `section.key=value`.
        devices: As `--devices` of tools/train.py.
    """
    folder = Path(folder)
    found = ["--config", config_file, "--run", folder, "--devices", devices, "--no-evaluate"]
    found += [part for text in overrides for part in ("--set", text)]
    if list_checkpoints(folder / "checkpoints"):
        return [*found, "--resume"]
    (folder / "history.csv").unlink(missing_ok=True)
    return found


def read_history(folder):
    """Returns `(epoch, score)` of each epoch that a run has ended.

    The score is that in validation: mean foreground Dice, or F1 of objects.
    """
    path = Path(folder) / "history.csv"
    return _read_rows(path, path.stat().st_mtime_ns) if path.exists() else ()


def is_complete(folder):
    """Whether a run has trained to its last epoch or has stopped early, and not merely ended."""
    history = read_history(folder)
    if not history:
        return False
    train = load_config(Path(folder) / "config.yaml").train
    last, best = history[-1][0], max(history, key=lambda row: row[1])[0]
    return last >= train.epochs or 0 < train.early_stopping <= last - best


def last_error(text):
    """Returns the line of a tool's output that says why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("error: ") or EXCEPTION.match(line):
            return line.removeprefix("error: ")
    return lines[-1] if lines else "it said nothing."


@lru_cache(maxsize=32)
def _read_rows(path, _changed):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    score = next(filter(rows[0].__contains__, SCORES)) if rows else None
    return tuple((int(row["epoch"]), float(row[score])) for row in rows)


def _visible_gpus():
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


def _run_tool(argv):
    """Runs a script in this process, which ends when its standard input does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


def _end_with_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _run_tool(sys.argv[1:])
