"""Exports a trained run as a SavedModel: raw image in, mask out, in plain TensorFlow."""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from segkit import __version__
from segkit.covariates import encode
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ExportError
from segkit.errors import exit_code
from segkit.tables import short_name
from segkit.training.objects import finds_objects

EXAMPLES = """examples:
  python tools/export.py --run runs/MY_RUN
  python tools/export.py --run runs/MY_RUN --out models/hippocampus --check 5

Load it anywhere with TensorFlow alone, or serve it; see docs/export.md.
"""
# Other than the target's, so that the check covers resampling too.
SPACING_FACTORS = (1.0, 0.8, 1.25)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, metavar="FOLDER", help="run folder of tools/train.py")
    add("--out", metavar="FOLDER", help="folder of versions (default: RUN/saved_model)")
    add("--check", type=int, default=2, metavar="N", help="cases to compare on (default: 2)")
    add("--overlap", type=float, help="share of a tile covered again (default: the run's)")
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="average over all flips (default: the run's)",
    )
    args = parser.parse_args(argv)
    args.objects = finds_objects(args.run)
    if args.check < 1:
        parser.error(f"--check must be at least 1, got {args.check}")
    return args


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(export, parse_args(argv), interrupted="nothing was exported.")


def export(args):
    """Exports, checks and prints how to go on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.training.devices import make_strategy

    # On a GPU one network gives probabilities that differ by 1e-3 from call to call (TF32).
    make_strategy("cpu")
    from segkit.export.saved_model import CARD
    from segkit.export.saved_model import export_saved_model
    from segkit.inference.predictor import predictor_of
    from segkit.training.run import load_run

    run = load_run(args.run)
    if isinstance(run.first, dict):
        raise ExportError(
            f"the first stage is the method {run.first['method']!r}, which is no network: a "
            "SavedModel cannot hold it. Use tools/predict.py."
        )
    if args.objects:
        return export_objects(args, run)
    predictor = predictor_of(run, overlap=args.overlap, mirror=args.mirror)
    examples, origin = choose_examples(run, args.check, bool(predictor.num_covariates))
    folder = Path(args.out) if args.out else run.folder / "saved_model"
    card = describe(run)
    if predictor.num_covariates:
        card["covariates"] = run.manifest["covariates"]
    path = export_saved_model(predictor, folder, examples=examples, card=card)
    parity = json.loads((path / "assets" / CARD).read_text(encoding="utf-8"))["parity"]
    inputs = "image=..., spacing_mm=..." + ", covariates=..." * bool(predictor.num_covariates)
    call = f"model.signatures['mask']({inputs})['mask']"
    print(
        f"{sizes(path, predictor)}\nChecked on {parity['examples']} {origin}: same masks, "
        f"probabilities within {parity['max_probability_difference']:.1g}\n\n"
        f"{next_steps(path, run, call)}"
    )


def export_objects(args, run):
    """Exports a run that finds objects, checks and prints how to go on."""
    from data_prep.preprocess import denormalise
    from segkit.export.detector_model import export_detector
    from segkit.export.saved_model import CARD
    from segkit.inference.detector import detector_of

    for name in ("overlap", "mirror"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} is for networks that label pixels. Leave it out.")
    detector = detector_of(run)
    examples, origin = choose_examples(run, args.check, with_covariates=False)
    normalization = run.manifest["preprocess"]["normalization"]
    examples = [(denormalise(image, normalization), spacing) for image, spacing in examples]
    folder = Path(args.out) if args.out else run.folder / "saved_model"
    path = export_detector(detector, folder, examples=examples, card=describe(run))
    parity = json.loads((path / "assets" / CARD).read_text(encoding="utf-8"))["parity"]
    call = "model.signatures['serving_default'](image=..., spacing_mm=...)"
    print(
        f"{sizes(path, detector)}\nChecked on {parity['objects']} detections in "
        f"{parity['examples']} {origin}: boxes within {parity['max_box_difference']:.1g} pixels, "
        f"masks within {parity['max_mask_difference']:.1g}\n\n{next_steps(path, run, call)}"
    )


def sizes(path, module):
    """Says how large an export is."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    weights = sum(int(np.prod(w.shape)) * w.dtype.size for w in module.variables)
    return f"{path}: {size / 1e6:.1f} MB, of these {weights / 1e6:.1f} MB weights"


def next_steps(path, run, call):
    """Says how to load and serve an export."""
    return (
        f"Load it:   model = tf.saved_model.load({str(path)!r})\n"
        f"           {call}\n"
        "Serve it:  tensorflow_model_server --rest_api_port=8501 "
        f"--model_name={short_name(run.config.model.name)} "
        f"--model_base_path={path.parent.resolve()}\n"
        "Axes, units and a complete example: docs/export.md"
    )


def describe(run):
    """Returns what a user of the exported model must know."""
    preprocess, outputs = run.manifest["preprocess"], run.outputs
    regions = zip(outputs.regions.items(), outputs.class_order, strict=True)
    return {
        "segkit": __version__,
        "run": run.folder.resolve().name,
        "model": run.config.model.name,
        "channels": run.channels,
        "classes": outputs.classes,
        "regions": [
            {"name": name, "classes": list(classes), "paints": painted}
            for (name, classes), painted in regions
        ],
        "orientation": preprocess["orientation"],
        "spacing_mm": preprocess["spacing_mm"],
        "patch_size": list(run.config.data.patch_size),
    }


def choose_examples(run, count, with_covariates):
    """Returns `(examples, what they are)`: validation cases, or noise where there is no data."""
    spacing = np.array(run.manifest["preprocess"]["spacing_mm"] or (1, 1, 1), np.float32)
    spacing = (spacing * SPACING_FACTORS).astype(np.float32)
    sides = [-(-3 * n // 2) for n in run.config.data.patch_size]
    sides = [4, *sides] if len(sides) == 2 else sides
    try:
        named, origin = validation_images(run, count), "validation case(s)"
    except DataError as error:
        print(f"warning: {error} Checking on noise instead.", file=sys.stderr)
        rng, origin = np.random.default_rng(0), "volume(s) of noise"
        shape = (*sides, len(run.channels))
        named = {n: rng.normal(size=shape).astype(np.float32) for n in range(count)}
    examples = [(centre(image, sides), spacing) for image in named.values()]
    if with_covariates:
        examples = [(*e, covariates_of(run, c)) for e, c in zip(examples, named, strict=True)]
    return examples, origin


def covariates_of(run, case):
    """Returns the encoded covariates of a case; all are missing values of one that is not known."""
    known = run.manifest["cases"].get(case, {}).get("covariates", {})
    return encode(run.manifest["covariates"], known)


def validation_images(run, count):
    """Returns up to `count` prepared images by case; a part of each that is stored in chunks."""
    from data_prep.manifest import load_manifest
    from data_prep.manifest import shard_files
    from data_prep.records import decode_numpy
    from data_prep.records import read_records

    manifest, images = load_manifest(run.config.data.path), {}
    for path in shard_files(manifest, run.config.data.path, [f"fold{run.config.data.fold}"]):
        for record in read_records(path):
            chunk = decode_numpy(record)
            images.setdefault(chunk.case_id, chunk.image[..., : len(run.channels)])
            if len(images) == count:
                return images
    return images


def centre(image, sides):
    """Cuts the middle out of a large image: tiles enough for a check, and no hour of waiting."""
    low = [max(n - side, 0) // 2 for n, side in zip(image.shape, sides, strict=False)]
    return image[tuple(slice(a, a + side) for a, side in zip(low, sides, strict=True))]


if __name__ == "__main__":
    sys.exit(main())
