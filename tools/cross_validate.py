"""Trains a model once per fold and scores every case with the fold that did not train on it."""

import argparse
import contextlib
import json
import os
import runpy
import sys
from dataclasses import dataclass
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_prep.manifest import load_manifest
from data_prep.manifest import write_text
from segkit.config import Config
from segkit.config import save_config
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.errors import exit_code
from segkit.errors import writing
from segkit.models import DETECTORS
from segkit.training.checkpoint import list_checkpoints
from segkit.training.jobs import complete_config
from segkit.training.jobs import exclusive
from segkit.training.jobs import gpu_shares
from segkit.training.jobs import is_complete
from segkit.training.jobs import run_side_by_side
from segkit.training.jobs import sigterm_interrupts
from segkit.training.jobs_progress import JobsProgress
from segkit.training.members import MEND
from segkit.training.members import Work
from segkit.training.members import training_steps
from segkit.training.run import check_resumable

TOOLS = Path(__file__).resolve().parent
SAY = partial(print, flush=True)

EXAMPLES = """examples:
  python tools/cross_validate.py --model fcn8s --out runs/cv-fcn8s           # built-in phantoms
  python tools/cross_validate.py --model unet3d --data data/hippocampus --out runs/cv-unet3d
  python tools/cross_validate.py --model unet3d --data data/hippocampus --out runs/cv-unet3d \\
      --jobs 4 --devices gpu:1 --set train.epochs=100

Each fold is a run folder of its own: OUT/fold0, OUT/fold1, ... Repeat the command to go on after
an interruption: folds that are finished stay as they are, the others go on.
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="NAME", help="short for --config configs/NAME.yaml")
    which.add_argument("--config", metavar="FILE", help="configuration to train")
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="written by tools/prepare_data.py")
    add("--out", metavar="FOLDER", required=True, help="folder of all folds and their results")
    add("--folds", type=int, nargs="+", metavar="N", help="folds to train (default: all)")
    add("--jobs", type=int, default=1, metavar="N", help="folds to train at once (default: 1)")
    add("--devices", default="auto", help="of each fold: auto, cpu, cpu:N, gpu or gpu:N")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="override a config key")
    return parser.parse_args(argv)


def main(argv=None, *, tools=TOOLS):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`.

    Args:
        argv: Arguments.
        tools: Folder of the `train.py` and `evaluate.py` to run per fold.
    """
    return exit_code(
        lambda args: cross_validate(args, tools),
        parse_args(argv),
        interrupted="finished folds and checkpoints are kept. Repeat the command to go on.",
    )


@dataclass(frozen=True)
class Fold:
    """One fold: its number, its run folder and the configuration that it trains with."""

    number: int
    folder: Path
    config: Config

    @property
    def name(self):
        """Name of the fold."""
        return f"fold{self.number}"

    @property
    def evaluation(self):
        """Folder of the scores of the cases that this fold did not train on."""
        return self.folder / "evaluation" / f"fold{self.number}"

    @property
    def finished(self):
        """Whether the fold was trained to its end, and scored after that."""
        results, history = self.evaluation / "results.json", self.folder / "history.csv"
        if not results.exists() or not is_complete(self.folder):
            return False
        return results.stat().st_mtime >= history.stat().st_mtime

    @property
    def score(self):
        """The score of a finished fold, as text."""
        if self.config.model.name in DETECTORS:
            return f"Its scores: {self.evaluation}."
        results = json.loads((self.evaluation / "results.json").read_text(encoding="utf-8"))
        dice = results["mean_foreground_dice"]
        return "It has no foreground." if dice is None else f"Mean foreground Dice {dice:.4f}."


