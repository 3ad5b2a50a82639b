"""Trains a generator of images against a critic; tools/train.py hands over what has a task."""

import argparse
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from data_prep.augment.policy import parse_policy
from data_prep.checks import check_style
from data_prep.splits import hold_out
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import nearest
from segkit.models import CRITICS
from segkit.models import GENERATORS
from segkit.tables import named_options
from segkit.training.cluster import is_first_worker

# What all trainings have in common.
training = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("train.py"))))

LOSS = "adversarial"
STYLE = "style"  # the task that takes a second data set
RESTORING = ("inpainting", "enhancement")

EXAMPLES = """examples:
  python tools/train_gan.py --model spade_gan                      # built-in phantoms
  python tools/train_gan.py --model spade_gan --data data/hippocampus
  python tools/train_gan.py --model dcgan --data data/unlabelled --set loss.r1=10.0
  python tools/train_gan.py --model cycle_gan --data data/scanner_a --set data.style=data/scanner_b
  python tools/train_gan.py --model spade_gan --data data/hippocampus --resume
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    training.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(
        run, parse_args(argv), interrupted="repeat the command with --resume to go on."
    )


def run(args):
    config = training.read_config(args)
    check_parts(config)
    from segkit.training.run import check_resumable

    folder = training.choose_folder(args, config, config.model.name)
    config, manifest = training.find_data(config)
    config, manifest, style = find_style(config, manifest)
    for one in filter(None, (manifest, style)):
        check_data(config, one)
    check_case_classes(config, manifest)
    if config.train.initial_weights and not args.resume:
        training.check_unseen(config, manifest)
    if args.resume:
        check_resumable(folder, config)
    progress = train(args, config, folder, manifest, style)
    if progress.stopped == "SIGINT":
        raise KeyboardInterrupt
    if progress.stopped:
        print("Repeat the command with --resume to go on.")
    elif is_first_worker():
        print(next_steps(folder, config, progress))


def check_parts(config):
    """Refuses a generator without a task, a task without a generator, and other losses."""
    name = config.model.name
    if not config.task:
        raise ConfigError(
            f"{name} makes images, for which the config needs a section task. Add one, such as "
            "task: {name: noise}; see docs/gans.md."
        )
    if name not in GENERATORS:
        raise ConfigError(
            f"the task {config.task.name} needs a generator, got the model {name!r}. "
            f"{nearest(name, GENERATORS)}"
        )
    if config.loss.name != LOSS:
        raise ConfigError(
            f"the task {config.task.name} is learned with the loss {LOSS}, got "
            f"{config.loss.name!r}. Set loss.name={LOSS}."
        )
    if config.pretext:
        raise ConfigError("the config has sections task and pretext. Take one out.")
    if config.data.synthetic:
        raise ConfigError(
            "data.synthetic is for networks that learn from labels: a generator that learns from "
            "synthetic images repeats their faults. Set data.synthetic={}."
        )
    critic_options(config)
    styled = config.task.name == STYLE
    if styled != bool(config.data.style):
        raise ConfigError(
            "the task style learns the look of a second data set: name its folder in data.style."
            if styled
            else f"data.style is {config.data.style!r}, which the task {config.task.name} does not "
            "take. Use the task style, or take it out."
        )


def critic_options(config):
    """Returns `(name, options)` of the critic, checked."""
    return named_options(config.loss.options.get("critic", "patch"), "loss.critic", CRITICS)


def find_style(config, manifest):
    """Returns the config with paths of the task `style` resolved, and both manifests.

    That of the data set then holds how the other one was prepared, which tools/restore.py undoes;
    the second is `None` for other tasks.
    """
    if not config.data.style:
        return config, manifest, None
    from data_prep.manifest import load_manifest

    path = str(Path(config.data.style).resolve())
    style = load_manifest(path)
    check_style(config.data, manifest, style)
    config = replace(config, data=replace(config.data, style=path))
    options = dict(config.task.options)
    if options.get("segmenter"):
        options["segmenter"] = str(Path(options["segmenter"]).resolve())
        config = replace(config, task=replace(config.task, options=options))
    kept = {"name": style["name"], "preprocess": style["preprocess"]}
    return config, {**manifest, "style": kept}, style


def style_config(config):
    """Returns the config of the stream of the second data set: its cases in an order of its own.

    With the order of the first one, two data sets of the same cases would come in pairs.
    """
    data = replace(config.data, path=config.data.style, splits=[], repeats={})
    return replace(config, data=data, train=replace(config.train, seed=config.train.seed + 1))


def check_data(config, manifest):
    """Refuses what does not fit a data set."""
    if manifest["classes"]:
        training.check_fold(config.data.fold, manifest)
        training.check_splits(config.data)
    for note in training.check_patch(config.data.patch_size, manifest):
        print(note)


def check_case_classes(config, manifest):
    """Refuses classes of images that the data set does not have, or not for every case."""
    known, (_, critic) = manifest.get("targets", []), critic_options(config)
    for key, options in (("model", config.model.options), ("loss.critic", critic)):
        asked = options.get("classes", 0)
        if asked and asked != len(known):
            mend = f"Set it to {len(known)}" if known else "Prepare it from a table with some"
            raise ConfigError(
                f"{key}.classes is {asked}, and the data set's cases have {len(known)} classes "
                f"({', '.join(known) or 'none'}). {mend}; see docs/fusion.md."
            )
        lacking = [case for case, entry in manifest["cases"].items() if "target" not in entry]
        if asked and lacking:
            raise DataError(
                f"{key}.classes: no class is known of {len(lacking)} cases, such as {lacking[0]}. "
                "Prepare the data set without them."
            )
    if critic.get("classes") and not config.model.options.get("classes"):
        raise ConfigError("loss.critic.classes needs a generator with model.classes. Set both.")


def train(args, config, folder, manifest, style):
    strategy = training.set_up_devices(args, config)
    from data_prep.reader import reading_errors
    from segkit.training.adversarial.alarms import alarms
    from segkit.training.adversarial.learner import build_adversarial_learner
    from segkit.training.adversarial.learner import keyed
    from segkit.training.adversarial.objective import build_objective
    from segkit.training.fit import fit

    task, build = build_game(config, manifest)
    data = Path(config.data.path)
    batches, prepare, held_out = build_streams(config, data, manifest, strategy)
    if style:
        other = build_streams(style_config(config), Path(config.data.style), style, strategy)
        batches, prepare = joined(batches, prepare, *other[:2])

    def validation(part):
        size = config.train.batch_size
        options = {"seed": config.train.seed, "batch_size": size, "part": part}
        return keyed(batches.validation(part), **options)

    print(
        f"Training {config.model.name} ({config.task.name}) on {data}, validating on {held_out}: "
        f"{folder}"
    )
    with reading_errors(data, manifest):
        return fit(
            folder,
            config,
            manifest,
            strategy,
            build,
            batches._replace(validation=validation),
            objective=build_objective(task),
            prepare=prepare,
            learn=build_adversarial_learner,
            watch=alarms,
            resume=args.resume,
        )


def build_game(config, manifest):
    """Returns the task, and the function without arguments that builds the game."""
    from segkit.losses import build_loss
    from segkit.models import build_critic
    from segkit.models import build_model
    from segkit.training.adversarial.tasks import Patches
    from segkit.training.adversarial.tasks import build_task

    num_classes = len(manifest["classes"])
    shape = (*config.data.patch_size, len(manifest["channels"]))
    upright = manifest["preprocess"]["spacing_mm"] is None
    patches = Patches(shape, num_classes, upright)
    task = build_task(config.task.name, patches, **config.task.options)
    mixed = "mixup" in [step.name for step in parse_policy(config.augment.policy)]
    if task.labelled and mixed:
        raise ConfigError(
            f"augment.policy: mixup makes class probabilities of the labels, and the task "
            f"{config.task.name} takes class indices. Take it out."
        )
    loss = build_loss(config.loss.name, **config.loss.options)
    name, options = critic_options(config)

    def generator():
        return build_model(config.model.name, num_classes, shape, **config.model.options)

    def critic(condition_channels):
        return build_critic(name, shape, condition_channels, **options)

    return task, lambda: task.game(loss, generator, critic)


def build_streams(config, data, manifest, strategy):
    """Returns `(batches, prepare, held_out)` of a data set; the last is a name for people.

    Of one without labels the patients are dealt by hash, and no patch is centred on foreground.
    """
    labelled = bool(manifest["classes"])
    classes = len(manifest["classes"]) or 1
    augment, prepare = training.build_augmentation(config, manifest, classes, strategy)
    splits = training.training_splits(config.data, manifest)
    if labelled:
        held_out = f"fold{config.data.fold}"
        chosen = (splits, config.data.repeats), ((held_out,), {})
    else:
        from data_prep.reader import find_shards

        find_shards(data, manifest, splits, labels=False)  # refuses splits that are not there
        repeats, others = hold_out(splits, config.data.repeats, manifest)
        chosen, held_out = ((splits, repeats), (splits, others)), f"a part of {', '.join(splits)}"
        config = replace(config, data=replace(config.data, foreground_fraction=0.0))
    batches = training.build_batches(config, data, manifest, augment, *chosen, labels=labelled)
    return batches, prepare, held_out


def joined(one, change, other, other_change):
    """Returns `(batches, prepare)` of two data sets, whose images are a dict of both.

    Args:
        one: `Batches` of the first, whose labels are kept.
        change: Augmentation of its batches within the step, or `None`.
        other: `Batches` of the style.
        other_change: Likewise.
    """
    import tensorflow as tf

    def both(first, second):
        return {"image": first[0], "style": second[0]}, first[1]

    def train_batches(first_example, part):
        streams = one.train(first_example, part), other.train(first_example, part)
        pairs = tf.data.Dataset.zip(streams)
        return pairs if change else pairs.map(both)

    def validation(part):
        return tf.data.Dataset.zip((one.validation(part), other.validation(part))).map(both)

    def prepare(first, second):
        return both(change(*first), other_change(*second))

    return one._replace(train=train_batches, validation=validation), change and prepare


def next_steps(folder, config, progress):
    """Returns the commands that make use of a run."""
    if config.task.name in RESTORING:
        use = f"python tools/restore.py --run {folder} --input IMAGE --output RESTORED"
    elif config.task.name == STYLE:
        use = f"python tools/synthesize.py --run {folder} --source DATASET --out data/translated"
    else:
        use = f"python tools/synthesize.py --run {folder} --count 100 --out data/synthetic"
    return f"""
Best validation score {progress.best_score:.4f} after epoch {progress.best_epoch}. Now:
  tensorboard --logdir {folder.parent}
  python tools/evaluate_synthesis.py --run {folder}
  {use}"""


if __name__ == "__main__":
    sys.exit(main())
