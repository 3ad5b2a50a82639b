"""Trains a model on a prepared data set, or on built-in phantoms when none is named."""

import argparse
import contextlib
import json
import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path

from data_prep.augment.policy import parse_policy
from data_prep.augment.policy import read_policy
from data_prep.built_in import FOLDERS
from data_prep.built_in import make_built_in
from data_prep.built_in import recipe_of
from data_prep.built_in import write_study
from data_prep.checks import check_fold
from data_prep.checks import check_pairs
from data_prep.checks import check_patch
from data_prep.checks import check_soft_labels
from data_prep.checks import check_splits
from data_prep.checks import check_table
from data_prep.checks import check_unseen
from data_prep.checks import training_splits
from data_prep.detectors import check_detector
from data_prep.detectors import fit_detector
from data_prep.synthetic import check_options
from data_prep.synthetic import read_synthetic
from segkit.config import load_config
from segkit.errors import ConfigError
from segkit.errors import exit_code
from segkit.errors import nearest
from segkit.losses import LOSSES
from segkit.models import DETECTORS
from segkit.models import GENERATORS
from segkit.models import MODELS
from segkit.outputs import read_outputs
from segkit.priors import count_priors
from segkit.tables import is_own
from segkit.tables import named_options
from segkit.training import AVERAGES
from segkit.training import OPTIMIZERS
from segkit.training import PRETEXTS
from segkit.training import TASKS
from segkit.training.cluster import is_first_worker
from segkit.training.cluster import number_of_workers
from segkit.training.schedules import build_schedule

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

EXAMPLES = """examples:
  python tools/train.py --model fcn8s                            # built-in phantoms
  python tools/train.py --model unet3d --data data/hippocampus
  python tools/train.py --model unet3d --data data/hippocampus --resume
  python tools/train.py --config my.yaml --set train.epochs=50 --devices gpu:4
  python tools/train.py --model spade_gan --data data/hippocampus   # makes images: train_gan.py
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--no-evaluate", action="store_true", help="end without scoring whole cases"
    )
    return parser.parse_args(argv)


def add_arguments(parser):
    """Adds what training and pre-training have in common."""
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


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(
        run, parse_args(argv), interrupted="repeat the command with --resume to go on."
    )


def run(args):
    config = read_config(args)
    if config.task or config.model.name in GENERATORS:
        tool = runpy.run_path(str(Path(__file__).with_name("train_gan.py")))
        return tool["run"](args)
    if config.pretext:
        raise ConfigError(
            "the config has a section pretext: use tools/pretrain.py, or take it out."
        )
    from segkit.training.run import check_resumable

    folder = choose_folder(args, config, config.model.name)
    config, manifest = find_data(config)
    check_fold(config.data.fold, manifest)
    check_splits(config.data)
    for note in check_patch(config.data.patch_size, manifest):
        print(note)
    if config.train.initial_weights and not args.resume:
        check_unseen(config, manifest)
    check_soft_labels(config, read_outputs(manifest["classes"], config.loss.options))
    check_table(config, manifest)
    read_synthetic(config, manifest)
    if args.resume:
        check_resumable(folder, config)
    progress = train(args, config, folder, manifest)
    if progress.stopped == "SIGINT":
        raise KeyboardInterrupt
    if progress.stopped:
        print("Repeat the command with --resume to go on.")
    if progress.stopped or not is_first_worker():
        return
    if not args.no_evaluate:
        evaluate(folder, manifest)
    print(next_steps(folder, config, progress))


def read_config(args):
    path = args.config or CONFIGS / f"{args.model}.yaml"
    if is_own(args.model):
        raise ConfigError(
            f"--model takes the name of a config. Write one with model: {{name: {args.model}}} and "
            "give it with --config; see docs/extending.md."
        )
    if args.model and not path.exists():
        known = [p.stem for p in CONFIGS.glob("*.yaml")]
        raise ConfigError(f"unknown model {args.model!r}. {nearest(args.model, known)}")
    overrides = [*args.set]
    if args.data:
        overrides.append(f"data.path={json.dumps(args.data)}")
    tables = {"model": MODELS | GENERATORS, "loss": LOSSES, "pretext": PRETEXTS, "task": TASKS}
    config = load_config(path, overrides, tables)
    named_options(config.train.optimizer, "train.optimizer", OPTIMIZERS)
    build_schedule(config.train)
    if config.train.averaging:
        named_options(config.train.averaging, "train.averaging", AVERAGES)
    if config.train.initial_weights:
        source = str(Path(config.train.initial_weights).resolve())
        config = replace(config, train=replace(config.train, initial_weights=source))
    policy = read_policy(config.augment.policy)
    config = replace(config, augment=replace(config.augment, policy=policy))
    check_detector(config)
    check_options(config)
    return config


def find_data(config):
    """Returns the config with its data set named, made if it is the built-in one; and its manifest.

    Of the data set a network that finds objects has its anchors.
    """
    path = config.data.path
    if not path:
        path = prepare_phantoms("cells" if config.model.name in DETECTORS else "ct")
    places = {"path": str(Path(path).resolve())}
    if config.data.synthetic:
        made = str(Path(config.data.synthetic["path"]).resolve())
        places["synthetic"] = {**config.data.synthetic, "path": made}
    config = replace(config, data=replace(config.data, **places))
    from data_prep.manifest import load_manifest

    manifest = load_manifest(config.data.path)
    return fit_detector(config, manifest), manifest


def choose_folder(args, config, name):
    """Returns the run folder; refuses one in use without --resume, and workers without one."""
    from segkit.training.run import check_new
    from segkit.training.run import default_folder
    from segkit.training.run import find_resumable

    if number_of_workers() > 1 and not (args.run and config.data.path):
        raise ConfigError(
            "several workers (TF_CONFIG) need --run and --data: the same folders for all of them, "
            "on a shared disk. Add them."
        )
    choose = find_resumable if args.resume else default_folder
    folder = Path(args.run or choose(args.runs, name))
    if not args.resume and is_first_worker():
        check_new(folder)
    return folder


def set_up_devices(args, config):
    """Returns the strategy of --devices; imports TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.training.devices import make_deterministic
    from segkit.training.devices import make_strategy

    strategy = make_strategy(args.devices)
    if config.train.deterministic:
        make_deterministic()
    return strategy


