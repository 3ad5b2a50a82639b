"""Makes images, and label maps with them, with a trained generator: a data set to train on."""

import argparse
import hashlib
import os
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.checks import training_cases
from data_prep.checks import training_splits
from data_prep.manifest import load_manifest
from data_prep.synthesis import Made
from data_prep.synthesis import check_known
from data_prep.synthesis import classes_of
from data_prep.synthesis import deformation
from data_prep.synthesis import describe
from data_prep.synthesis import write_synthetic
from segkit.config import load_config
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import writing
from segkit.inference.overlay import COLOURS

SHOWN, COLUMNS = 16, 8  # of samples.png
EXAMPLES = """examples:
  python tools/synthesize.py --run runs/MY_SPADE --count 2000 --out data/synthetic
  python tools/synthesize.py --run runs/MY_SPADE --count 2000 --deform 0.5 --seed 1 --out data/more
  python tools/synthesize.py --run runs/MY_DCGAN --count 500 --out data/unlabelled
  python tools/synthesize.py --run runs/MY_CYCLE_GAN --source data/scanner_a --out data/a_as_b
  python tools/train.py --model unet --data data/hippocampus \\
      --set "data.synthetic={path: data/synthetic, ratio: 0.25}"

Label maps are those of the cases that the generator was trained on. Repeat the command to go on
after an interruption.
"""


class Job(NamedTuple):
    """What is written, see `data_prep.synthesis.write_synthetic`."""

    description: dict
    shapes: list
    make: object


class Generator(NamedTuple):
    """A trained generator and where it comes from.

    Attributes:
        run: `segkit.training.run.Run`.
        cases: Ids of the cases that it was trained on.
        images: Function of a dict of inputs and the numbers of the images, int64 `(batch,)`, that
            returns the images.
    """

    run: object
    cases: list
    images: object


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", metavar="FOLDER", required=True, help="run folder of a generator")
    add("--out", metavar="FOLDER", required=True, help="data set to write")
    add("--count", type=int, metavar="N", help="cases to make (of task style default: all)")
    add("--data", metavar="FOLDER", help="where label maps come from (default: the run's data set)")
    add(
        "--source",
        metavar="FOLDER",
        help="of task style: cases to translate (default: the run's data set)",
    )
    add("--seed", type=int, default=0, help="of label maps and noise (default: 0)")
    add(
        "--deform",
        type=float,
        metavar="STRENGTH",
        help="of label maps, from 0, none, to 1 (default: 1)",
    )
    add(
        "--foreground",
        type=float,
        metavar="SHARE",
        help="of label maps that are centred on foreground, beyond those that chance brings; a "
        "training that mixes them in has data.foreground_fraction for that (default: 0)",
    )
    add("--devices", choices=("auto", "cpu", "gpu"), default="auto", help="default: auto")
    add("--overwrite", action="store_true", help="replace another data set in --out")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(
        synthesize,
        parse_args(argv),
        interrupted="finished shards are kept. Repeat the command to go on.",
    )


def synthesize(args):
    """Makes, writes, draws and prints."""
    task = check(args)
    generator = load_generator(args)
    job = JOBS[task](args, generator)
    from tqdm import tqdm

    with tqdm(total=len(job.shapes), unit="case", disable=None) as bar:
        manifest, written = write_synthetic(
            args.out,
            job.description,
            job.shapes,
            job.make,
            overwrite=args.overwrite,
            progress=lambda done, _: bar.update(done - bar.n),
        )
    out = Path(args.out)
    if not written:
        print(f"{out} is up to date: all shards are in place.")
    draw(out, manifest, generator.run.manifest)
    size = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    print(f"{len(manifest['cases'])} synthetic cases, {size:.1f} MB: {out}. See samples.png. Now:")
    print(f'  python tools/train.py ... --set "data.synthetic={{path: {out}, ratio: 0.25}}"')


def check(args):
    """Returns the run's task, after refusing what makes no sense, before anything is loaded."""
    folder = Path(args.run)
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} is not a trained run: it has no config.yaml. Train it first.")
    task = load_config(folder / "config.yaml").task
    if task is None:
        raise ConfigError(f"{folder} is no generator: its config has no task. Name another --run.")
    if task.name not in JOBS:
        raise ConfigError(
            f"{folder} makes no new cases, its task is {task.name!r}. Use tools/restore.py."
        )
    of_task = dict.fromkeys(("--data", "--deform", "--foreground"), ("labels",))
    of_task["--source"] = ("style",)
    for option, tasks in of_task.items():
        if getattr(args, option[2:]) is not None and task.name not in tasks:
            raise ConfigError(f"{option} goes with the task {tasks[0]}, not {task.name}. Drop it.")
    if args.count is None and task.name != "style":
        raise ConfigError("--count is missing: how many cases to make.")
    if args.count is not None and args.count < 1:
        raise ConfigError(f"--count must be at least 1, got {args.count}.")
    if args.seed < 0:
        raise ConfigError(f"--seed must be 0 or more, got {args.seed}.")
    args.deform = 1.0 if args.deform is None else args.deform
    deformation(args.deform)
    args.foreground = args.foreground or 0.0
    if not 0 <= args.foreground <= 1:
        raise ConfigError(f"--foreground must be between 0 and 1, got {args.foreground}.")
    return task.name


