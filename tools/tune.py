"""Searches for the settings with which a model reaches the highest validation Dice."""

import argparse
import os
import runpy
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from data_prep.manifest import write_text
from segkit.config import first_difference
from segkit.config import load_config
from segkit.config import save_config
from segkit.errors import ConfigError
from segkit.errors import SegkitError
from segkit.errors import exit_code
from segkit.errors import writing
from segkit.training.jobs import POLL_S
from segkit.training.jobs import complete_config
from segkit.training.jobs import end
from segkit.training.jobs import exclusive
from segkit.training.jobs import is_complete
from segkit.training.jobs import read_history
from segkit.training.jobs import sigterm_interrupts
from segkit.training.jobs import start
from segkit.training.jobs import training_arguments
from segkit.training.search import as_text
from segkit.training.search import parse_search
from segkit.training.search import suggest

TOOLS = Path(__file__).resolve().parent
MEND = "Free some space, then repeat the command."
HOPELESS = 3  # trials that fail without one that succeeds, after which the study stops
PRUNERS = ("median", "none")

EXAMPLES = """examples:
  python tools/tune.py --model fcn8s --out runs/tune-fcn8s --trials 10 \\
      --search "train.learning_rate=log(0.0001, 0.01)"                       # built-in phantoms
  python tools/tune.py --model unet --data data/hippocampus --out runs/tune-unet --trials 30 \\
      --search "train.learning_rate=log(0.0001, 0.01)" --search "model.filters=choice(8, 16, 32)" \\
      --search "train.batch_size=int(2, 16)" --search "loss.alpha=float(0, 1)"

Each trial is a run folder of its own: OUT/trial-0000, OUT/trial-0001, ... Repeat the command to
go on after an interruption, or with a larger --trials to search on.
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="NAME", help="short for --config configs/NAME.yaml")
    which.add_argument("--config", metavar="FILE", help="configuration to start from")
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="written by tools/prepare_data.py")
    add("--out", metavar="FOLDER", required=True, help="folder of all trials and their results")
    add(
        "--search",
        metavar="KEY=KIND(...)",
        action="append",
        required=True,
        help="config key to search: log(low, high), float(...), int(...) or choice(a, b, ...)",
    )
    add("--trials", type=int, required=True, metavar="N", help="number of trials in all")
    add("--seed", type=int, default=0, help="of the search (default: 0)")
    add("--pruner", default="median", choices=PRUNERS, help="ends poor trials (default: median)")
    add("--devices", default="auto", help="auto, cpu, cpu:N, gpu or gpu:N (default: auto)")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="override a config key")
    return parser.parse_args(argv)


def main(argv=None, *, tools=TOOLS):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`.

    Args:
        argv: Arguments.
        tools: Folder of the `train.py` to run per trial.
    """
    return exit_code(
        lambda args: tune(args, tools),
        parse_args(argv),
        interrupted="ended trials and checkpoints are kept. Repeat the command to go on.",
    )


def tune(args, tools):
    """Runs trials, and after each writes what was found so far."""
    parameters = parse_search(args.search)
    train = runpy.run_path(str(TOOLS / "train.py"))
    check(args, parameters, train["read_config"])
    optuna = import_optuna()
    config, out = complete_config(train, args), Path(args.out)
    with exclusive(out) as lock, sigterm_interrupts(), writing(out, MEND):
        study = open_study(optuna, args, config, parameters)
        while trial := next_trial(optuna, study, args):
            values = suggest(trial, parameters)
            overrides = [f"{key}={as_text(value)}" for key, value in values.items()]
            folder = out / f"trial-{trial.number:04d}"
            print(f"{folder.name}  {'  '.join(overrides)}", flush=True)
            options = {"tool": tools / "train.py", "devices": args.devices, "lock": lock}
            tell(study, trial, folder, train_trial(study, trial, folder, overrides, **options))
            write_results(out, study.trials, parameters)
            check_hope(study.trials)
    print_results(out, study.trials, parameters)


def check(args, parameters, read_config):
    """Checks that every value to search over is one that the configuration can take."""
    if args.trials < 1 or args.seed < 0:
        raise ConfigError(
            f"--trials must be above 0 and --seed 0 or more, got {args.trials} and {args.seed}."
        )
    fixed = {text.partition("=")[0].strip() for text in args.set}
    read_config(args)
    for parameter in parameters:
        if parameter.key in fixed:
            raise ConfigError(f"{parameter.key} stands in --set and in --search. Choose one.")
        for value in parameter.values:
            override = f"{parameter.key}={as_text(value)}"
            changed = argparse.Namespace(**{**vars(args), "set": [*args.set, override]})
            try:
                read_config(changed)
            except ConfigError as error:
                raise ConfigError(f"--search {parameter.key}: {error}") from None


def import_optuna():
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "tools/tune.py needs Optuna. Install it: pip install -e .[tune], or pip install optuna."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(optuna, args, config, parameters):
    """Returns the study of a folder, new or gone on with; the settings must be the same."""
    journal = Path(args.out) / "study.journal"
    mend(journal)
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    pruner = optuna.pruners.NopPruner()
    if args.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=config.train.epochs // 4)
    study = optuna.create_study(
        study_name="segkit",
        storage=optuna.storages.JournalStorage(backend),
        direction="maximize",
        pruner=pruner,
        load_if_exists=True,
    )
    space = [f"{p.key}={p.kind}({', '.join(map(as_text, p.values))})" for p in parameters]
    check_same(study, {"search": space, "seed": args.seed, "pruner": args.pruner}, args.out, config)
    return study


