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
training, instances = (
    SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(f"{name}.py"))))
    for name in ("train", "evaluate_instances")
)

EXAMPLES = """examples:
  python tools/evaluate_synthesis.py --run runs/MY_SPADE_GAN
  python tools/evaluate_synthesis.py --run runs/MY_SPADE_GAN --features runs/MY_UNET random
  python tools/evaluate_synthesis.py --run runs/MY_INPAINT_GAN --split test --count 400
  python tools/evaluate_synthesis.py --run runs/MY_ENHANCE_GAN --set "gaussian=[0.2, 0.2]"

Whether synthetic images help a segmentation is seen by training with them (data.synthetic) and
without, and tools/evaluate.py on real cases; see docs/synthesis_scores.md.
"""
RANDOM = "random"
IMAGES, RESTORED, TUNING = 1000, 200, 24  # numbers of examples
TRAINING = 10_000  # patches that may have been learnt by heart
SEED = 20_000  # of streams and noise: other draws than those that the run was validated on


class Job(NamedTuple):
    """What is scored, on what.

    `data` and `manifest` are of the data set that images are made from, `reference` is the pair of
    the one that they should look like. `train` are the splits that the run was trained on.
    """

    run: object
    task: object
    options: dict
    data: Path
    manifest: dict
    reference: tuple
    split: str
    train: tuple


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", metavar="FOLDER", required=True, help="run folder of tools/train.py with a task")
    add("--data", metavar="FOLDER", help="prepared data set (default: the run's own)")
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
        help=f"images to make (default: {IMAGES}; {RESTORED} where there is a true one)",
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
    config, data = run.config, Path(args.data or run.config.data.path)
    declared = options_of(target(TASKS, config.task.name, "task"))
    options = parse_pairs(declared, args.set, "--set")
    check_options(TASKS, config.task.name, options, "task")
    manifest = same_kind(load_manifest(data), run.manifest, data)
    patches = Patches(
        shape=(*config.data.patch_size, len(manifest["channels"])),
        num_classes=len(manifest["classes"]),
        upright=manifest["preprocess"]["spacing_mm"] is None,
    )
    task = build_task(config.task.name, patches, **{**config.task.options, **options})
    reference = data, manifest
    if getattr(task, "two_sets", False):
        reference = Path(config.data.style), load_manifest(config.data.style)
    split = f"fold{config.data.fold}" if args.split == "val" else args.split
    train = training.training_splits(config.data, manifest)
    for pair in ((data, manifest), reference):
        check_split(split, train, *pair)
    return Job(run, task, options, data, manifest, reference, split, train)


def same_kind(manifest, expected, data, keys=("channels", "classes", "preprocess")):
    """Returns the manifest after checking that its images are like those of a run."""
    for key in keys:
        if manifest.get(key) != expected[key]:
            raise DataError(
                f"{data} was prepared otherwise than the run's data: {key!r} differs. Prepare it "
                "with the run's data set's options, or leave it out."
            )
    return manifest


def check_split(split, train, data, manifest):
    """Refuses a split that is not there, or was trained on."""
    known = {entry["split"] for entry in manifest["cases"].values()}
    if split not in known:
        raise ConfigError(
            f"no case of {data} is in the split {split!r}. {nearest(split, known | {'val'})}"
        )
    if split in train:
        others = ", ".join(sorted(known - set(train))) or "a data set with a test split"
        raise ConfigError(
            f"the run was trained on {split}, so images that it remembers would score well there. "
            f"Take one of: {others}."
        )


