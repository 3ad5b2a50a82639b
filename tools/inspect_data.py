"""Draws patches of a prepared data set, as they are or augmented: what a network will see."""

import argparse
import os
import runpy
import sys
import time
from pathlib import Path

import numpy as np

from data_prep.augment.policy import parse_policy
from data_prep.augment.policy import read_policy
from data_prep.contact_sheet import KINDS
from data_prep.contact_sheet import Picture
from data_prep.contact_sheet import caption
from data_prep.contact_sheet import save_sheet
from data_prep.contact_sheet import window
from data_prep.joined_labels import label_of
from data_prep.joined_labels import split
from data_prep.manifest import load_manifest
from data_prep.synthetic import SPLIT
from segkit.config import load_config
from segkit.errors import ConfigError
from segkit.errors import exit_code
from segkit.errors import writing
from segkit.inference.overlay import COLOURS
from segkit.priors import count_priors

EXAMPLES = """examples:
  python tools/inspect_data.py                                   # built-in phantoms
  python tools/inspect_data.py --data data/hippocampus --augment nnunet
  python tools/inspect_data.py --data data/hippocampus --augment mine.yaml --patch 40 56 40
  python tools/inspect_data.py --data data/nuclei --augment light --patch 256 256
  python tools/inspect_data.py --config runs/MY_RUN/config.yaml --out run.png

With a policy, a row starts with a patch as it is; the other columns show the same patch
augmented, and below each picture stands what was drawn. Mixing takes place between the rows 1
and 2, 3 and 4, and so on. A row shares one grey scale. Of volumes the middle slice is shown,
which a flip of an even depth replaces by its neighbour. Single objects, where the data set has
them, are drawn one by one, with their boxes.
"""
LARGEST = {2: 256, 3: 96}  # longest side of a patch that nobody chose, by number of sides


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="written by tools/prepare_data.py")
    add("--augment", metavar="POLICY", help="name or YAML file of a policy (default: none)")
    add("--patch", type=int, nargs="+", metavar="N", help="[depth] height width, in voxels")
    add("--config", metavar="FILE", help="training configuration, for what is not given here")
    add("--rows", type=int, default=6, help="default: 6")
    add("--columns", type=int, default=8, help="default: 8")
    add("--channel", type=int, default=0, help="channel to show, unless in colour (default: 0)")
    add("--seed", type=int, default=0, help="of patches and augmentation (default: 0)")
    add("--out", metavar="FILE", default="sheet.png", help="picture (default: sheet.png)")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(inspect, parse_args(argv), interrupted="nothing was written.")


def inspect(args):
    """Reads, augments, draws and prints."""
    data, patch, policy, interpolation = settings(args)
    manifest = load_manifest(data, synthetic=True)
    patch = tuple(patch or default_patch(manifest))
    check(args, patch, manifest)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from data_prep.pipeline import Augmentation

    augment = Augmentation(policy, "device", interpolation)
    count = args.rows if policy else args.rows * args.columns
    batch = read_patches(data, manifest, patch, augment, count, args.seed)
    common = {"patch": patch, "manifest": manifest, "seed": args.seed, "channel": args.channel}
    (plain,), _ = views(batch, augment._replace(policy=[]), columns=1, **common)
    title = f"{manifest['name']}, patches of {' x '.join(map(str, patch))}"
    if policy:
        title += f", augmentation: {Path(args.augment or args.config).name}"
        columns, ms = views(batch, augment, columns=args.columns, **common)
        rows = augmented_rows(plain, columns, "dhw"[-len(patch) :], "instances" in manifest)
        print(table(policy, columns))
        print(f"\nThe whole policy took {ms:.1f} ms per patch, {count} patches at a time.")
    else:
        rows = plain_rows(plain, args.columns, "instances" in manifest)
    if "instances" in manifest:
        title += f", {count_objects(rows)} objects"
    draw(args.out, rows, title, manifest, batch[2][0])
    print(f"{title}: {args.out}")


def settings(args):
    """Returns data folder, patch (or `None`), policy and interpolation."""
    if args.config:
        config = load_config(args.config)
        data, patch = config.data.path, config.data.patch_size
        policy, interpolation = config.augment.policy, config.augment.interpolation
    else:
        data, patch, policy, interpolation = None, None, "none", "linear"
    policy = read_policy(args.augment or policy)
    return args.data or data or make_phantoms(), args.patch or patch, policy, interpolation


def make_phantoms():
    """Converts the built-in phantoms as the train tool does; returns the data folder."""
    tool = runpy.run_path(str(Path(__file__).with_name("train.py")))
    return tool["prepare_phantoms"]()


def default_patch(manifest):
    """Returns the sides of a typical case, two for pictures, none above `LARGEST`."""
    sides = np.median([case["shape"] for case in manifest["cases"].values()], axis=0)
    sides = [int(side) for side in sides if side > 1]
    return [min(side, LARGEST[len(sides)]) for side in sides]


