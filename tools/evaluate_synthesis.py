"""Scores the images of a trained generator: from labels or noise, restored, or translated."""

import argparse
import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import nearest
from segkit.errors import writing
from segkit.tables import check_options
from segkit.tables import options_of
from segkit.tables import parse_pairs
from segkit.tables import target
from segkit.training import TASKS

# What this tool has in common with others.
training, gans, instances = (
    SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(f"{name}.py"))))
    for name in ("train", "train_gan", "evaluate_instances")
)

EXAMPLES = """examples:
  python tools/evaluate_synthesis.py --run runs/MY_SPADE_GAN
  python tools/evaluate_synthesis.py --run runs/MY_SPADE_GAN --features runs/MY_UNET random
  python tools/evaluate_synthesis.py --run runs/MY_INPAINT_GAN --split test --count 400
  python tools/evaluate_synthesis.py --run runs/MY_ENHANCE_GAN --cover --set "gaussian=[0.2, 0.2]"

Whether synthetic images help a segmentation is seen by training with them (data.synthetic) and
without, and tools/evaluate.py on real cases; see docs/synthesis_scores.md.
"""
KIND = ("channels", "preprocess")  # of data sets whose images can be compared
RANDOM = "random"
IMAGES, RESTORED, TUNING = 1000, 200, 24  # numbers of examples
COVERING = 10_000  # patches that cover cases, at most
SEED = 20_000  # of streams and noise: other draws than those that the run was validated on


class Source(NamedTuple):
    """A data set, and which of its cases trained and which are scored: pairs `(splits, repeats)`.

    `repeats` are as in `data.repeats`; a case of which it says 0 does not belong.
    """

    folder: Path
    manifest: dict
    training: tuple
    held_out: tuple


class Job(NamedTuple):
    """What is scored, on what: images are made from `source` and should look like `reference`.

    `options` are those of the task that `--set` changed.
    """

    run: object
    task: object
    options: dict
    split: str
    source: Source
    reference: Source


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", metavar="FOLDER", required=True, help="run folder of tools/train.py with a task")
    add("--data", metavar="FOLDER", help="where the run's data set lies now, if it was moved")
    add(
        "--split",
        default="val",
        help="val (the run's validation fold), test, or a fold that was not trained on",
    )
    add("--fold", dest="split", type="fold{}".format, metavar="N", help="short for --split foldN")
    add(
        "--features",
        nargs="+",
        default=[RANDOM],
        metavar="RUN",
        help=f"what made images are compared by: {RANDOM} convolutions, or runs of networks for "
        f"segmentation (default: {RANDOM})",
    )
    add("--layer", metavar="NAME", help="layer of such a run (default: the coarsest map)")
    add(
        "--count",
        type=int,
        metavar="N",
        help=f"images to make (default: {IMAGES}; {RESTORED} where there is a true one, "
        f"{COVERING} at most with --cover)",
    )
    add(
        "--cover",
        action="store_true",
        help="restore patches that cover the held-out cases, evenly chosen if there are more than "
        "--count, in place of random ones",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the run's task in place of its own, such as the level of noise; may be "
        "repeated",
    )
    add("--devices", choices=("auto", "cpu", "gpu"), help="default: auto")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(evaluate, parse_args(argv), interrupted="nothing was written.")