def train(args, config, folder, manifest):
    strategy = set_up_devices(args, config)
    from data_prep.reader import reading_errors
    from segkit.losses import build_loss
    from segkit.losses.case_classes import WithCaseClasses
    from segkit.models import build_model
    from segkit.training.fit import fit

    outputs = read_outputs(manifest["classes"], config.loss.options)
    shape = (*config.data.patch_size, len(manifest["channels"]))
    validation = f"fold{config.data.fold}"
    augment, prepare = build_augmentation(config, manifest, len(outputs.classes), strategy)

    def build():
        channels = outputs.num_channels
        model = build_model(config.model.name, channels, shape, **config.model.options)
        options = dict(config.loss.options)
        if outputs.ignore_label is not None:
            options["ignore_label"] = outputs.ignore_label
        loss = build_loss(config.loss.name, **options)
        if config.model.options.get("case_classes"):
            loss = WithCaseClasses(loss, config.train.case_weight)
        return model, loss

    data, objective, made = Path(config.data.path), None, read_synthetic(config, manifest)
    chosen = (training_splits(config.data, manifest), config.data.repeats), ((validation,), {})
    batches = build_batches(config, data, manifest, augment, *chosen, synthetic=made)
    if config.model.name in DETECTORS:
        batches, objective, prepare = with_objects(batches, manifest, prepare)
    print(f"Training {config.model.name} on {data}, validating on {validation}: {folder}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(reading_errors(data, manifest))
        if made:
            print(f"{made.count} of {config.train.batch_size} patches per step: {made.folder}")
            stack.enter_context(reading_errors(made.folder, made.manifest))
        return fit(
            folder,
            config,
            manifest,
            strategy,
            build,
            batches,
            objective=objective,
            prepare=prepare,
            resume=args.resume,
        )


def with_objects(batches, manifest, change):
    """Returns `(batches, objective, prepare)` of a network that finds objects.

    It is given the maps beside the images, after augmentation, and learns from what it makes of
    them.

    Args:
        batches: `Batches` of images and maps.
        manifest: Manifest of the data set.
        change: Augmentation within the step, or `None`.
    """
    from segkit.training.detection import Detection
    from segkit.training.detection import join

    def prepare(*batch):
        return join(*(change(*batch) if change else batch))

    def validation(part):
        return batches.validation(part).map(join)

    return batches._replace(validation=validation), Detection(manifest), prepare


def build_augmentation(config, manifest, num_classes, strategy):
    """Returns `(augment, prepare)`: how patches are changed, and the step's part in that."""
    from data_prep.augment.apply import check
    from data_prep.pipeline import Augmentation
    from data_prep.pipeline import device_augmentation
    from data_prep.pipeline import lacks_channels

    augment, patch = Augmentation(**vars(config.augment)), tuple(config.data.patch_size)
    channels, priors = len(manifest["channels"]), count_priors(manifest["channels"])
    check(parse_policy(augment.policy), patch, channels - priors, num_classes)
    if augment.placement != "device":
        return augment, None
    check_pairs(augment.policy, config.train.batch_size, strategy.num_replicas_in_sync)
    kept = {"priors": priors, "keep_missing": lacks_channels(manifest)}
    return augment, device_augmentation(augment, patch, num_classes, **kept)


def build_batches(
    config, data, manifest, augment, training, held_out, *, labels=True, synthetic=None
):
    """Returns the `Batches` of a run; `training` and `held_out` are pairs `(splits, repeats)`.

    What is `synthetic`, a `data_prep.synthetic.Synthetic`, is for training alone.
    """
    from data_prep.pipeline import build_dataset
    from segkit.training.fit import Batches

    common = {
        "patch_size": tuple(config.data.patch_size),
        "batch_size": config.train.batch_size,
        "seed": config.train.seed,
        "foreground_fraction": config.data.foreground_fraction,
        "memory_bytes": config.data.memory_mb << 20,
        "labels": labels,
    }

    def stream(splits, repeats, **options):
        return build_dataset(data, manifest, splits, repeats=repeats, **options, **common)

    network = config.model.options
    beside = {
        "with_covariates": bool(network.get("covariates")),
        "with_targets": bool(network.get("case_classes") or network.get("classes")),
        "with_instances": config.model.name in DETECTORS,
    }

    def train_batches(first_example, part):
        options = {"deterministic": config.data.deterministic, "service": config.data.service}
        options |= {"augment": augment, "start_index": first_example, "part": part}
        return stream(*training, synthetic=synthetic, **options, **beside)

    def validation_batches(part):
        return stream(*held_out, part=part, batches=config.train.validation_batches, **beside)

    def inspect(first_example):
        changes = augment._replace(placement="input")
        options = {"augment": changes, "start_index": first_example, "synthetic": synthetic}
        batches = stream(*training, with_cases=True, **options)
        case, image, label = next(batches.as_numpy_iterator())
        return [name.decode() for name in case], image, label

    return Batches(train_batches, validation_batches, inspect)


def evaluate(folder, manifest):
    """Scores whole held-back cases, or those of the validation fold where none are held back."""
    held_back = any(case["split"] == "test" for case in manifest["cases"].values())
    split = "test" if held_back else "val"
    print(f"Scoring whole cases of the split {split!r}:")
    tool = runpy.run_path(str(Path(__file__).with_name("evaluate.py")))
    tool["evaluate"](tool["parse_args"](["--run", str(folder), "--split", split]))


def prepare_phantoms(recipe="ct"):
    """Converts the built-in phantoms once; returns the folder of the data set."""
    print(f"No --data given: using the built-in phantoms in {FOLDERS[recipe]}.")
    return make_built_in(recipe)


def next_steps(folder, config, progress):
    """Returns the commands that make use of a run."""
    recipe = recipe_of(config.data.path)
    study = write_study(recipe) if recipe else "STUDY"
    objects = config.model.name in DETECTORS
    label = "F1 of objects" if objects else "Dice"
    output = "objects.png" if objects else "mask.nii.gz"
    return f"""
Best validation {label} {progress.best_score:.4f} after epoch {progress.best_epoch}. Now:
  tensorboard --logdir {folder.parent}
  python tools/evaluate.py --run {folder}
  python tools/predict.py --run {folder} --input {study} --output {output}
  python tools/export.py --run {folder}"""


if __name__ == "__main__":
    sys.exit(main())
