"""Fills holes in an image, enhances it, or gives it another look, by a trained run."""

import argparse
import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from segkit import __version__
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import writing

PREDICT = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("predict.py"))))

EXAMPLES = """examples:
  python tools/restore.py --run runs/inpaint_gan-... --input mr.nii.gz --mask holes.nii.gz \\
      --output whole.nii.gz --picture
  python tools/restore.py --run runs/inpaint_gan-... --input DICOM_FOLDER --slices 12,20-22 \\
      --output whole.nii.gz
  python tools/restore.py --run runs/enhance_gan-... --input noisy.nii.gz --output clear.nii.gz
  python tools/restore.py --run runs/cycle_gan-... --input photo.png --output translated.png

The result has the grid, the intensities and the data type of the input; a JSON file beside it says
by what it was made, and what could not be given back. It is made by a network: what it shows in a
hole was never measured. See docs/restoration.md.
"""
TASKS = ("inpainting", "enhancement", "style")


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, metavar="FOLDER", help="run folder of tools/train.py")
    PREDICT.add_arguments(parser)
    add("--output", required=True, metavar="FILE", help="to write: .nii.gz, .nii or .png")
    holes = parser.add_mutually_exclusive_group()
    holes.add_argument(
        "--mask", metavar="FILE", help="holes to fill, not 0 there, on the grid of the input"
    )
    holes.add_argument(
        "--slices",
        metavar="N,N-N",
        help="holes to fill: whole slices, by their number from 0 along the input's first axis",
    )
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="average over all flips (default: the run's)",
    )
    add("--picture", action="store_true", help="also draw one slice before and after, a PNG")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(restore, parse_args(argv), interrupted="nothing was written.")


def restore(args):
    """Reads, restores, writes and prints."""
    output = PREDICT.writable(args.output, PREDICT.ENDINGS)
    task = task_of(args)
    image = PREDICT.read_input(args.input, args.series)
    if output.suffix.lower() == ".png":
        check_png(image)
    holes = read_holes(args, image)
    for note in image.notes:
        print(f"note: {note}", file=sys.stderr)
    run, made = by_network(args, image, holes)
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    report = describe(run, task, image, made, holes)
    ending = next(e for e in PREDICT.ENDINGS if output.name.lower().endswith(e))
    stem = output.name[: -len(ending)]
    with writing(f"beside {output}", "Name another --output."):
        write_image(output, made)
        sidecar = output.with_name(f"{stem}.json")
        sidecar.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        drawn = ""
        if args.picture:
            drawn = f"{stem}_before_after.png"
            draw(output.with_name(drawn), image, made, holes, run.manifest)
    print(summary(report))
    print(f"\n{output}, described in {sidecar.name}{f', drawn in {drawn}' if drawn else ''}")


def task_of(args):
    """Returns the name of the task that the run was trained for; checks that holes go with it."""
    from segkit.config import load_config

    folder = Path(args.run)
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} is not a trained run: it has no config.yaml. Train it first.")
    task = load_config(folder / "config.yaml").task
    if task is None:
        raise ConfigError(f"{folder} segments and makes no images: use tools/predict.py.")
    if task.name not in TASKS:
        raise ConfigError(
            f"{folder} was trained for the task {task.name}, which makes images from nothing "
            "measured: use tools/synthesize.py."
        )
    given = bool(args.mask or args.slices)
    if given and task.name != "inpainting":
        raise ConfigError(f"the task {task.name} fills no holes. Leave out --mask and --slices.")
    if task.name == "inpainting" and not given:
        raise ConfigError("the task inpainting fills holes: say which with --mask or --slices.")
    return task.name


def check_png(image):
    """Refuses an image that a PNG does not hold."""
    if image.shape[0] > 1:
        raise DataError(f"a PNG holds one slice, the input has {image.shape[0]}. Write .nii.gz.")
    kinds = (np.uint8,) if image.num_channels > 1 else (np.uint8, np.uint16)
    if image.array.dtype not in kinds or image.num_channels not in (1, 3):
        raise DataError(
            f"a PNG does not hold {image.num_channels} channel(s) of {image.array.dtype}. Write "
            ".nii.gz."
        )