def load_generator(args):
    """Returns the `Generator` of a run."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from segkit.inference.generator import make_images
    from segkit.training.devices import make_strategy
    from segkit.training.replica import example_keys
    from segkit.training.run import load_run

    if args.devices in ("cpu", "gpu"):
        make_strategy(f"{args.devices}:1")
    run = load_run(args.run)
    cases = training_cases(run.config.data, run.manifest)
    check_several(cases, f"{run.folder} was trained on")
    classes = run.config.model.options.get("classes", 0)

    @tf.function(autograph=False)
    def images(given, numbers):
        if classes:
            given = {**given, "class": tf.cast(numbers % classes, tf.int32)}
        return make_images(run.model, given, example_keys(args.seed, numbers))

    return Generator(run, cases, images)


def check_several(cases, what):
    """Refuses to make a data set of one image."""
    if len(cases) < 2:
        raise DataError(
            f"{what} {len(cases)} case(s): what is made of a single image repeats it, and is "
            "nothing to learn from. Train on at least 2 cases."
        )


def from_labels(args, generator):
    """Returns the `Job` of images of label maps."""
    from data_prep.label_maps import draw_label_maps

    run, config = generator.run, generator.run.config
    data = Path(args.data or config.data.path)
    manifest, cases = drawn_from(data, run, ("classes", "spacing_mm", "orientation"))
    check_known(manifest, cases, classes_of(run.manifest, generator.cases))
    known = {case: n for case, n in config.data.repeats.items() if case in manifest["cases"]}

    def batches(first):
        return draw_label_maps(
            data,
            manifest,
            training_splits(config.data, manifest),
            first=first,
            deform=args.deform,
            batch_size=config.train.batch_size,
            patch_size=tuple(config.data.patch_size),
            seed=args.seed,
            repeats=known,
            foreground_fraction=args.foreground,
            memory_bytes=config.data.memory_mb << 20,
        )

    def make(first, last):
        for numbers, ids, labels in batches(first):
            if numbers[0] >= last:
                return
            images = generator.images({"label": labels}, numbers).numpy()
            for number, case, label, image in zip(numbers, ids, labels, images, strict=True):
                if first <= number < last:
                    like = manifest["cases"][case]
                    yield Made(volume(image, 4), volume(label, 3), like, f"labels of {case}")

    return patches_job(args, generator, make, sums(manifest, cases))


def from_noise(args, generator):
    """Returns the `Job` of images of noise, which have no labels."""
    run, size = generator.run, generator.run.config.train.batch_size
    classes = run.config.model.options.get("classes", 0)
    names = run.manifest.get("targets", range(classes))
    like = run.manifest["cases"][generator.cases[0]]

    def make(first, last):
        for start in range(first - first % size, last, size):
            numbers = start + np.arange(size)
            images = generator.images({}, numbers).numpy()
            for number, image in zip(numbers, images, strict=True):
                if first <= number < last:
                    of = f"noise of class {names[number % classes]}" if classes else "noise"
                    yield Made(volume(image, 4), None, like, of)

    return patches_job(args, generator, make, set())


def from_cases(args, generator):
    """Returns the `Job` of whole cases in another style."""
    from data_prep.whole_cases import read_cases
    from segkit.inference.sliding_window import sliding_window

    run, config = generator.run, generator.run.config
    data = Path(args.source or config.data.path)
    manifest, cases = drawn_from(data, run, ("channels", *run.manifest["preprocess"]))
    look = load_manifest(config.data.style)
    splits, chosen = training_splits(config.data, manifest), set(cases)
    shards = (s for split in splits for s in manifest["shards"] if s["split"] == split)
    order = [case for shard in shards for case in shard["cases"] if case in chosen][: args.count]
    patch = tuple(config.data.patch_size)

    def translated(tiles):
        return generator.images({"image": tiles}, np.arange(tiles.shape[0]))

    def make(first, last):
        whole = (case for split in splits for case in read_cases(data, manifest, split))
        for case in islice((case for case in whole if case.id in chosen), first, last):
            options = {"overlap": config.inference.overlap}
            image = sliding_window(translated, case.image, patch, case.image.shape[-1], **options)
            label = case.label if manifest["classes"] else None
            yield Made(image.numpy(), label, manifest["cases"][case.id], f"style of {case.id}")

    normalization = look["preprocess"]["normalization"]
    source = {**manifest, "preprocess": {**manifest["preprocess"], "normalization": normalization}}
    seen = sums(manifest, cases) | sums(look, training_cases(config.data, look))
    chunking = {key: manifest["options"][key] for key in ("chunk", "chunk_overlap")}
    options = {"count": len(order), **chunking}
    about = describe(
        source,
        about=about_run(args, generator, seen),
        options=options,
        labels=bool(manifest["classes"]),
    )
    return Job(about, [manifest["cases"][case]["shape"] for case in order], make)


JOBS = {"labels": from_labels, "noise": from_noise, "style": from_cases}


def drawn_from(data, run, alike):
    """Returns manifest and training cases of a data set that fits a run.

    Args:
        data: Its folder.
        run: The generator's `Run`.
        alike: Keys of manifest and preprocessing in which the two must be equal.
    """
    manifest = load_manifest(data)
    facts = [{**known, **known["preprocess"]} for known in (manifest, run.manifest)]
    for key in alike:
        if facts[0][key] != facts[1][key]:
            raise DataError(
                f"{data} does not fit the generator {run.folder}: {key} is {facts[0][key]!s:.80} "
                f"there, it has learnt {facts[1][key]!s:.80}. Prepare it with the options of the "
                "run's data set."
            )
    cases = training_cases(run.config.data, manifest)
    check_several(cases, f"{data} has in the splits that the run trains on")
    return manifest, cases


def patches_job(args, generator, make, seen):
    """Returns the `Job` of patches."""
    run = generator.run
    patch = list(run.config.data.patch_size)
    shape = [1] * (3 - len(patch)) + patch
    options = {"count": args.count, "chunk": max(shape), "chunk_overlap": 0}
    labels = run.config.task.name == "labels"
    options |= {"deform": args.deform, "foreground": args.foreground} if labels else {}
    about = {**about_run(args, generator, seen), "patch_size": patch}
    description = describe(run.manifest, about=about, options=options, labels=labels)
    return Job(description, [shape] * args.count, make)


def about_run(args, generator, seen):
    """Returns what a manifest says of the generator, and of the cases that it has seen."""
    run = generator.run
    model = hashlib.sha256((run.folder / "model.keras").read_bytes()).hexdigest()
    return {
        "task": run.config.task.name,
        "run": run.folder.resolve().name,
        "model_sha256": model,
        "seed": args.seed,
        "batch_size": run.config.train.batch_size,
        "trained_on": sorted(seen | sums(run.manifest, generator.cases)),
    }


def sums(manifest, cases):
    """Returns the SHA-256 of the sources of some cases."""
    return {manifest["cases"][case]["source_sha256"] for case in cases}


def volume(array, rank):
    """Returns a patch with three spatial axes: a slice gets a depth of 1."""
    return array if array.ndim == rank else array[None]


def draw(out, manifest, real):
    """Draws the first cases with the outlines of their label maps."""
    from data_prep.contact_sheet import Picture
    from data_prep.contact_sheet import save_sheet
    from data_prep.contact_sheet import window
    from data_prep.whole_cases import read_cases

    pictures, colour = [], len(manifest["channels"]) == 3
    for case in islice(read_cases(out, manifest, "synthetic"), SHOWN):
        area = (case.label > 0).sum(axis=(1, 2))
        place = int(area.argmax()) if area.any() else len(area) // 2
        image = case.image[place] if colour else case.image[place, ..., 0]
        pictures.append(Picture(image, case.label[place], window(image), case.id))
    rows = [pictures[n : n + COLUMNS] for n in range(0, len(pictures), COLUMNS)]
    spacing = next(iter(manifest["cases"].values()))["spacing_mm"]
    title = f"{manifest['name']}: made by {manifest['synthetic']['run']}, not by a scanner"
    upright = all(case["shape"][0] == 1 for case in real["cases"].values())
    names = [entry["name"] for entry in manifest["classes"]]
    with writing(out, "Free some space, then repeat the command."):
        save_sheet(
            out / "samples.png",
            rows,
            names,
            COLOURS,
            title,
            aspect=spacing[1] / spacing[2],
            upright=upright,
        )


if __name__ == "__main__":
    sys.exit(main())
