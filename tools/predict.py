"""Segments one study by a trained run or a method: a mask on the grid of the input, volumes."""

import argparse
import contextlib
import json
import os
import runpy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data_prep.inputs import check_channels
from data_prep.inputs import check_range
from segkit import __version__
from segkit.classical import METHODS
from segkit.classical import count_classes
from segkit.classical import parse_options
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import nearest
from segkit.priors import without_priors
from segkit.training.objects import parse_args as of_run

EXAMPLES = """examples:
  python tools/predict.py --run runs/MY_RUN --input ct.nii.gz --output mask.nii.gz
  python tools/predict.py --run runs/MY_RUN --input DICOM_FOLDER --output mask.nii.gz
  python tools/predict.py --run runs/MY_RUN --input t1.nii.gz --input flair.nii.gz \\
      --output mask.nii.gz --probabilities probabilities.nii.gz --mirror
  python tools/predict.py --run runs/MY_RUN --input t1.nii.gz --missing FLAIR --output mask.nii.gz
  python tools/predict.py --run runs/MY_RUN --input photo.png --output mask.png
  python tools/predict.py --method otsu --set smooth_mm=1 --input ct.nii.gz --output mask.nii.gz
  python tools/predict.py --method region_growing --set "seeds={1: [[-32, 10, 41]]}" \\
      --set tolerance=40 --input DICOM_FOLDER --output mask.nii.gz

The mask holds the values that the labels of the training data had, of a method without --data the
class indices. A JSON file beside it has voxels and volumes. See also predict_instances.py --help.
"""
ENDINGS = (".nii.gz", ".nii", ".png")


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, which = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", metavar="FOLDER", help="run folder of tools/train.py")
    which.add_argument(
        "--method", metavar="NAME", help=f"a method without training: {', '.join(METHODS)}"
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the method, see docs/classical.md; may be repeated",
    )
    add(
        "--data",
        metavar="FOLDER",
        help="of a method: prepared data set that gives the classes, and as which the input is "
        "prepared (default: the input as it is)",
    )
    add_arguments(parser)
    add(
        "--missing",
        action="append",
        default=[],
        metavar="CHANNEL",
        help="channel for which there is no --input; may be repeated",
    )
    add(
        "--covariates",
        metavar="NAME=VALUE,...|FILE",
        help="what a network with covariates takes: age=63,sex=F, or a CSV file with one row",
    )
    add("--output", required=True, metavar="FILE", help="mask to write: .nii.gz, .nii or .png")
    add(
        "--probabilities",
        metavar="FILE",
        help="also write a probability per class or region: .nii.gz, .nii",
    )
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="average over all flips (default: the run's)",
    )
    return of_run(parser, argv)


def add_arguments(parser):
    """Adds what the tools that read one study have in common."""
    add = parser.add_argument
    add(
        "--input",
        required=True,
        action="append",
        metavar="PATH",
        help="NIfTI file, folder of one DICOM series, or image; once per channel, in order",
    )
    add("--series", metavar="N|UID", help="which DICOM series, where --input holds several")
    add("--overlap", type=float, help="share of a tile covered again (default: the run's)")
    add("--devices", choices=("auto", "cpu", "gpu"), help="default: auto")


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(predict, parse_args(argv), interrupted="nothing was written.")


def predict(args):
    """Reads, segments, writes and prints."""
    if args.objects:
        tool = runpy.run_path(str(Path(__file__).with_name("predict_instances.py")))
        return tool["predict"](tool["parse_args"](args.argv))
    output = writable(args.output, ENDINGS)
    if args.probabilities:
        writable(args.probabilities, ENDINGS[:2])
    segment = by_method(args) if args.method else by_network(args)
    image = read_input(with_missing(args.input, args.missing, args.run), args.series)
    for note in image.notes:
        print(f"note: {note}", file=sys.stderr)
    if output.suffix == ".png" and image.shape[0] > 1:
        raise DataError(f"a PNG holds one slice, the input has {image.shape[0]}. Write .nii.gz.")
    found = segment(image)
    report = describe(found, image.notes)
    ending = next(e for e in ENDINGS if output.name.lower().endswith(e))
    sidecar = output.with_name(f"{output.name[: -len(ending)]}.json")
    try:
        write_mask(output, found.mask, found.classes)
        if found.probabilities is not None:
            from segkit.io.nifti import write_nifti

            write_nifti(args.probabilities, found.probabilities)
        sidecar.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write beside {output}: {error.strerror or error}.") from None
    print(summary(report))
    print(f"\n{output}, described in {sidecar.name}")


