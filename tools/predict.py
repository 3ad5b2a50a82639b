"""Segments one study with a trained run: a mask on the grid of the input, and its volumes."""

import argparse
import contextlib
import csv
import json
import os
import sys
import tempfile
from pathlib import Path

from segkit import __version__
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import nearest

EXAMPLES = """examples:
  python tools/predict.py --run runs/MY_RUN --input ct.nii.gz --output mask.nii.gz
  python tools/predict.py --run runs/MY_RUN --input DICOM_FOLDER --output mask.nii.gz
  python tools/predict.py --run runs/MY_RUN --input t1.nii.gz --input flair.nii.gz \\
      --output mask.nii.gz --probabilities probabilities.nii.gz --mirror
  python tools/predict.py --run runs/MY_RUN --input t1.nii.gz --missing FLAIR --output mask.nii.gz
  python tools/predict.py --run runs/MY_RUN --input ct.nii.gz --covariates age=63,sex=F \\
      --output mask.nii.gz
  python tools/predict.py --run runs/MY_RUN --input photo.png --output mask.png

The mask holds the values that the labels of the training data had. Beside it stands a JSON file
with the voxels and the volume of each class.
"""
ENDINGS = (".nii.gz", ".nii", ".png")


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, metavar="FOLDER", help="run folder of tools/train.py")
    add(
        "--input",
        required=True,
        action="append",
        metavar="PATH",
        help="NIfTI file, folder of one DICOM series, or image; once per channel, in order",
    )
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
    add("--series", metavar="N|UID", help="which DICOM series, where --input holds several")
    add(
        "--probabilities",
        metavar="FILE",
        help="also write a probability per class or region: .nii.gz, .nii",
    )
    add("--overlap", type=float, help="share of a tile covered again (default: the run's)")
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="average over all flips (default: the run's)",
    )
    add("--devices", default="auto", choices=("auto", "cpu", "gpu"), help="default: auto")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(predict, parse_args(argv), interrupted="nothing was written.")


