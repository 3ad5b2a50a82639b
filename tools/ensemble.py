"""Trains an ensemble (bagging, boosting or stacking) and makes it one run folder."""

import argparse
import json
import os
import runpy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_prep.checks import check_classes
from data_prep.manifest import load_manifest
from data_prep.manifest import patients_of
from data_prep.manifest import write_text
from segkit.config import Component
from segkit.config import load_config
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import writing
from segkit.tables import short_name
from segkit.training.checkpoint import list_checkpoints
from segkit.training.ensembles import as_repeats
from segkit.training.ensembles import boost
from segkit.training.ensembles import bootstrap_repeats
from segkit.training.jobs import complete_config
from segkit.training.jobs import exclusive
from segkit.training.jobs import is_complete
from segkit.training.jobs import sigterm_interrupts
from segkit.training.jobs_progress import JobsProgress
from segkit.training.members import MEND
from segkit.training.members import Member
from segkit.training.members import Work
from segkit.training.members import evaluation_steps
from segkit.training.members import member_steps
from segkit.training.members import read_report
from segkit.training.members import run_all
from segkit.training.run import check_resumable

TOOLS = Path(__file__).resolve().parent
SAY = partial(print, flush=True)
METHODS = ("bagging", "boosting", "stacking")

EXAMPLES = """examples:
  python tools/ensemble.py --method bagging --model fcn8s --out runs/bag-fcn8s    # phantoms
  python tools/ensemble.py --method boosting --model unet --data data/hippocampus --members 4 \\
      --out runs/boost-unet --set train.epochs=100
  python tools/ensemble.py --method stacking --stack runs/cv-unet runs/cv-fcn8s --out runs/stack
  python tools/ensemble.py --method stacking --model unet fcn8s --data data/hippocampus \\
      --out runs/stack --set "data.patch_size=[64, 64]"

OUT is a run folder: evaluate, predict and export work on it. Members are run folders in it.
Repeat the command to go on after an interruption.
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, which = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    add("--method", choices=METHODS, required=True, help="see docs/ensembles.md")
    which.add_argument("--model", nargs="+", metavar="NAME", help="configs/NAME.yaml to train")
    which.add_argument("--config", metavar="FILE", help="configuration to train")
    which.add_argument("--stack", nargs="+", metavar="FOLDER", help="of tools/cross_validate.py")
    add("--data", metavar="FOLDER", help="written by tools/prepare_data.py")
    add("--out", metavar="FOLDER", required=True, help="run folder of the ensemble")
    add("--members", type=int, metavar="N", help="of bagging and boosting (default: 5)")
    add("--jobs", type=int, default=1, metavar="N", help="trainings at once (default: 1)")
    add("--devices", default="auto", help="of each training: auto, cpu, cpu:N, gpu or gpu:N")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="override a config key")
    return parser.parse_args(argv)


def main(argv=None, *, tools=TOOLS):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`.

    Args:
        argv: Arguments.
        tools: Folder of the `train.py` and `evaluate.py` to run per member.
    """
    return exit_code(
        lambda args: ensemble(args, tools),
        parse_args(argv),
        interrupted="finished members and checkpoints are kept. Repeat the command to go on.",
    )


def ensemble(args, tools):
    """Trains what is missing, joins, scores, writes and prints."""
    check(args)
    out, names = Path(args.out), args.model or [None]
    train = runpy.run_path(str(TOOLS / "train.py"))
    variants = [argparse.Namespace(**{**vars(args), "model": name}) for name in names]
    configs = [] if args.stack else [complete_config(train, variant) for variant in variants]
    for config in configs:
        check_classes(config)
    if args.method != "stacking":
        check_members(configs[0], train)
    with exclusive(out) as lock, sigterm_interrupts():
        work = Work(tools, args.devices, args.jobs, lock)
        if args.method == "stacking":
            folders = [Path(f) for f in args.stack or ()]
            for variant, config in zip(variants[: len(configs)], configs, strict=True):
                folders.append(out / (variant.model or short_name(config.model.name)))
                cross_validate(variant, folders[-1], tools)
            members, extra = stack(folders, out)
        else:
            make = {"bagging": bag, "boosting": boosted}[args.method]
            members, extra = make(configs[0], out, args.members or 5, work)
        report(out, members, {"method": args.method, **extra}, work)


def check(args):
    """Refuses options that do not go together."""
    if args.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {args.jobs}.")
    if args.method == "stacking" and args.members is not None:
        raise ConfigError("--members does not go with stacking: every fold is a member. Drop it.")
    if args.stack and args.method != "stacking":
        raise ConfigError(f"--stack does not go with {args.method}. Name a --model or --config.")
    if args.stack and (args.data or args.set):
        raise ConfigError("--stack takes runs as they are. Drop --data and --set.")
    if args.members is not None and args.members < 2:
        raise ConfigError(f"--members must be at least 2, got {args.members}.")
    if args.method != "stacking" and len(args.model or ()) > 1:
        raise ConfigError(f"{args.method} takes one --model, got {', '.join(args.model)}.")
    if args.method == "boosting" and args.jobs > 1:
        raise ConfigError("--jobs does not go with boosting: each member needs the one before it.")
    if args.method == "stacking" and any("data.fold" in text for text in args.set):
        raise ConfigError("--set data.fold does not go with stacking, which trains all. Drop it.")