def check(args, patch, manifest):
    """Refuses numbers and files that make no sense."""
    channels = len(manifest["channels"])
    for name, value in {"rows": args.rows, "columns": args.columns, "patch": min(patch)}.items():
        if value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}.")
    if not 0 <= args.channel < channels:
        raise ConfigError(f"--channel must be from 0 to {channels - 1}, got {args.channel}.")
    if Path(args.out).suffix not in KINDS:
        raise ConfigError(f"--out must end in one of {', '.join(KINDS)}, got {args.out!r}.")


def read_patches(data, manifest, patch, augment, count, seed):
    """Returns image with margin, label and voxel size of patches centred on foreground.

    Where the data set has objects, the label holds their ids too, see `data_prep.joined_labels`.
    """
    import tensorflow as tf

    from data_prep.pipeline import build_dataset
    from data_prep.reader import reading_errors

    stream = build_dataset(
        data,
        manifest,
        tuple(f"fold{n}" for n in range(manifest["folds"])) or (SPLIT,),
        patch_size=patch,
        batch_size=1,
        seed=seed,
        foreground_fraction=1.0,
        augment=augment,
        with_instances="instances" in manifest,
    ).take(count)
    with reading_errors(data, manifest):
        parts = [(image, label_of(label), spacing_mm) for image, label, _, _, spacing_mm in stream]
    return [tf.concat(part, axis=0) for part in zip(*parts, strict=True)]


def views(batch, augment, *, patch, manifest, seed, channel, columns):
    """Augments a batch once per column, each time with other random numbers.

    Returns:
        `(columns, ms)`: per column what is shown of the images, of the labels, and all draws;
        and the time per patch.
    """
    import tensorflow as tf

    from data_prep.augment.apply import Keys
    from data_prep.augment.apply import augment_batch
    from data_prep.augment.random import make_keys

    image, label, spacing_mm = batch
    rows, options = len(image), {"patch": patch, "num_classes": len(manifest["classes"])}
    options["priors"] = count_priors(manifest["channels"])
    middle = slice(None) if len(patch) == 2 else (slice(None), patch[0] // 2)
    part = ... if is_colour(manifest) else (..., channel)

    @tf.function(jit_compile=True, autograph=False)
    def change(keys):
        log = {}
        augmented = augment_batch(
            image, label, keys, spacing_mm=spacing_mm, log=log, **options, **augment.options
        )
        return *augmented, log

    def column(n):
        index = n * rows + tf.range(rows)
        keys = Keys(make_keys(seed, index), make_keys(seed, tf.fill(rows, -1 - n)))
        images, labels, log = tf.nest.map_structure(lambda x: x.numpy(), change(keys))
        return images[middle][part], labels[middle], log

    column(0)  # compiles
    start = time.perf_counter()
    found = [column(n) for n in range(columns)]
    return found, (time.perf_counter() - start) * 1e3 / (rows * columns)


def is_colour(manifest):
    """Says whether the images are photographs: red, green and blue in [0, 1]."""
    return [n["scheme"] for n in manifest["preprocess"]["normalization"]] == ["rescale"] * 3


def picture(image, label, shown, text, objects):
    """Returns the `Picture` of a patch; with `objects` its label holds ids too."""
    if not objects:
        return Picture(image, label, shown, text)
    label, ids = split(label)
    return Picture(image, label, shown, text, ids)


def count_objects(rows):
    """Returns how many objects the pictures of a sheet show."""
    return sum(len(set(np.unique(one.instance)) - {0}) for row in rows for one in row)


def plain_rows(view, columns, objects):
    """Returns rows of patches as they are."""
    pictures = [
        picture(image, label, window(image), "", objects)
        for image, label in zip(*view[:2], strict=True)
    ]
    return [pictures[n : n + columns] for n in range(0, len(pictures), columns)]


def augmented_rows(view, columns, axes, objects):
    """Returns rows of a patch as it is and its augmentations."""
    rows = plain_rows(view, 1, objects)
    for n, row in enumerate(rows):
        row[0] = row[0]._replace(caption="as it is")
        for images, labels, log in columns:
            text = caption({name: draws[n] for name, draws in log.items()}, axes)
            row.append(picture(images[n], labels[n], row[0].window, text, objects))
    return rows


def draw(path, rows, title, manifest, spacing_mm):
    names = [entry["name"] for entry in manifest["classes"]]
    upright = all(case["shape"][0] == 1 for case in manifest["cases"].values())
    aspect = float(spacing_mm[1] / spacing_mm[2])
    with writing(path, "Name another file with --out."):
        save_sheet(path, rows, names, COLOURS, title, aspect=aspect, upright=upright)


def table(policy, columns):
    """Returns how often each step was asked for and took place, as text."""
    steps = parse_policy(policy)
    width = max(len(step.label) for step in steps)
    lines = [f"{'step':{width}}  probability  in this sheet"]
    for step in steps:
        share = np.mean([log[f"{step.label}.applied"] for _, _, log in columns])
        lines.append(f"{step.label:{width}}  {step.probability:11.2f}  {share:13.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