def predict(args):
    """Reads, segments, writes and prints."""
    output = writable(args.output, ENDINGS)
    if args.probabilities:
        writable(args.probabilities, ENDINGS[:2])
    image = read_input(with_missing(args.input, args.missing, args.run), args.series)
    for note in image.notes:
        print(f"note: {note}", file=sys.stderr)
    if output.suffix == ".png" and image.shape[0] > 1:
        raise DataError(f"a PNG holds one slice, the input has {image.shape[0]}. Write .nii.gz.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.inference.predictor import classify_volume
    from segkit.inference.predictor import predict_volume
    from segkit.inference.predictor import predictor_of
    from segkit.training.devices import make_strategy
    from segkit.training.run import load_run

    if args.devices != "auto":  # "auto": TensorFlow's own choice, the first GPU if there is one
        make_strategy(f"{args.devices}:1")
    run = load_run(args.run)
    channels = run.manifest["channels"]
    if image.num_channels != len(channels):
        raise DataError(
            f"the run takes {len(channels)} channel(s) ({', '.join(channels)}), --input has "
            f"{image.num_channels}. Give --input once per channel, in this order."
        )
    predictor = predictor_of(run, overlap=args.overlap, mirror=args.mirror)
    covariates = read_covariates(args.covariates, predictor, run.manifest)
    if args.missing and not learned_to_do_without(run):
        print(
            "note: this run was trained without modality_dropout, on complete cases: a missing "
            "channel can cost it much.",
            file=sys.stderr,
        )
    with progress() as on_tile:
        result = predict_volume(
            predictor,
            image,
            with_probabilities=bool(args.probabilities),
            on_tile=on_tile,
            covariates=covariates,
        )
    mask = result[0] if args.probabilities else result
    report = describe(mask, run, image.notes)
    if args.missing:
        report["missing_channels"] = args.missing
    if predictor.num_case_classes:
        found = classify_volume(predictor, image, covariates).tolist()
        report["case_classes"] = dict(zip(run.manifest["targets"], found, strict=True))
    sidecar = output.with_name(f"{stem(output)}.json")
    try:
        write_mask(output, mask, run.outputs.classes)
        if args.probabilities:
            from segkit.io.nifti import write_nifti

            write_nifti(args.probabilities, result[1])
        sidecar.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write beside {output}: {error.strerror or error}.") from None
    print(summary(report))
    print(f"\n{output}, described in {sidecar.name}")


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


def stem(path):
    """Returns the file name without `.nii.gz`, `.nii` or `.png`."""
    ending = next(e for e in ENDINGS if path.name.lower().endswith(e))
    return path.name[: -len(ending)]


def with_missing(paths, missing, run):
    """Returns one path per channel of a run, an empty text for each that is missing."""
    if not missing:
        return paths
    from data_prep.manifest import load_manifest

    channels = load_manifest(run)["channels"]
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


def learned_to_do_without(run):
    """Returns whether a run has seen cases that lack a channel."""
    cases = run.manifest["cases"].values()
    dropped = run.config.model.options.get("modality_dropout", 0)
    return bool(dropped) or any("missing_channels" in case for case in cases)


def read_covariates(text, predictor, manifest):
    """Returns the encoded covariates that the network takes, or `None`."""
    from segkit.covariates import is_missing
    from segkit.covariates import parse_values
    from segkit.inference.predictor import encode_covariates

    columns = manifest.get("covariates", []) if predictor.num_covariates else []
    names = [column["name"] for column in columns]
    if bool(text) != bool(names):
        what = f"takes the covariates {', '.join(names)}" if names else "takes no covariates"
        mend = "Give --covariates NAME=VALUE,..." if names else "Leave out --covariates."
        raise DataError(f"the run {what}. {mend}")
    if not names:
        return None
    is_file = text.lower().endswith(".csv")
    values = only_row(text, names) if is_file else parse_values(text)
    encoded = encode_covariates(predictor, manifest, values)
    unknown = [name for name in names if is_missing(values.get(name))]
    if unknown:
        print(f"note: not known, taken as missing: {', '.join(unknown)}", file=sys.stderr)
    return encoded


def only_row(path, names):
    """Returns the covariates in the one row of a CSV file; other columns are left out."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--covariates: cannot read {path}: {error}.") from None
    if len(rows) != 1 or not set(names) & set(rows[0]):
        raise DataError(
            f"--covariates: {path} must have one row, below columns such as {', '.join(names)}; it "
            f"has {len(rows)}."
        )
    return {name: value for name, value in rows[0].items() if name in names}


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


def describe(mask, run, notes):
    """Returns what stands in the JSON file."""
    import numpy as np

    from segkit.inference.scores import voxel_ml

    ml = voxel_ml(mask.affine, mask.shape)
    classes = run.outputs.classes
    counts = np.bincount(mask.array.reshape(-1), minlength=len(classes)).tolist()
    return {
        "run": run.folder.resolve().name,
        "model": run.config.model.name,
        "segkit": __version__,
        "shape": list(mask.shape),
        "spacing_mm": list(mask.spacing_mm),
        "orientation": mask.orientation,
        "classes": [
            {**entry, "voxels": count, "volume_ml": None if ml is None else round(count * ml, 6)}
            for entry, count in zip(classes, counts, strict=True)
        ],
        "notes": list(notes),
    }


def write_mask(path, mask, classes):
    """Writes the mask with the classes' source values, atomically."""
    from dataclasses import replace

    from data_prep.preprocess import to_values

    values = to_values(mask.array, {entry["name"]: entry["value"] for entry in classes})
    if path.suffix.lower() != ".png":
        from segkit.io.nifti import write_nifti

        write_nifti(path, replace(mask, array=values))
        return
    from PIL import Image

    if values.dtype.itemsize > 2:
        raise DataError(f"{path}: a PNG holds values up to 65535. Write .nii.gz instead.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        Image.fromarray(values[0]).save(partial, format="PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