def check_members(config, train):
    """Checks what tools/train.py would refuse in every member."""
    manifest = load_manifest(config.data.path)
    train["check_fold"](config.data.fold, manifest)
    if config.data.repeats:
        raise ConfigError("data.repeats is set by the ensemble. Take it out of the config.")


def bag(config, out, count, work):
    """Trains members on bootstrap samples of the patients; returns `(members, extra results)`."""
    manifest = load_manifest(config.data.path)
    patients = patients_of(manifest, training_splits(config, manifest))
    members = []
    for number in range(count):
        repeats = bootstrap_repeats(patients, config.train.seed, number)
        members.append(make_member(config, out, number, repeats))
    train_members(members, members, manifest, work)
    average(out, members, None, manifest)
    return members, {}


def boosted(config, out, count, work):
    """Trains members on cases weighted by the errors before, see `boost`; returns as `bag`."""
    manifest = load_manifest(config.data.path)
    training = training_splits(config, manifest)
    weights = {c: 1.0 for cases in patients_of(manifest, training) for c in cases}
    planned = [make_member(config, out, n, {}, training) for n in range(count)]
    members, shares, rounds = [], [], []
    for number, member in enumerate(planned):
        if number:
            member = make_member(config, out, number, as_repeats(weights), training)
        train_members([member], planned, manifest, work)
        errors = case_errors(member, training)
        if not number:
            threshold = sum(errors.values()) / len(errors)
        result = boost(weights, errors, threshold)
        rounds.append({"member": member.name, "error_rate": result.error_rate})
        SAY(
            f"{member.name}  {result.error_rate:.1%} of the weight is on cases with errors above "
            f"{threshold:.4f}"
        )
        if result.member_weight or not members:
            members.append(member)
            shares.append(result.member_weight or 1.0)
        weights = result.weights
        if weights is None:
            SAY("Boosting ends here: no case is wrong, see docs/ensembles.md.")
            break
    average(out, members, shares, manifest)
    return members, {"weights": shares, "threshold": threshold, "rounds": rounds}


def training_splits(config, manifest):
    return tuple(f"fold{n}" for n in range(manifest["folds"]) if n != config.data.fold)


def make_member(config, out, number, repeats, training=()):
    """Returns a member with a seed of its own: other initial weights, order and patches."""
    own = replace(
        config,
        data=replace(config.data, repeats=repeats),
        train=replace(config.train, seed=config.train.seed + number),
    )
    splits = (f"fold{config.data.fold}", *training)
    return Member(f"member{number}", out / f"member{number}", own, splits)


def case_errors(member, splits):
    """Returns case -> 1 - mean foreground Dice; a case without foreground, none found, has 0."""
    errors = {}
    for split in splits:
        for case, scores in member.report(split)["per_case"].items():
            dice = [value for value in scores["dice"][1:] if value is not None]
            errors[case] = 1 - sum(dice) / len(dice) if dice else 0.0
    return errors


def train_members(members, everyone, manifest, work):
    """Brings members to their end, some at once; `everyone` counts for the time left."""
    for member in members:
        if list_checkpoints(member.folder / "checkpoints"):
            check_resumable(member.folder, member.config)
            check_unchanged(member.config.data.path, manifest, member.folder)
    progress = JobsProgress(everyone, "members", SAY)
    for member in members:
        if member.finished:
            progress.say(member, f"is finished. {member.score}")

    def steps(member, environment):
        progress.begin(member)
        return member_steps(member, environment, work=work)

    left = [member for member in members if not member.finished]
    run_all(left, steps, work, progress)


def check_unchanged(data, manifest, run):
    """Refuses a data set that is not what a run was trained on."""
    if load_manifest(run) != manifest:
        raise DataError(
            f"{data} was prepared anew since {run} was begun. Train again in another folder."
        )


def average(out, members, weights, manifest):
    """Writes the network of the members' mean as a run."""
    from segkit.models.ensemble import average as build

    runs = load_members([member.folder for member in members])
    about = {"members": [member.name for member in members], **models_of(runs)}
    about |= {"weights": weights} if weights else {}
    save_run(out, runs[0].config, build([run.model for run in runs], weights), manifest, about)