def read_holes(args, image):
    """Returns the holes in the axes of the image, bool `(depth, height, width)`, or `None`."""
    if args.slices:
        holes = np.zeros(image.shape, bool)
        holes[parse_slices(args.slices, image.shape[0])] = True
        return holes
    if not args.mask:
        return None
    from segkit.io import read_label
    from segkit.volume import same_grid

    mask = read_label(args.mask)
    if mask.orientation != image.orientation:
        mask = mask.oriented(image.orientation)
    if not same_grid(mask, image):
        raise DataError(
            f"--mask {args.mask} is not on the grid of the input: shapes {mask.shape} and "
            f"{image.shape}, or the images lie elsewhere. Draw it on the input."
        )
    return mask.array != 0


def parse_slices(text, depth):
    """Returns the numbers of slices in a text such as `12,20-22`, in order.

    Args:
        text: What was given.
        depth: Number of slices.

    Raises:
        ConfigError: If it is no such text.
        DataError: If there is no such slice.
    """
    numbers = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"--slices must be like 12,20-22, got {text!r}.")
        numbers.update(range(int(first), int(last or first) + 1))
    if not numbers:
        raise ConfigError(f"--slices {text!r} names no slice: write ranges upwards, like 20-22.")
    if max(numbers) >= depth:
        raise DataError(
            f"--slices names slice {max(numbers)}, the input has {depth}: 0 to {depth - 1}."
        )
    return sorted(numbers)


def by_network(args, image, holes):
    """Returns the run, loaded, and the `Volume` that it makes of the image."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.inference.restorer import restorer_of
    from segkit.training.devices import make_strategy
    from segkit.training.run import load_run

    if args.devices in ("cpu", "gpu"):  # else TensorFlow's own choice, the first GPU if any
        make_strategy(f"{args.devices}:1")
    run = load_run(args.run)
    PREDICT.check_channels(image, run.channels, "run")
    restorer = restorer_of(run, overlap=args.overlap, mirror=args.mirror)
    with PREDICT.progress() as on_tile:
        return run, restorer.restore(image, holes, on_tile)


def describe(run, task, image, made, holes):
    """Returns what stands in the JSON file."""
    changed = made.array != image.array
    filled = {} if holes is None else {"voxels_filled": int(holes.sum())}
    return {
        "run": run.folder.resolve().name,
        "model": run.config.model.name,
        "task": task,
        "segkit": __version__,
        "made_by_a_network": True,
        "shape": list(made.shape),
        "spacing_mm": list(made.spacing_mm),
        "orientation": made.orientation,
        "dtype": str(made.array.dtype),
        "values_changed": int(changed.sum()),
        **filled,
        "mean_absolute_change": float(np.abs(made.array - image.array.astype(float)).mean()),
        "notes": [*image.notes, *made.notes],
    }


def write_image(path, made):
    """Writes the image, atomically."""
    from segkit.io.nifti import write_nifti
    from segkit.io.raster import write_png

    if path.suffix.lower() == ".png":
        write_png(path, made)
    else:
        write_nifti(path, made)


def draw(path, image, made, holes, manifest):
    """Draws one slice before and after, and between them where the holes were."""
    from segkit.io.raster import write_png
    from segkit.training.overlay import painted
    from segkit.training.overlay import to_grey
    from segkit.volume import Volume

    orientation = manifest["preprocess"]["orientation"]

    def oriented(array):
        first = array[..., 0] if array.ndim == 4 else array
        return Volume(first, image.affine).oriented(orientation).array

    before, after = oriented(image.array), oriented(made.array)
    gone = None if holes is None else oriented(holes)
    number = len(before) // 2 if gone is None else int(gone.sum(axis=(1, 2)).argmax())
    known = before[number] if gone is None else before[number][~gone[number]]
    limits = np.percentile(known if known.size else after[number], (0.5, 99.5))
    views = [to_grey(before[number], limits), to_grey(after[number], limits)]
    if gone is not None:
        views.insert(1, painted(views[0], gone[number].astype(int), 1.0))
    picture = np.concatenate(views, axis=1).round().astype(np.uint8)
    if manifest["preprocess"]["spacing_mm"] is not None:
        picture = picture[::-1]  # anterior up
    write_png(path, Volume(np.ascontiguousarray(picture)[None]))


def summary(report):
    """Returns what was done as text."""
    filled = f", {report['voxels_filled']} voxels filled" if "voxels_filled" in report else ""
    return (
        f"{report['task']} by {report['run']} ({report['model']}){filled}: "
        f"{report['values_changed']} values changed, by {report['mean_absolute_change']:.4g} in "
        "the mean over all"
    )


if __name__ == "__main__":
    sys.exit(main())
