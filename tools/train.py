"""Trains a model on a prepared data set, or on built-in phantoms when none is named."""

import argparse
import json
import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from data_prep.augment import MIXING
from data_prep.augment.policy import parse_policy
from data_prep.augment.policy import read_policy
from segkit.config import load_config
from segkit.covariates import entry_names
from segkit.errors import ConfigError
from segkit.errors import exit_code
from segkit.errors import nearest
from segkit.losses import LOSSES
from segkit.models import MODELS
from segkit.outputs import read_outputs
from segkit.tables import named_options
from segkit.training import AVERAGES
from segkit.training import OPTIMIZERS
from segkit.training.cluster import is_first_worker
from segkit.training.cluster import number_of_workers
from segkit.training.schedules import build_schedule

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BUILT_IN = Path("data/phantom")
PHANTOMS = "ct"
HELD_BACK = 29  # seed of a phantom of the test split, written as a DICOM study to try predict on
STUDY = Path("data/phantom_study")

EXAMPLES = """examples:
  python tools/train.py --model fcn8s                            # built-in phantoms
  python tools/train.py --model unet3d --data data/hippocampus
  python tools/train.py --model unet3d --data data/hippocampus --resume
  python tools/train.py --config my.yaml --set train.epochs=50 --devices gpu:4
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="NAME", help="short for --config configs/NAME.yaml")
    which.add_argument("--config", metavar="FILE", help="configuration to train")
    parser.add_argument("--data", metavar="FOLDER", help="written by tools/prepare_data.py")
    parser.add_argument("--run", metavar="FOLDER", help="run folder (default: RUNS/MODEL-TIME)")
    parser.add_argument("--runs", metavar="FOLDER", default="runs", help="where runs are kept")
    parser.add_argument(
        "--devices", default="auto", help="auto, cpu, cpu:N, gpu or gpu:N (default: auto)"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override a config key"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--deterministic",
        action="append_const",
        dest="set",
        const="train.deterministic=true",
        help="the same bits in every run; short for --set train.deterministic=true",
    )
    parser.add_argument(
        "--no-evaluate", action="store_true", help="end without scoring whole cases"
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(
        run, parse_args(argv), interrupted="repeat the command with --resume to go on."
    )


def run(args):
    config = read_config(args)
    from segkit.training.run import check_new
    from segkit.training.run import check_resumable
    from segkit.training.run import default_folder
    from segkit.training.run import find_resumable

    check_workers(args, config)
    choose = find_resumable if args.resume else default_folder
    folder = Path(args.run or choose(args.runs, config.model.name))
    if not args.resume and is_first_worker():
        check_new(folder)
    data = Path(config.data.path).resolve() if config.data.path else prepare_phantoms()
    from data_prep.manifest import load_manifest

    manifest = load_manifest(data)
    config = replace(config, data=replace(config.data, path=str(data)))
    check_fold(config.data.fold, manifest)
    check_patch(config.data.patch_size, manifest)
    check_soft_labels(config, read_outputs(manifest["classes"], config.loss.options))
    check_table(config, manifest)
    if args.resume:
        check_resumable(folder, config)
    progress = train(args, config, folder, data, manifest)
    if progress.stopped == "SIGINT":
        raise KeyboardInterrupt
    if progress.stopped:
        print("Repeat the command with --resume to go on.")
    if progress.stopped or not is_first_worker():
        return
    if not args.no_evaluate:
        evaluate(folder, manifest)
    study = "STUDY" if config.data.path != str(BUILT_IN.resolve()) else write_study()
    print(next_steps(folder, progress, study))


def read_config(args):
    path = args.config or CONFIGS / f"{args.model}.yaml"
    if args.model and not path.exists():
        known = [p.stem for p in CONFIGS.glob("*.yaml")]
        raise ConfigError(f"unknown model {args.model!r}. {nearest(args.model, known)}")
    overrides = [*args.set]
    if args.data:
        overrides.append(f"data.path={json.dumps(args.data)}")
    config = load_config(path, overrides, {"model": MODELS, "loss": LOSSES})
    named_options(config.train.optimizer, "train.optimizer", OPTIMIZERS)
    build_schedule(config.train)
    if config.train.averaging:
        named_options(config.train.averaging, "train.averaging", AVERAGES)
    policy = read_policy(config.augment.policy)
    return replace(config, augment=replace(config.augment, policy=policy))


def check_workers(args, config):
    """Asks for what several workers must have in common."""
    if number_of_workers() > 1 and not (args.run and config.data.path):
        raise ConfigError(
            "several workers (TF_CONFIG) need --run and --data: the same folders for all of them, "
            "on a shared disk. Add them."
        )


def check_fold(fold, manifest):
    if fold >= manifest["folds"]:
        raise ConfigError(
            f"data.fold must be below {manifest['folds']}, the data set's number of folds, "
            f"got {fold}."
        )


def check_patch(patch_size, manifest):
    """Refuses a patch that stored chunks cut off; says so when they hold it in some places only."""
    chunk, overlap = (manifest["options"][key] for key in ("chunk", "chunk_overlap"))
    sides = list(zip(reversed(patch_size), reversed(("depth", "height", "width")), strict=False))
    for axis, (side, name) in enumerate(sides, start=1):
        if all(case["shape"][-axis] <= chunk for case in manifest["cases"].values()):
            continue
        mend = f"Prepare the data again with --chunk-overlap {side}"
        if side > chunk:
            raise ConfigError(
                f"data.patch_size has a {name} of {side}, but cases are stored in chunks of "
                f"{chunk}. {mend}, or use a smaller patch."
            )
        if side > overlap:
            print(
                f"note: patches across the seam of two chunks are never drawn, because the {name} "
                f"of {side} is above their overlap of {overlap}. {mend} to draw them too."
            )


def check_soft_labels(config, outputs):
    """Refuses soft labels, as mixup makes them, where they cannot say what labels must say."""
    soft = "mixup" in [step.name for step in parse_policy(config.augment.policy)]
    if soft and (outputs.regions or outputs.ignore_label is not None):
        what = "be in several regions" if outputs.regions else "be ignored"
        raise ConfigError(
            f"augment.policy: mixup makes class probabilities of the labels, by which a voxel "
            f"cannot {what}. Take mixup out of the policy; cutmix does not change labels so."
        )


def check_table(config, manifest):
    """Refuses a network that takes or tells what the data set does not say of its cases."""
    names = {
        "covariates": entry_names(manifest.get("covariates", [])),
        "case_classes": manifest.get("targets", []),
    }
    mixing = [s.name for s in parse_policy(config.augment.policy) if s.name in MIXING]
    for option, known in names.items():
        asked = config.model.options.get(option, 0)
        if asked and asked != len(known):
            mend = (
                f"Set model.{option}={len(known)}" if known else "Prepare it from a table with some"
            )
            raise ConfigError(
                f"model.{option} is {asked}, the data set has {len(known)} "
                f"({', '.join(known) or 'none'}). {mend}; see docs/fusion.md."
            )
        if asked and mixing:
            raise ConfigError(
                f"augment.policy: {mixing[0]} mixes cases, for which model.{option} has one answer "
                f"each. Take it out of the policy, or set model.{option}=0."
            )


def check_pairs(policy, batch_size, replicas):
    """Refuses shares of a batch in which mixing would pair patches otherwise than in the whole."""
    mixing = [step.name for step in parse_policy(policy) if step.name in MIXING]
    if mixing and batch_size % (2 * replicas):
        raise ConfigError(
            f"{mixing[0]} on devices mixes patches in pairs: train.batch_size must be a multiple "
            f"of {2 * replicas} for {replicas} replicas, got {batch_size}. Change it, or set "
            "augment.placement=input."
        )


def train(args, config, folder, data, manifest):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.training.devices import make_deterministic
    from segkit.training.devices import make_strategy

    strategy = make_strategy(args.devices)
    if config.train.deterministic:
        make_deterministic()
    from data_prep.augment.apply import check
    from data_prep.pipeline import Augmentation
    from data_prep.pipeline import build_dataset
    from data_prep.pipeline import device_augmentation
    from data_prep.pipeline import lacks_channels
    from data_prep.reader import reading_errors
    from segkit.losses import build_loss
    from segkit.losses.case_classes import WithCaseClasses
    from segkit.models import build_model
    from segkit.training.fit import Batches
    from segkit.training.fit import fit

    outputs = read_outputs(manifest["classes"], config.loss.options)
    num_classes = len(outputs.classes)
    shape = (*config.data.patch_size, len(manifest["channels"]))
    validation = f"fold{config.data.fold}"
    training = tuple(f"fold{n}" for n in range(manifest["folds"]) if n != config.data.fold)
    common = {
        "patch_size": tuple(config.data.patch_size),
        "batch_size": config.train.batch_size,
        "seed": config.train.seed,
        "foreground_fraction": config.data.foreground_fraction,
        "memory_bytes": config.data.memory_mb << 20,
    }
    augment = Augmentation(**vars(config.augment))
    check(parse_policy(augment.policy), shape[:-1], shape[-1], num_classes)
    on_device = augment.placement == "device"
    if on_device:
        check_pairs(augment.policy, config.train.batch_size, strategy.num_replicas_in_sync)
    prepare = None
    if on_device:
        kept = {"keep_missing": lacks_channels(manifest)}
        prepare = device_augmentation(augment, common["patch_size"], num_classes, **kept)
    options = config.model.options
    classified = bool(options.get("case_classes"))
    table = {"with_covariates": bool(options.get("covariates")), "with_targets": classified}

    def build():
        model = build_model(config.model.name, outputs.num_channels, shape, **options)
        ignored = {"ignore_label": outputs.ignore_label}
        loss = build_loss(config.loss.name, **{**config.loss.options, **ignored})
        return model, WithCaseClasses(loss, config.train.case_weight) if classified else loss

    def train_batches(first_example, part):
        return build_dataset(
            data,
            manifest,
            training,
            repeats=config.data.repeats,
            augment=augment,
            start_index=first_example,
            part=part,
            deterministic=config.data.deterministic,
            service=config.data.service,
            **table,
            **common,
        )

    def validation_batches(part):
        count = config.train.validation_batches
        part = {"part": part, "batches": count}
        return build_dataset(data, manifest, (validation,), **part, **table, **common)

    def inspect(first_example):
        same = {"repeats": config.data.repeats, "start_index": first_example}
        same |= {"augment": augment._replace(placement="input")}
        stream = build_dataset(data, manifest, training, with_cases=True, **same, **common)
        case, image, label = next(stream.as_numpy_iterator())
        return [name.decode() for name in case], image, label

    print(f"Training {config.model.name} on {data}, validating on {validation}: {folder}")
    with reading_errors(data, manifest):
        return fit(
            folder,
            config,
            manifest,
            strategy,
            build,
            Batches(train_batches, validation_batches, inspect),
            prepare=prepare,
            resume=args.resume,
        )


def evaluate(folder, manifest):
    """Scores whole held-back cases, or those of the validation fold where none are held back."""
    held_back = any(case["split"] == "test" for case in manifest["cases"].values())
    split = "test" if held_back else "val"
    print(f"Scoring whole cases of the split {split!r}:")
    tool = runpy.run_path(str(Path(__file__).with_name("evaluate.py")))
    tool["evaluate"](tool["parse_args"](["--run", str(folder), "--split", split]))


def prepare_phantoms():
    """Converts the built-in phantoms once; returns the folder of the data set."""
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source

    print(f"No --data given: using the built-in phantoms in {BUILT_IN}.")
    dataset = scan_source("phantom", PHANTOMS)
    options = Options(layout="phantom")
    convert(dataset, BUILT_IN, source=PHANTOMS, options=options, workers=os.cpu_count())
    return BUILT_IN.resolve()


def write_study():
    """Writes a held-back phantom as a DICOM series once; returns its folder."""
    from data_prep.phantom import make_ct
    from data_prep.phantom import write_phantom

    case = f"{PHANTOMS}-{HELD_BACK:04d}"
    if not (STUDY / "dataset.json").exists():  # written last
        shutil.rmtree(STUDY, ignore_errors=True)
        write_phantom(make_ct(HELD_BACK), STUDY, case, form="dicom")
    return STUDY / case / "0-CT"


def next_steps(folder, progress, study):
    """Returns the commands that make use of a run."""
    return f"""
Best validation Dice {progress.best_dice:.4f} after epoch {progress.best_epoch}. Now:
  tensorboard --logdir {folder.parent}
  python tools/evaluate.py --run {folder}
  python tools/predict.py --run {folder} --input {study} --output mask.nii.gz
  python tools/export.py --run {folder}"""


if __name__ == "__main__":
    sys.exit(main())
