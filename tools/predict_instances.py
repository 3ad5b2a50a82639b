"""Finds the objects of one study by a trained run: a map of ids on the grid of the input."""

import argparse
import json
import os
import runpy
import sys
from dataclasses import replace
from functools import partial
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
  python tools/predict.py --run runs/MY_MASK_RCNN --input photo.png --output objects.png
  python tools/predict.py --run runs/MY_MASK_RCNN --input photo.png --output objects.tif \\
      --min-score 0.7 --coco objects_coco.json --overlay overlay.png
  python tools/predict.py --run runs/MY_MASK_RCNN --input DICOM_FOLDER --output objects.nii.gz

Beside the map stands a JSON file with the class, the score, the box and the size of each object.
"""
ENDINGS = (".nii.gz", ".nii", ".png", ".tif", ".tiff")
COLOURS = (["red", "green", "blue"], ["r", "g", "b"])


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, metavar="FOLDER", help="run folder of tools/train.py")
    PREDICT.add_arguments(parser)
    add(
        "--output",
        required=True,
        metavar="FILE",
        help="map of ids to write: .png (a picture), .tif, .nii.gz or .nii",
    )
    add(
        "--min-score",
        type=float,
        metavar="SCORE",
        help="objects with a lower score are left out (default: 0.5)",
    )
    add("--coco", metavar="FILE", help="also write the objects of a picture as COCO JSON")
    add("--overlay", metavar="FILE", help="also draw them on the image, or on a slice: .png")
    add(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="side of the tiles that larger images are cut into (default: the run's patch)",
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(predict, parse_args(argv), interrupted="nothing was written.")


def predict(args):
    """Reads, finds objects, writes and prints."""
    output = check_outputs(args)
    image = PREDICT.read_input(args.input, args.series)
    for note in image.notes:
        print(f"note: {note}", file=sys.stderr)
    for flag in ("output", "coco"):
        path = getattr(args, flag) or ""
        if image.shape[0] > 1 and path.lower().endswith((".png", ".json")):
            raise DataError(
                f"--{flag} {path} holds one slice, the input has {image.shape[0]}. "
                f"{'Write .nii.gz or .tif.' if flag == 'output' else 'Leave it out.'}"
            )
    found, image, run = find(args, image)
    from segkit.inference.detections import Detections
    from segkit.inference.detections import paint
    from segkit.inference.instance_files import beside
    from segkit.inference.instance_files import describe_objects
    from segkit.inference.instance_files import write_map

    names = [entry["name"] for entry in run.outputs.classes]
    painted = paint(found) if isinstance(found, Detections) else found
    report = {
        "run": run.folder.resolve().name,
        "model": run.config.model.name,
        "segkit": __version__,
        "min_score": args.min_score,
        "shape": list(image.shape),
        "spacing_mm": list(image.spacing_mm),
        "orientation": image.orientation,
        "objects": describe_objects(painted, names, image.affine),
        "notes": list(image.notes),
    }
    with writing(f"beside {output}", "Choose another folder with --output."):
        write_map(output, painted, image.affine)
        beside(output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if args.coco:
            from segkit.inference.coco_json import write_coco

            write_coco(args.coco, {Path(args.input[0]).name: found}, names)
        if args.overlay:
            draw(args.overlay, image, found, names)
    print(summary(painted, names))
    print(f"\n{output}, described in {beside(output).name}")


def check_outputs(args):
    """Returns the path of the map, after all that can be told before the prediction."""
    from segkit.inference.detector import MIN_SCORE

    output = PREDICT.writable(args.output, ENDINGS)
    args.min_score = MIN_SCORE if args.min_score is None else args.min_score
    if not 0 <= args.min_score <= 1:
        raise ConfigError(f"--min-score must be from 0 to 1, got {args.min_score}.")
    if args.overlay:
        PREDICT.writable(args.overlay, (".png",))
    if args.coco:
        from segkit.metrics.instances.rle import mask_module

        PREDICT.writable(args.coco, (".json",))
        mask_module()  # says what to install
    return output


def find(args, image):
    """Returns the objects on the grid of the input, the input as the network takes it, the run."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from data_prep.plan import Plan
    from data_prep.preprocess import prepare
    from data_prep.preprocess import undo
    from segkit.inference.detections import Detections
    from segkit.inference.detector import detector_of
    from segkit.training.devices import make_strategy
    from segkit.training.run import load_run

    if args.devices in ("cpu", "gpu"):  # else TensorFlow's own choice, the first GPU if any
        make_strategy(f"{args.devices}:1")
    run = load_run(args.run)
    image = coloured(image, run.channels)
    PREDICT.check_input(image, run.channels, run.manifest["preprocess"], "run")
    detector = detector_of(run, overlap=args.overlap, tile=args.tile)
    prepared = prepare(image, None, Plan.from_json(run.manifest["preprocess"]))
    back = partial(undo, case=prepared.geometry)
    with PREDICT.progress() as on_tile:
        found = detector.find(
            prepared.image, prepared.geometry, back, min_score=args.min_score, on_tile=on_tile
        )
    if isinstance(found, Detections):
        found = found.take(np.flatnonzero(found.scores >= args.min_score))
    return found, image, run


def coloured(image, channels):
    """Returns a grey picture in three equal channels where the run takes colours."""
    if image.num_channels > 1 or [name.lower() for name in channels] not in COLOURS:
        return image
    array = image.array.reshape(*image.shape, 1)
    return replace(image, array=np.repeat(array, 3, axis=-1))


def draw(path, image, found, names):
    """Draws the objects on a picture, or on the slice of a volume that has most of them."""
    from segkit.inference.detections import Detections
    from segkit.inference.detections import without_vanished
    from segkit.inference.instance_overlay import save_objects

    planes = image.array.reshape(*image.shape, -1)
    index, title = 0, Path(path).stem
    if not isinstance(found, Detections) and found.labels.ndim == 3:
        index = int((found.labels > 0).sum(axis=(1, 2)).argmax())
        found = without_vanished(found._replace(labels=found.labels[index]))
        title = f"{title}, slice {index}"
    shown = planes[index] if planes.shape[-1] == 3 else planes[index][..., 0]
    save_objects(path, shown, found, names, title)


def summary(found, names):
    """Returns the number of objects of each class as text."""
    counts = np.bincount(found.classes, minlength=len(names))
    width = max(len(name) for name in names)
    rows = zip(names[1:], counts[1:], strict=True)
    lines = [f"{name:{width}}  {count:>7}" for name, count in rows]
    return "\n".join([f"{'class':{width}}  objects", *lines])


if __name__ == "__main__":
    sys.exit(main())