def cross_validate(args, tools):
    """Trains, scores, merges, writes and prints."""
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {args.jobs}.")
    if any(text.partition("=")[0].strip() == "data.fold" for text in args.set):
        raise ConfigError("--set data.fold does not go with cross-validation. Use --folds.")
    out = Path(args.out)
    config = complete_config(runpy.run_path(str(TOOLS / "train.py")), args)
    manifest = load_manifest(config.data.path)
    folds = [
        Fold(n, out / f"fold{n}", replace(config, data=replace(config.data, fold=n)))
        for n in range(manifest["folds"])
    ]
    chosen = choose(folds, args.folds)
    with exclusive(out) as lock, sigterm_interrupts():
        for fold in folds:
            check_fold(fold, manifest)
        with writing(out, MEND):
            save_config(config, out / "config.yaml")
        failures = run_folds(chosen, Work(tools, args.devices, args.jobs, lock))
        finished = [fold for fold in folds if fold.finished]
        if finished:
            report(out, finished, manifest)
    if failures:
        names = ", ".join(f"fold{n}" for n in sorted(failures))
        raise SegkitError(
            f"{len(failures)} of {len(chosen)} folds failed: {names}; the reasons stand above. "
            "Mend them, then repeat the command to go on."
        )


def choose(folds, numbers):
    """Returns the folds with the given numbers, all for `None`."""
    for number in numbers or ():
        if not 0 <= number < len(folds):
            raise ConfigError(
                f"--folds must be from 0 to {len(folds) - 1}, the data set's folds, got {number}."
            )
    return [fold for fold in folds if numbers is None or fold.number in numbers]


def check_fold(fold, manifest):
    """Refuses to go on with a fold that was begun with other settings or other data."""
    begun = list_checkpoints(fold.folder / "checkpoints") or fold.evaluation.exists()
    if not begun:
        return
    check_resumable(fold.folder, fold.config)
    if load_manifest(fold.folder) != manifest:
        raise DataError(
            f"{fold.config.data.path} was prepared anew since {fold.folder} was begun. "
            "Name another --out."
        )


def run_folds(folds, work):
    """Brings folds to their end, some at once; returns fold number -> why of those that failed."""
    progress, failures = JobsProgress(folds, "folds", SAY), {}
    for fold in folds:
        if fold.finished:
            progress.say(fold, f"is finished. {fold.score}")

    def steps(fold, environment):
        progress.begin(fold)
        return fold_steps(fold, environment, work)

    left = [fold for fold in folds if not fold.finished]
    ended = run_side_by_side(left, steps, gpu_shares(work.jobs), on_poll=progress.update)
    with contextlib.closing(ended):
        for fold, reason in ended:
            progress.end(fold, reason)
            if reason:
                failures[fold.number] = reason
    return failures


def fold_steps(fold, environment, work):
    """Starts the jobs of a fold, and yields each; goes on when it has ended.

    Returns:
        Why the fold failed, in one line, or `None` if it did not.
    """
    config, overrides = fold.folder.parent / "config.yaml", [f"data.fold={fold.number}"]
    reason = yield from training_steps(fold.folder, config, overrides, environment, work=work)
    if reason is not None:
        return reason
    arguments = ["--run", fold.folder, "--devices", work.devices.partition(":")[0]]
    job = work.start("evaluate.py", arguments, fold.folder / "log.txt", environment)
    yield job
    return job.failure()


def report(out, finished, manifest):
    """Merges the folds, writes results.json, cases.csv and summary.png, prints the table.

    The scores of objects are left fold by fold.
    """
    if finished[0].config.model.name in DETECTORS:
        print(f"\nScores of objects are not merged. Those of each fold: {out}/fold*/evaluation.")
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.inference.cross_validation import fold_table
    from segkit.inference.cross_validation import merge_cases
    from segkit.inference.cross_validation import merge_folds
    from segkit.inference.cross_validation import save_summary

    evaluations = {fold.number: fold.evaluation for fold in finished}
    results = {
        "model": finished[0].config.model.name,
        "data": manifest["name"],
        **merge_folds(evaluations),
    }
    with writing(out, MEND):
        text = json.dumps(results, indent=1, allow_nan=False)
        write_text(out / "results.json", text + "\n")
        write_text(out / "cases.csv", merge_cases(evaluations))
        save_summary(out / "summary.png", results)
    print(
        f"\n{results['model']} on {results['data']}: {len(finished)} of {manifest['folds']} folds, "
        f"{results['cases']} cases, each scored once,\nby the fold that did not train on it; no "
        f"patient is in two folds.\n\n{fold_table(results)}\n\n"
        f"results.json, cases.csv and summary.png: {out}"
    )


if __name__ == "__main__":
    sys.exit(main())
