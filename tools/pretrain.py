"""Pre-trains a network on images without labels; tools/train.py then starts from its weights."""

import argparse
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from data_prep.splits import hold_out
from segkit.config import Component
from segkit.errors import ConfigError
from segkit.errors import exit_code
from segkit.training.cluster import is_first_worker

# What training and pre-training have in common.
training = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("train.py"))))

MODEL = "dpn"
TURNS = ("flip", "quarter_turns")  # after which nobody can tell how a patch was turned

EXAMPLES = """examples:
  python tools/pretrain.py --model dpn --data data/unlabelled --pretext masked
  python tools/pretrain.py --model dpn --data data/hippocampus --pretext rotation --run runs/pre
  python tools/pretrain.py --model dpn --data data/hippocampus --pretext denoising \\
      --set pretext.sigma=0.5 --set train.epochs=60
  python tools/train.py --model unet3d --data data/hippocampus --set train.initial_weights=runs/pre

Of a data set with labels the folds other than data.fold are used, without their labels.
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    training.add_arguments(parser)
    parser.add_argument(
        "--pretext", metavar="NAME", help="what to learn; short for --set pretext.name=NAME"
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(
        run, parse_args(argv), interrupted="repeat the command with --resume to go on."
    )


def run(args):
    config = read_config(args)
    name = f"pre-{config.model.name}-{config.pretext.name}"
    folder = training.choose_folder(args, config, name)
    data = Path(config.data.path).resolve() if config.data.path else training.prepare_phantoms()
    from data_prep.manifest import load_manifest

    manifest = load_manifest(data)
    if manifest["classes"]:
        training.check_fold(config.data.fold, manifest)
    for note in training.check_patch(config.data.patch_size, manifest):
        print(note)
    config = replace(config, data=replace(config.data, path=str(data), foreground_fraction=0.0))
    progress = pretrain(args, config, folder, data, manifest)
    if progress.stopped == "SIGINT":
        raise KeyboardInterrupt
    if progress.stopped:
        print("Repeat the command with --resume to go on.")
    elif is_first_worker():
        print(next_steps(folder, progress))


def read_config(args):
    if args.pretext:
        args.set = [f"pretext.name={args.pretext}", *args.set]
    config = training.read_config(args)
    if not config.pretext:
        raise ConfigError("pre-training needs a task: --pretext masked, for example.")
    if config.model.name != MODEL:
        raise ConfigError(
            f"pre-training builds {MODEL}, got the model {config.model.name!r}. Use --model "
            f"{MODEL} with the same filters: its weights fit the other U-Nets."
        )
    if config.data.synthetic:
        raise ConfigError(
            "data.synthetic goes with tools/train.py: pre-training judges itself by cases that the "
            "generator may have seen. Set data.synthetic={}."
        )
    return without_turns(config) if config.pretext.name == "rotation" else config


def without_turns(config):
    """Takes what would make the answers about rotations wrong out of the augmentation."""
    kept = [step for step in config.augment.policy if not set(step) & set(TURNS)]
    if len(kept) < len(config.augment.policy):
        print(f"note: without {' and '.join(TURNS)} of augment.policy: rotation asks for turns.")
    return replace(config, augment=replace(config.augment, policy=kept))


def pretrain(args, config, folder, data, manifest):
    strategy = training.set_up_devices(args, config)
    from data_prep.reader import find_shards
    from data_prep.reader import reading_errors
    from segkit.training.fit import fit
    from segkit.training.pretext import Patches
    from segkit.training.pretext import build_pretext
    from segkit.training.pretext import prepare_fixed
    from segkit.training.run import check_resumable

    shape = (*config.data.patch_size, len(manifest["channels"]))
    upright = manifest["preprocess"]["spacing_mm"] is None
    task = build_pretext(config.pretext.name, Patches(shape, upright), **config.pretext.options)
    config = replace(config, loss=Component(task.loss.name))
    if args.resume:
        check_resumable(folder, config)
    num_classes = len(manifest["classes"]) or 1
    augment, change = training.build_augmentation(config, manifest, num_classes, strategy)
    splits = training.training_splits(config.data, manifest)
    find_shards(data, manifest, splits, labels=False)  # refuses splits that are not there
    repeats, others = hold_out(splits, config.data.repeats, manifest)
    chosen = (splits, repeats), (splits, others)
    batches = training.build_batches(config, data, manifest, augment, *chosen, labels=False)

    def prepare(*batch):
        return task.prepare(change(*batch)[0] if change else batch[0])

    def validation(part):
        size = config.train.batch_size
        options = {"seed": config.train.seed, "batch_size": size, "part": part}
        return prepare_fixed(task, batches.validation(part), **options)

    def build():
        return task.network(**config.model.options), task.loss

    print(
        f"Pre-training {config.model.name} ({config.pretext.name}) on {', '.join(splits)} of {data}"
    )
    with reading_errors(data, manifest):
        return fit(
            folder,
            config,
            manifest,
            strategy,
            build,
            batches._replace(validation=validation),
            objective=task,
            prepare=prepare,
            resume=args.resume,
        )


def next_steps(folder, progress):
    """Returns the commands that make use of a pre-training."""
    return f"""
Best score {progress.best_score:.4f} after epoch {progress.best_epoch}. Now:
  tensorboard --logdir {folder.parent}
  python tools/train.py --model {MODEL} --data LABELLED --set train.initial_weights={folder}"""


if __name__ == "__main__":
    sys.exit(main())