def stream(job, source, splits, count, *, with_targets=False):
    """Returns batches of `(cases, images, labels)`, patches drawn as in the run's validation."""
    from data_prep.pipeline import build_dataset

    config, (data, manifest) = job.run.config, source
    size = config.train.batch_size
    return build_dataset(
        data,
        manifest,
        splits,
        patch_size=tuple(config.data.patch_size),
        batch_size=size,
        seed=config.train.seed + SEED,
        foreground_fraction=config.data.foreground_fraction,
        memory_bytes=config.data.memory_mb << 20,
        labels=bool(manifest["classes"]),
        batches=-(-count // size),
        with_cases=True,
        with_targets=with_targets,
    )


def samples(job, splits, count):
    """Returns the `Sampled` of patches of some splits."""
    from segkit.training.adversarial.sampling import sample

    model = job.run.model
    source, with_targets = (job.data, job.manifest), "class" in model.input
    batches = stream(job, source, splits, count, with_targets=with_targets)
    return sample(job.task, model, progress(batches, splits), count=count, seed=SEED)


def real_images(job, splits, count):
    """Returns `(images, cases)` of patches that made images should look like."""
    parts = list(progress(stream(job, job.reference, splits, count), splits))
    images = np.concatenate([image.numpy() for _, image, _ in parts])[:count]
    return images, [name.decode() for case, _, _ in parts for name in case.numpy()][:count]


def all_training(job):
    """Returns patches that cover the training cases, evenly chosen if there are too many."""
    from data_prep.covering import count_covering
    from data_prep.covering import covering_patches

    (data, manifest), patch = job.reference, tuple(job.run.config.data.patch_size)
    total = count_covering(manifest, job.train, patch)
    chosen = set(np.linspace(0, total - 1, min(total, TRAINING)).round().astype(int).tolist())
    patches = covering_patches(data, manifest, job.train, patch)
    return np.stack([image for n, (_, image) in enumerate(patches) if n in chosen])


def progress(batches, splits):
    from tqdm import tqdm

    name = ", ".join(splits)
    return tqdm(batches, total=len(batches), desc=name, unit="batch", disable=None)


def build_extractor(name, layer, job):
    """Returns the extractor of `--features`."""
    from segkit.inference.features import of_network
    from segkit.inference.features import of_random_convolutions
    from segkit.training.run import load_run

    if name == RANDOM:
        return of_random_convolutions()
    run, (data, manifest) = load_run(name), job.reference
    same_kind(manifest, run.manifest, data, ("channels", "preprocess"))
    return of_network(run.model, run.folder.name, layer=layer)


def header(job):
    """Returns what a report begins with."""
    config = job.run.config
    task = {"name": config.task.name, **job.options}
    data = {"data": job.manifest["name"], "split": job.split}
    return {"run": job.run.folder.name, "model": config.model.name, "task": task, **data}


def score_made(args, job, folder):
    """Scores images that have no true one: returns `(report, lines)`, draws pictures."""
    from segkit.inference.features import of_intensities
    from segkit.inference.realism import POLICY
    from segkit.inference.realism import describe_memorisation
    from segkit.inference.realism import distinct
    from segkit.inference.realism import score_realism
    from segkit.inference.synthesis_report import realism_lines

    extractors = [build_extractor(name, args.layer, job) for name in args.features]
    count = args.count or IMAGES
    found = samples(job, [job.split], count)
    held_out, cases = found.real, found.cases
    if job.reference[0] != job.data:
        held_out, cases = real_images(job, [job.split], count)
    kept = distinct(held_out)
    distinct(found.made)  # refuses NaN
    images = {"held_out": held_out[kept], "made": found.made}
    images["training"], _ = real_images(job, job.train, count)
    images["all_training"] = all_training(job)
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
    named = dict(zip([*args.features, plain.name], [*checks, check], strict=True))
    draw_made(job, folder, found, images, named)
    return report, realism_lines(report)


def draw_made(job, folder, found, images, checks):
    """Draws `samples.png`, and a picture of the nearest training patches for each check."""
    from segkit.inference.synthesis_report import write_nearest
    from segkit.inference.synthesis_report import write_samples

    upright, task = job.task.patches.upright, job.task
    shown = {"made": found.made, "held_out": found.real if task.paired else images["held_out"]}
    if found.given is not None:
        shown["given"] = found.given
    labels = found.labels if "label" in task.gives else None
    write_samples(folder, shown, labels, upright=upright, title=job.run.folder.name)
    for name, check in checks.items():
        path = folder / f"nearest-{Path(name).name}.png"
        title = f"nearest by {Path(name).name}"
        patches = images["all_training"]
        write_nearest(path, found.made, patches, check, upright=upright, title=title)


def score_restored(args, job, folder):
    """Scores images against the true ones, and other methods beside: `(report, lines)`."""
    from tqdm import tqdm

    from segkit.inference.restoration_scores import GIVEN
    from segkit.inference.restoration_scores import NETWORK
    from segkit.inference.restoration_scores import choose_options
    from segkit.inference.restoration_scores import methods_for
    from segkit.inference.restoration_scores import score_example
    from segkit.inference.restoration_scores import summarise_restoration
    from segkit.inference.synthesis_report import order_of_columns
    from segkit.inference.synthesis_report import restoration_lines
    from segkit.inference.synthesis_report import write_restored

    found = scorable(samples(job, [job.split], args.count or RESTORED))
    tuning = scorable(samples(job, job.train, TUNING))
    methods = methods_for(found.mask is not None)
    options = choose_options(methods, tuning.real, tuning.given, tuning.mask)
    restored = {GIVEN: found.given, NETWORK: found.made}
    masks = [None] * len(found.real) if found.mask is None else found.mask
    for name, method in methods.items():
        pairs = tqdm(list(zip(found.given, masks, strict=True)), desc=name, disable=None)
        restored[name] = np.stack([method(*pair, **options[name]) for pair in pairs])
    scores = {
        name: [score_example(*trio) for trio in zip(found.real, images, masks, strict=True)]
        for name, images in restored.items()
    }
    sides = found.real.shape[1:-1]
    report = summarise_restoration(scores, found.cases, header(job), options, sides)
    psnrs = np.array([one["psnr"] for one in scores[NETWORK]])
    columns = order_of_columns(restored, found.real)
    write_restored(folder, columns, psnrs, upright=job.task.patches.upright)
    return report, restoration_lines(report)


def scorable(found):
    """Returns the examples whose true images are not constant."""
    from segkit.inference.restoration_scores import usable

    kept = usable(found.real)
    arrays = {
        name: None if array is None else array[kept]
        for name, array in found._asdict().items()
        if name != "cases"
    }
    return found._replace(cases=[found.cases[n] for n in kept], **arrays)


if __name__ == "__main__":
    sys.exit(main())