def check_same(study, options, out, config):
    """Notes options and config of a study that has no trial yet; refuses others from then on."""
    path = Path(out) / "config.yaml"
    if not study.trials:
        for name, value in options.items():
            study.set_user_attr(name, value)
        save_config(config, path)
    changed = [f"--{name}" for name in options if study.user_attrs[name] != options[name]]
    changed += filter(None, [first_difference(load_config(path), config)])
    if changed:
        raise ConfigError(
            f"cannot go on with {out}: {changed[0]} differs from what it was begun with. Use the "
            "same settings, or name another --out."
        )


def mend(journal):
    """Cuts off a last line that a kill left half written, and the lock that it left."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        text = journal.read_bytes()
        os.truncate(journal, text.rfind(b"\n") + 1)


def next_trial(optuna, study, args):
    """Returns the trial that was at work when the study was killed, or a new one if one is due.

    The sampler is seeded by the number of the trial, so that a study which was interrupted draws
    what it would have drawn without.
    """
    running = [trial for trial in study.trials if not trial.state.is_finished()]
    number = running[0].number if running else len(study.trials)
    seed = np.random.SeedSequence([args.seed, number]).generate_state(1)[0]
    study.sampler = optuna.samplers.TPESampler(seed=int(seed))
    if running:
        return optuna.trial.Trial(study, running[0]._trial_id)
    return study.ask() if number < args.trials else None


def train_trial(study, trial, folder, overrides, *, tool, devices, lock):
    """Trains with the values of a trial.

    Returns:
        `"complete"`, `"pruned"`, or in one line why the training failed.

    Raises:
        SegkitError: If it was stopped from outside: the trial is left for the next call.
    """
    if trial.should_prune():  # killed between this and the note of it
        return "pruned"
    arguments = training_arguments(folder, folder.parent / "config.yaml", overrides, devices)
    job = start(tool, arguments, folder / "log.txt", lock=lock)
    try:
        if watch(study, trial, folder, job):
            return "pruned"
        reason = job.failure()
    finally:
        end([job])
    if job.terminated or (reason is None and not is_complete(folder)):
        raise SegkitError(
            f"{folder} was stopped from outside before its last epoch. Repeat the command to go on."
        )
    return reason or "complete"


def watch(study, trial, folder, job):
    """Reports each epoch to the study until the job has ended; returns whether to prune it.

    The verdict on an epoch looks at that epoch and those before, so it does not depend on how far
    the training has come meanwhile. A training that has reached its last epoch is kept.
    """
    reported = set(study.trials[trial.number].intermediate_values)
    while True:
        running = job.running
        for epoch, dice in read_history(folder):
            if epoch in reported:
                continue
            trial.report(dice, epoch)
            reported.add(epoch)
            if trial.should_prune() and epoch < load_config(folder / "config.yaml").train.epochs:
                return True
        if not running:
            return False
        time.sleep(POLL_S)


def tell(study, trial, folder, outcome):
    """Notes in the study, and says, how a trial ended."""
    from optuna.trial import TrialState

    if outcome == "complete":
        dice = max(dice for _, dice in read_history(folder))
        study.tell(trial, dice)
        best = study.best_trial
        text = f"Dice {dice:.4f}; best so far: trial-{best.number:04d} with {best.value:.4f}"
    elif outcome == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
        epochs = len(study.trials[trial.number].intermediate_values)
        text = f"pruned after epoch {epochs}"
    else:
        trial.set_user_attr("error", outcome)
        study.tell(trial, state=TrialState.FAIL)
        text = f"failed: {outcome} (see {folder / 'log.txt'})"
    print(f"{folder.name}  {text}", flush=True)


def check_hope(trials):
    """Ends a study of which nothing has succeeded."""
    if len(trials) >= HOPELESS and all(trial.state.name == "FAIL" for trial in trials):
        error = trials[-1].user_attrs["error"]
        raise SegkitError(f"all of the {len(trials)} trials failed, the last with: {error}")


def write_results(out, trials, parameters):
    """Writes trials.csv, search.png and best.yaml."""
    from segkit.training.search_report import ranked
    from segkit.training.search_report import save_search
    from segkit.training.search_report import trials_csv

    write_text(out / "trials.csv", trials_csv(trials, parameters))
    save_search(out / "search.png", trials, parameters)
    for best in ranked(trials)[:1]:
        config = out / f"trial-{best.number:04d}" / "config.yaml"
        if config.exists():  # a trial's folder may be thrown away, best.yaml is there by then
            shutil.copyfile(config, out / "best.yaml")


def print_results(out, trials, parameters):
    """Prints the best trials and what to do with them."""
    from segkit.training.search_report import best_table
    from segkit.training.search_report import ranked

    if not ranked(trials):
        raise SegkitError(f"no trial trained to its end. See {out / 'trials.csv'}.")
    print(f"\n{best_table(trials, parameters)}")
    print(f"\ntrials.csv, search.png and the trials' run folders: {out}. Now:")
    print(f"  python tools/train.py --config {out / 'best.yaml'}")


if __name__ == "__main__":
    sys.exit(main())