class Found(NamedTuple):
    """A segmentation: by what, the mask of class indices, its classes, maybe probabilities.

    `about` is what else there is to say of the case.
    """

    source: dict
    mask: object
    classes: list
    probabilities: object = None
    about: dict | None = None


def by_network(args):
    """Returns the function from the input `Volume` to what a trained run finds in it."""
    refuse(args, "--method", set=[], data=None)

    def segment(image):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from segkit.inference.predictor import classify_volume
        from segkit.inference.predictor import predict_volume
        from segkit.inference.predictor import predictor_of
        from segkit.training.devices import make_strategy
        from segkit.training.run import load_run

        if args.devices in ("cpu", "gpu"):  # else TensorFlow's own choice, the first GPU if any
            make_strategy(f"{args.devices}:1")
        run = load_run(args.run)
        check_input(image, run.channels, run.manifest["preprocess"], "run")
        predictor = predictor_of(run, overlap=args.overlap, mirror=args.mirror)
        covariates = read_covariates(args.covariates, predictor, run.manifest)
        about = {"missing_channels": args.missing} if args.missing else {}
        if args.missing:
            warn_of_missing(run)
        options = {"with_probabilities": bool(args.probabilities), "covariates": covariates}
        with progress() as on_tile:
            result = predict_volume(predictor, image, on_tile=on_tile, **options)
        if predictor.num_case_classes:
            found = classify_volume(predictor, image, covariates).tolist()
            about["case_classes"] = dict(zip(run.manifest["targets"], found, strict=True))
        source = {"run": run.folder.resolve().name, "model": run.config.model.name}
        mask, probabilities = result if args.probabilities else (result, None)
        return Found(source, mask, run.outputs.classes, probabilities, about)

    return segment


def by_method(args):
    """Returns the function from the input `Volume` to what a method without training finds."""
    of_run = ("covariates", "probabilities", "overlap", "mirror", "devices")
    refuse(args, "--run", missing=[], **dict.fromkeys(of_run))
    options = parse_options(args.method, args.set)
    source = {"method": args.method, "options": options}
    if args.data:
        return like_data(args, options, source)

    def segment(image):
        from segkit.classical import segment as segment_volume

        names = ["background", *(f"class {n}" for n in range(1, count_classes(options)))]
        classes = [{"name": name, "value": value} for value, name in enumerate(names)]
        return Found(source, segment_volume(args.method, image, len(names), **options), classes)

    return segment


def like_data(args, options, source):
    """Returns the function as `by_method`, for an input that is prepared as a data set was."""
    from data_prep.baseline import segment_prepared
    from data_prep.manifest import load_manifest
    from data_prep.plan import Plan
    from data_prep.preprocess import prepare
    from data_prep.preprocess import undo
    from segkit.outputs import read_outputs
    from segkit.volume import Volume

    manifest = load_manifest(args.data)
    if not manifest["classes"]:
        raise DataError(f"the data set {args.data} has no labels and so no classes. Leave it out.")
    classes = read_outputs(manifest["classes"], {}).classes
    plan = Plan.from_json(manifest["preprocess"])

    def segment(image):
        check_input(image, manifest["channels"], manifest["preprocess"], "data set")
        prepared = prepare(image, None, plan)
        case, seen = prepared.geometry, (plan.normalization, len(classes))
        labels = segment_prepared(prepared.image, case, *seen, args.method, options)
        return Found(source, Volume(undo(labels, case), image.affine), classes)

    return segment


def refuse(args, flag, **defaults):
    """Refuses arguments that mean something with the other of `--run` and `--method` only."""
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise ConfigError(f"--{name} goes with {flag}. Leave it out.")


def check_input(image, channels, preprocess, what):
    """Refuses what the run or data set cannot take, and prints what is doubtful."""
    check_channels(image, channels, what)
    for note in check_range(image, preprocess, what):
        print(f"note: {note}", file=sys.stderr)


def writable(path, endings):
    """Returns the path of an output; checks it first, because a prediction can take long."""
    path = Path(path)
    if not path.name.lower().endswith(endings):
        raise DataError(f"cannot write {path.name!r}: the name must end in {', '.join(endings)}.")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: the folder {path.parent} does not exist.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}.") from None
    return path