def load_members(folders):
    """Returns the runs in folders."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # jobs that follow need some too
    from segkit.training.run import load_run

    return [load_run(folder) for folder in folders]


def models_of(runs):
    """Returns the option of an ensemble that names the networks of its members."""
    return {"models": list(dict.fromkeys(run.config.model.name for run in runs))}


def save_run(out, config, model, manifest, about):
    """Writes the run folder of an ensemble; `about` becomes the options of its model."""
    from segkit.training.run import create_run
    from segkit.training.run import save_model

    config = replace(
        config,
        model=Component("ensemble", about),
        data=replace(config.data, repeats={}),
    )
    with writing(out, MEND):
        (out / "model.keras").unlink(missing_ok=True)
        create_run(out, config, manifest)
        save_model(model, out / "model.keras")


def cross_validate(args, out, tools):
    """Does what tools/cross_validate.py does, all folds, in a folder of its own."""
    tool = runpy.run_path(str(TOOLS / "cross_validate.py"))
    tool["cross_validate"](argparse.Namespace(**{**vars(args), "out": out, "folds": None}), tools)


def stack(folders, out):
    """Fits and writes the network that stacks cross-validations; returns as `bag`."""
    bases = [load_members(fold_folders(folder)) for folder in folders]
    runs = [run for base in bases for run in base]
    first = runs[0]
    check_alike(runs)
    data = first.config.data.path
    check_unchanged(data, load_manifest(data), first.folder)
    from segkit.inference import stacking
    from segkit.models.ensemble import stack as build

    samples = out_of_fold(bases, stacking)
    scores = stacking.cross_fitted(samples, [str(folder) for folder in folders])
    kernel, bias = stacking.fit_stacking(stacking.join(samples))
    model = build([[run.model for run in base] for base in bases], kernel, bias)
    # No fold is held out, so that scoring one as if it were is refused.
    data = replace(first.config.data, fold=first.manifest["folds"])
    about = {"members": [str(run.folder) for run in runs], **models_of(runs)}
    save_run(out, replace(first.config, data=data), model, first.manifest, about)
    members = [Member(str(run.folder), run.folder, run.config, ("test",)) for run in runs]
    print(stacking.cross_entropy_table(scores))
    return members, {"cross_entropy": scores, "kernel": kernel.tolist(), "bias": bias.tolist()}


def fold_folders(folder):
    """Returns the run folders of a cross-validation in the order of their folds, all trained."""
    count = load_manifest(folder / "fold0")["folds"]
    paths = [folder / f"fold{number}" for number in range(count)]
    for number, path in enumerate(paths):
        if not is_complete(path):
            raise DataError(
                f"{path} is not trained to its end; all {count} folds are needed. Repeat the "
                "command of tools/cross_validate.py that made the others."
            )
        if load_config(path / "config.yaml").data.fold != number:
            raise DataError(f"{path} holds out another fold than {number}. Name another folder.")
        check_classes(load_config(path / "config.yaml"))
    return paths


def check_alike(runs):
    """Refuses runs whose networks expect other images, or that held out other cases."""

    def trained_on(run):
        manifest = run.manifest
        splits = {case: entry["split"] for case, entry in manifest["cases"].items()}
        common = {key: manifest[key] for key in ("channels", "classes", "preprocess", "folds")}
        return common | {"the split of cases": splits}

    first = trained_on(runs[0])
    for run in runs:
        for key, value in trained_on(run).items():
            if value != first[key]:
                raise DataError(
                    f"{run.folder} and {runs[0].folder} do not fit each other: {key} differs. "
                    "Train them on the same prepared data."
                )


def out_of_fold(bases, stacking):
    """Returns the samples of each fold, predicted by the runs that did not train on it."""
    from tqdm import tqdm

    from data_prep.covariates import covariate_vectors
    from data_prep.fingerprint import seed_of
    from segkit.inference.predictor import predictor_of

    first, samples = bases[0][0], []
    data, seed = first.config.data.path, first.config.train.seed
    known = dict(zip(*covariate_vectors(first.manifest), strict=True))
    whole_cases = runpy.run_path(str(TOOLS / "evaluate.py"))["whole_cases"]
    for fold, runs in enumerate(zip(*bases, strict=True)):
        predictors = [predictor_of(run) for run in runs]
        cases = whole_cases(data, first.manifest, f"fold{fold}")
        samples.append(
            stacking.join(
                stacking.sample(predictors, image, label, [seed, seed_of(case)], known[case])
                for case, image, label, truth in tqdm(cases, desc=f"fold{fold}", disable=None)
                if truth is not None
            )
        )
    return samples


def report(out, members, extra, work):
    """Scores the ensemble where cases are held out, writes results.json, prints the table."""
    config, manifest = load_config(out / "config.yaml"), load_manifest(out)
    split = members[0].splits[0]
    results = {**extra, "split": split}
    if any(case["split"] == split for case in manifest["cases"].values()):
        from segkit.inference.comparison import compare
        from segkit.inference.comparison import comparison_table

        whole = Member("ensemble", out, config, (split,))
        unscored = [member for member in members if member.unscored]
        progress = JobsProgress([*unscored, whole], "members", SAY)
        run_all([*unscored, whole], partial(evaluation_steps, work=work), work, progress)
        found = compare({m.name: m.report() for m in members}, read_report(out, split))
        results |= found
        print(f"\n{split}, {found['cases']} cases:\n\n{comparison_table(found)}")
    else:
        print(f"\nThe data set has no split {split!r}, so no whole case is left to score on.")
    with writing(out, MEND):
        write_text(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    print(f"\nresults.json: {out}. Now: python tools/predict.py --run {out} ...")


if __name__ == "__main__":
    sys.exit(main())