def evaluate(args):
    """Makes images, scores, writes and prints."""
    if args.count is not None and args.count < 1:
        raise ConfigError(f"--count must be 1 or more, got {args.count}.")
    if args.layer and RANDOM in args.features:
        raise ConfigError(f"--layer goes with runs in --features, got {RANDOM}. Leave it out.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    job = make_job(args)
    restored = job.task.metric == "psnr"
    if restored and (args.layer or args.features != [RANDOM]):
        raise ConfigError(
            f"the task {job.run.config.task.name} is scored against true images, without features. "
            "Leave out --features."
        )
    if args.cover and not restored:
        raise ConfigError(
            f"--cover is for true images, and the task {job.run.config.task.name} has none. Leave "
            "it out."
        )
    folder = job.run.folder / "evaluation" / folder_name(job)
    with instances.new_folder(folder) as partial:
        report, lines = (score_restored if restored else score_made)(args, job, partial)
        with writing(folder, instances.MEND):
            text = json.dumps(report, indent=1, allow_nan=False)
            (partial / "results.json").write_text(text + "\n", encoding="utf-8")
            text = "\n".join([*lines, "", report["policy"]])
            (partial / "results.md").write_text(text + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(f"\nresults.json, results.md and pictures: {folder}")


def folder_name(job):
    """Returns the split, with what was set otherwise than in training: `fold0-gaussian=0.2-0.2`."""
    values = {k: v if isinstance(v, list) else [v] for k, v in job.options.items()}
    return "-".join([job.split, *(f"{k}={'-'.join(map(str, v))}" for k, v in values.items())])


def make_job(args):
    """Returns the `Job`; checks that run, data and split go together."""
    from data_prep.manifest import load_manifest
    from segkit.config import load_config
    from segkit.training.adversarial.tasks import Patches
    from segkit.training.adversarial.tasks import build_task
    from segkit.training.devices import make_strategy
    from segkit.training.run import load_run

    file = Path(args.run) / "config.yaml"
    if file.is_file() and load_config(file).task is None:
        raise ConfigError(
            f"{args.run} makes no images: its config has no task. Score it with tools/evaluate.py."
        )
    if args.devices in ("cpu", "gpu"):  # else TensorFlow's own choice, the first GPU if any
        make_strategy(f"{args.devices}:1")
    run = load_run(args.run)
    config, data = run.config, args.data or run.config.data.path
    options = task_options(config.task.name, args.set)
    manifest = same_kind(load_manifest(data), run.manifest, data, (*KIND, "classes", "cases"))
    patches = Patches(
        shape=(*config.data.patch_size, len(manifest["channels"])),
        num_classes=len(manifest["classes"]),
        upright=manifest["preprocess"]["spacing_mm"] is None,
    )
    task = build_task(config.task.name, patches, **{**config.task.options, **options})
    source = reference = source_of(config, data, manifest, args.split)
    if config.data.style:
        style = gans.style_config(config)
        reference = source_of(style, style.data.path, load_manifest(style.data.path), args.split)
    split = f"fold{config.data.fold}" if args.split == "val" and manifest["classes"] else args.split
    return Job(run, task, options, split, source, reference)


def task_options(name, pairs):
    """Returns the options of `--set`, checked."""
    options = parse_pairs(options_of(target(TASKS, name, "task")), pairs, "--set")
    check_options(TASKS, name, options, "task")
    return options


def same_kind(manifest, expected, data, keys):
    """Returns the manifest of a data set after comparing some of its keys with those of a run."""
    for key in keys:
        if manifest.get(key) != expected[key]:
            raise DataError(
                f"{data} is not, or was prepared otherwise than, the run's data set: {key!r} "
                "differs. Name the one that it was trained on."
            )
    return manifest


def source_of(config, data, manifest, split):
    """Returns the `Source` that a run was trained on, with the cases of a split to score."""
    trained = training.training_splits(config.data, manifest)
    if split == "val" and not manifest["classes"]:
        from data_prep.splits import hold_out

        repeats, others = hold_out(trained, config.data.repeats, manifest)
        return Source(Path(data), manifest, (trained, repeats), (trained, others))
    split = f"fold{config.data.fold}" if split == "val" else split
    known = {entry["split"] for entry in manifest["cases"].values()}
    if split not in known:
        raise ConfigError(
            f"no case of {data} is in the split {split!r}. {nearest(split, known | {'val'})}"
        )
    if split in trained:
        others = ", ".join(sorted({"val", *known} - set(trained)))
        raise ConfigError(
            f"the run was trained on {split}, so images that it remembers would score well there. "
            f"Take one of: {others}."
        )
    return Source(Path(data), manifest, (trained, config.data.repeats), ((split,), {}))


def stream(job, source, chosen, count, *, with_targets=False):
    """Returns batches of `(cases, images, labels)`, patches drawn as in the run's validation."""
    from data_prep.pipeline import build_dataset

    config, (splits, repeats) = job.run.config, chosen
    size = config.train.batch_size
    batches = build_dataset(
        source.folder,
        source.manifest,
        splits,
        repeats=repeats,
        patch_size=tuple(config.data.patch_size),
        batch_size=size,
        seed=config.train.seed + SEED,
        foreground_fraction=config.data.foreground_fraction,
        memory_bytes=config.data.memory_mb << 20,
        labels=bool(source.manifest["classes"]),
        batches=-(-count // size),
        with_cases=True,
        with_targets=with_targets,
    )
    return progress(batches, ", ".join(splits), "batch")


def samples(job, chosen, count):
    """Returns the `Sampled` of patches of some cases."""
    from segkit.training.adversarial.sampling import sample

    model = job.run.model
    batches = stream(job, job.source, chosen, count, with_targets="class" in model.input)
    return sample(job.task, model, batches, count=count, seed=SEED)


def real_images(job, chosen, count):
    """Returns `(images, cases)` of patches that made images should look like."""
    parts = list(stream(job, job.reference, chosen, count))
    images = np.concatenate([image.numpy() for _, image, _ in parts])[:count]
    return images, [name.decode() for case, _, _ in parts for name in case.numpy()][:count]


def covered(job, count):
    """Returns the `Sampled` of patches that cover the held-out cases, see `covering`."""
    import tensorflow as tf

    from segkit.training.adversarial.sampling import sample

    cases, images = covering(job, job.source, job.source.held_out, count)
    labels = np.zeros(images.shape[:-1], np.int32)  # restoring takes none
    batches = tf.data.Dataset.from_tensor_slices((cases, images, labels))
    batches = progress(batches.batch(job.run.config.train.batch_size), job.split, "batch")
    return sample(job.task, job.run.model, batches, count=len(cases), seed=SEED)


def covering(job, source, chosen, most):
    """Returns `(cases, images)` of patches that cover cases, evenly chosen if there are more."""
    from data_prep.covering import count_covering
    from data_prep.covering import covering_patches

    (splits, repeats), patch = chosen, tuple(job.run.config.data.patch_size)
    total = count_covering(source.manifest, splits, patch, repeats)
    kept = set(np.linspace(0, total - 1, min(total, most)).round().astype(int).tolist())
    patches = covering_patches(source.folder, source.manifest, splits, patch, repeats)
    found = [pair for n, pair in enumerate(patches) if n in kept]
    return [case for case, _ in found], np.stack([image for _, image in found])


def progress(items, name, unit):
    from tqdm import tqdm

    return tqdm(items, total=len(items), desc=name, unit=unit, disable=None)


def build_extractor(name, layer, job):
    """Returns the extractor of `--features`."""
    from segkit.inference.features import network_of
    from segkit.inference.features import of_network
    from segkit.inference.features import of_random_convolutions
    from segkit.training.run import load_run

    if name == RANDOM:
        return of_random_convolutions()
    run, reference = load_run(name), job.reference
    same_kind(reference.manifest, run.manifest, reference.folder, KIND)
    model = network_of(run, job.task.patches.shape)
    return of_network(model, run.folder.name, layer=layer)


def header(job):
    """Returns what a report begins with."""
    config = job.run.config
    task = {"name": config.task.name, **job.options}
    data = {"data": job.source.manifest["name"], "split": job.split}
    return {"run": job.run.folder.name, "model": config.model.name, "task": task, **data}


def score_made(args, job, folder):
    """Scores images that have no true one: returns `(report, lines)`, draws pictures."""
    from segkit.inference.features import of_intensities
    from segkit.inference.realism import POLICY
    from segkit.inference.realism import describe_memorisation
    from segkit.inference.realism import distinct
    from segkit.inference.realism import score_realism
    from segkit.inference.synthesis_report import realism_lines
    from segkit.inference.synthesis_report import write_nearest
    from segkit.inference.synthesis_report import write_samples

    extractors = [build_extractor(name, args.layer, job) for name in args.features]
    count = args.count or IMAGES
    found = samples(job, job.source.held_out, count)
    held_out, cases = found.real, found.cases
    if job.reference is not job.source:
        held_out, cases = real_images(job, job.reference.held_out, count)
    kept = distinct(held_out)
    distinct(found.made)  # refuses NaN
    images = {"held_out": held_out[kept], "made": found.made}
    images["training"], _ = real_images(job, job.reference.training, count)
    _, images["all_training"] = covering(job, job.reference, job.reference.training, COVERING)
    realism, checks = score_realism(images, extractors)
    plain = of_intensities(len(job.run.config.data.patch_size))
    of_intensity, check = describe_memorisation(images, plain)
    numbers = {"made": len(found.made), "held_out": len(kept), "cases": len(set(cases))}
    report = {
        **header(job),
        **numbers,
        "all_training": len(images["all_training"]),
        "policy": POLICY,
        "realism": realism,
        "memorisation_of_intensities": of_intensity,
    }
    shown = {"given": found.given, "made": found.made, "real": held_out}
    upright, title = job.task.patches.upright, job.run.folder.name
    labels = found.labels if "label" in job.task.gives else None
    write_samples(folder, shown, labels, upright=upright, title=title)
    names = [Path(name).name for name in (*args.features, plain.name)]
    named = dict(zip(names, [*checks, check], strict=True))
    write_nearest(folder, found.made, images["all_training"], named, upright=upright)
    return report, realism_lines(report)


def score_restored(args, job, folder):
    """Scores images against the true ones, and other methods beside: `(report, lines)`."""
    from segkit.inference.restoration_scores import compare_methods
    from segkit.inference.restoration_scores import scorable
    from segkit.inference.synthesis_report import order_of_columns
    from segkit.inference.synthesis_report import restoration_lines
    from segkit.inference.synthesis_report import write_restored

    if args.cover:
        found = scorable(covered(job, args.count or COVERING))
    else:
        found = scorable(samples(job, job.source.held_out, args.count or RESTORED))
    tuning = scorable(samples(job, job.source.training, TUNING))
    start = {**header(job), "patches": "covering" if args.cover else "random"}
    compared = compare_methods(found, tuning, start, progress)
    columns = order_of_columns(compared.images, found.real)
    write_restored(folder, columns, compared.psnrs, upright=job.task.patches.upright)
    return compared.report, restoration_lines(compared.report)


if __name__ == "__main__":
    sys.exit(main())
