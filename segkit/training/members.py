"""Runs that jobs train and score, one after another or side by side; no TensorFlow."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from segkit.config import Config
from segkit.config import save_config
from segkit.errors import SegkitError
from segkit.errors import writing
from segkit.training.jobs import gpu_shares
from segkit.training.jobs import is_complete
from segkit.training.jobs import run_side_by_side
from segkit.training.jobs import start
from segkit.training.jobs import training_arguments

MEND = "Free some space, then repeat the command."


@dataclass(frozen=True)
class Member:
    """A run that jobs bring to its end.

    Attributes:
        name: Unique name.
        folder: Its run folder; the jobs write to `log.txt` in it.
        config: The configuration that it trains with.
        splits: Splits to score it on; the first one is held out.
    """

    name: str
    folder: Path
    config: Config
    splits: tuple[str, ...]

    @property
    def finished(self):
        """Whether the run was trained to its end, and scored on all splits after that."""
        return is_complete(self.folder) and not self.unscored

    @property
    def unscored(self):
        """The splits without a score of the network as it is now."""
        files = [self.folder / name for name in ("history.csv", "model.keras")]
        changed = max(path.stat().st_mtime for path in files if path.exists())
        paths = {split: results_of(self.folder, split) for split in self.splits}
        return [n for n, p in paths.items() if not p.exists() or p.stat().st_mtime < changed]

    @property
    def score(self):
        """The score of a finished run on the held-out split, as text."""
        dice = read_report(self.folder, self.splits[0])["mean_foreground_dice"]
        return "It has no foreground." if dice is None else f"Mean foreground Dice {dice:.4f}."

    def report(self, split=None):
        """Returns what tools/evaluate.py found on a split, by default the held-out one."""
        return read_report(self.folder, split or self.splits[0])


def results_of(folder, split):
    """Returns where tools/evaluate.py writes its results."""
    return folder / "evaluation" / split / "results.json"


def read_report(folder, split):
    """Returns what tools/evaluate.py found on a split."""
    return json.loads(results_of(folder, split).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Work:
    """How jobs are run.

    Attributes:
        tools: Folder of `train.py` and `evaluate.py`.
        devices: As `--devices` of tools/train.py, of each job.
        jobs: Number at once.
        lock: From `segkit.training.jobs.exclusive`.
    """

    tools: Path
    devices: str
    jobs: int
    lock: int

    def start(self, tool, arguments, log, environment):
        """Starts a tool by its file name, as `segkit.training.jobs.start`."""
        return start(self.tools / tool, arguments, log, lock=self.lock, environment=environment)


def run_all(members, steps, work, progress):
    """Runs members side by side; one that fails leaves the others alone.

    Args:
        members: List of `Member`.
        steps: Function `(member, environment)`, such as `member_steps`.
        work: `Work`.
        progress: `JobsProgress` of the members.

    Raises:
        SegkitError: Names those that failed, once all have ended.
    """
    failed = []
    ended = run_side_by_side(members, steps, gpu_shares(work.jobs), on_poll=progress.update)
    with contextlib.closing(ended):
        for member, reason in ended:
            progress.end(member, reason)
            failed += [member.name] if reason else []
    if failed:
        raise SegkitError(
            f"{', '.join(failed)} failed; the reasons stand above. Mend them, then repeat the "
            "command to go on."
        )


def member_steps(member, environment, *, work):
    """Starts the jobs of a member, and yields each; returns why it failed, or `None`."""
    if not is_complete(member.folder):
        config = member.folder.with_suffix(".yaml")
        with writing(config, MEND):
            save_config(member.config, config)
        reason = yield from training_steps(member.folder, config, [], environment, work=work)
        if reason is not None:
            return reason
    return (yield from evaluation_steps(member, environment, work=work))


def training_steps(folder, config_file, overrides, environment, *, work):
    """Starts the training of a run folder, and yields it; returns as `member_steps`."""
    arguments = training_arguments(folder, config_file, overrides, work.devices)
    job = work.start("train.py", arguments, folder / "log.txt", environment)
    yield job
    reason = job.failure()
    if reason is None and not is_complete(folder):
        reason = "its training was stopped from outside before the last epoch."
    return reason


def evaluation_steps(member, environment, *, work):
    """Starts the evaluations that a member lacks, and yields each; returns as `member_steps`."""
    for split in member.unscored:
        arguments = ["--run", member.folder, "--split", split]
        arguments += ["--devices", work.devices.partition(":")[0]]
        job = work.start("evaluate.py", arguments, member.folder / "log.txt", environment)
        yield job
        reason = job.failure()
        if reason is not None:
            return reason
    return None