def with_missing(paths, missing, run):
    """Returns one path per channel of a run, an empty text for each that is missing."""
    if not missing:
        return paths
    from data_prep.manifest import load_manifest

    channels = without_priors(load_manifest(run)["channels"])
    for name in missing:
        if name not in channels:
            raise DataError(
                f"--missing {name!r} is no channel of the run. {nearest(name, channels)}"
            )
    given = [name for name in channels if name not in missing]
    if len(paths) != len(given):
        raise DataError(
            f"without {', '.join(missing)} the run takes {len(given)} channel(s) "
            f"({', '.join(given)}), --input has {len(paths)}. Give --input once for each of them."
        )
    rest = iter(paths)
    return ["" if name in missing else next(rest) for name in channels]


def warn_of_missing(run):
    """Says so if a run has never seen a case that lacks a channel."""
    cases = run.manifest["cases"].values()
    dropped = run.config.model.options.get("modality_dropout", 0)
    if not dropped and not any("missing_channels" in case for case in cases):
        print(
            "note: this run was trained without modality_dropout, on complete cases: a missing "
            "channel can cost it much.",
            file=sys.stderr,
        )


def read_covariates(text, predictor, manifest):
    """Returns the encoded covariates that the network takes, or `None`."""
    from segkit.covariates import is_missing
    from segkit.covariates import parse_values
    from segkit.covariates import read_row
    from segkit.inference.predictor import encode_covariates

    columns = manifest.get("covariates", []) if predictor.num_covariates else []
    names = [column["name"] for column in columns]
    if bool(text) != bool(names):
        what = f"takes the covariates {', '.join(names)}" if names else "takes no covariates"
        mend = "Give --covariates NAME=VALUE,..." if names else "Leave out --covariates."
        raise DataError(f"the run {what}. {mend}")
    if not names:
        return None
    values = read_row(text, names) if text.lower().endswith(".csv") else parse_values(text)
    encoded = encode_covariates(predictor, manifest, values)
    unknown = [name for name in names if is_missing(values.get(name))]
    if unknown:
        print(f"note: not known, taken as missing: {', '.join(unknown)}", file=sys.stderr)
    return encoded


def read_input(paths, series):
    """Returns one `Volume` with all channels."""
    if series is None:
        from data_prep.layouts import RawCase
        from data_prep.layouts import read_case

        return read_case(RawCase("input", "input", tuple(paths)))[0]
    if len(paths) > 1:
        raise DataError(f"--series chooses within one --input, got {len(paths)} of them.")
    from segkit.io.dicom import read_series

    return read_series(paths[0], series)


@contextlib.contextmanager
def progress():
    """Shows the tiles done and the time left; nothing where stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(desc="predicting", unit="tile", disable=None) as bar:

        def on_tile(done, total):
            bar.total = total
            bar.update(done - bar.n)

        yield on_tile


def describe(found, notes):
    """Returns what stands in the JSON file."""
    import numpy as np

    from segkit.inference.scores import voxel_ml

    mask, classes = found.mask, found.classes
    ml = voxel_ml(mask.affine, mask.shape)
    counts = np.bincount(mask.array.reshape(-1), minlength=len(classes)).tolist()
    return {
        **found.source,
        "segkit": __version__,
        "shape": list(mask.shape),
        "spacing_mm": list(mask.spacing_mm),
        "orientation": mask.orientation,
        "classes": [
            {**entry, "voxels": count, "volume_ml": None if ml is None else round(count * ml, 6)}
            for entry, count in zip(classes, counts, strict=True)
        ],
        "notes": list(notes),
        **(found.about or {}),
    }


def write_mask(path, mask, classes):
    """Writes the mask with the classes' source values, atomically."""
    from data_prep.preprocess import to_values
    from segkit.io.nifti import write_nifti
    from segkit.io.raster import write_png

    values = to_values(mask.array, {entry["name"]: entry["value"] for entry in classes})
    write = write_png if path.suffix.lower() == ".png" else write_nifti
    write(path, replace(mask, array=values))


def summary(report):
    """Returns voxels and volume per class, and the class of the case, as text."""
    width = max(len(entry["name"]) for entry in report["classes"])
    lines = [f"{'class':{width}}  value      voxels   volume"]
    for entry in report["classes"]:
        ml = entry["volume_ml"]
        volume = "unknown" if ml is None else f"{ml:.3f} ml"
        lines.append(
            f"{entry['name']:{width}}  {entry['value']:>5}  {entry['voxels']:>10}  {volume}"
        )
    for name, probability in report.get("case_classes", {}).items():
        lines.append(f"class of the case {name}: {probability:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
