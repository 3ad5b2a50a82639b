"""Scores a trained run, or a method without training, on whole cases on their source grid."""

import argparse
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkit.classical import METHODS
from segkit.classical import parse_options
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.errors import exit_code
from segkit.errors import nearest
from segkit.training.objects import parse_args as of_run

EXAMPLES = """examples:
  python tools/evaluate.py --run runs/MY_RUN
  python tools/evaluate.py --run runs/MY_RUN --split test --mirror
  python tools/evaluate.py --run runs/MY_RUN --data data/other --split fold2
  python tools/evaluate.py --run runs/MY_RUN --boundary membrane
  python tools/evaluate.py --run runs/MY_MASK_RCNN --min-score 0.7 --save
  python tools/evaluate.py --method watershed --data data/hippocampus --fold 0
  python tools/evaluate.py --method multi_otsu --set "classes=[0,2,1]" --data data/MY_DATA

A run that finds objects is scored by tools/evaluate_instances.py, which has further options.
"""
POLICY = (
    "A class absent from truth and prediction has no score: it is left out of the means and "
    "counted under 'absent'. Accuracy is the share of a class's true voxels that were found. "
    "Intervals: 95 % percentile bootstrap over cases, 2000 resamples, seed 0."
)


class Job(NamedTuple):
    """What is scored, on what, and where the report goes: to `folder`/evaluation/`split`.

    `segment` takes a prepared image `(d, h, w, c)` and the manifest's entry of its case; it
    returns class indices on the source grid, a function from the index of a prepared slice to
    its class indices, and one from a class to its probability on the source grid. `case_class`
    takes the same and returns what is said of the whole case; it is `None` where nothing is.
    `header` identifies what is scored in the report; `boundary` is the index of --boundary.
    """

    header: dict
    data: Path
    manifest: dict
    split: str
    outputs: object
    segment: Callable
    folder: Path
    boundary: int | None
    case_class: Callable | None = None


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, which = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
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
    add_arguments(parser, which, "a method", "METHOD")
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="average over all flips (default: the run's)",
    )
    add(
        "--boundary",
        metavar="CLASS",
        help="class that separates objects: score the segments that it leaves, too",
    )
    return of_run(parser, argv)


def add_arguments(parser, which, other, name):
    """Adds what the scoring of masks and of objects have in common.

    Args:
        parser: `argparse.ArgumentParser`.
        which: Its group of --run and of what can stand in its place.
        other: What that is, in words.
        name: What it is called in the name of the folder of its report.
    """
    add = parser.add_argument
    which.add_argument("--run", metavar="FOLDER", help="run folder of tools/train.py")
    add("--data", metavar="FOLDER", help="prepared data set (default: the run's own)")
    add(
        "--split",
        default="val",
        help=f"val (the run's validation fold; of {other} fold0), test, fold0, fold1, ...",
    )
    add("--fold", dest="split", type="fold{}".format, metavar="N", help="short for --split foldN")
    add(
        "--out",
        metavar="FOLDER",
        help=f"of {other}: where the report goes (default: runs/{name}-DATA)",
    )
    add("--overlap", type=float, help="share of a tile covered again (default: the run's)")
    add("--devices", choices=("auto", "cpu", "gpu"), help="default: auto")


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(evaluate, parse_args(argv), interrupted="nothing was written.")


def evaluate(args):
    """Predicts, scores, writes and prints."""
    if args.objects:
        tool = runpy.run_path(str(Path(__file__).with_name("evaluate_instances.py")))
        return tool["evaluate"](tool["parse_args"](args.argv))
    job = method_job(args) if args.method else run_job(args)
    from segkit.inference.report import table
    from segkit.inference.summary import summarise

    results = score_cases(job)
    report = summarise(results, job.outputs, {**job.header, "data": job.manifest["name"]})
    report |= {"split": job.split, "policy": POLICY}
    if args.boundary:
        from segkit.inference.boundary import summarise_boundary

        cases = [result["boundary"] for result in results]
        report["boundary"] = summarise_boundary(args.boundary, cases)
    folder = job.folder / "evaluation" / job.split
    write(folder, report, results, job.manifest)
    print(table(report))
    print(f"\nPer-case scores, results.json and pictures: {folder}")


def run_job(args):
    """Returns the `Job` of a trained run."""
    refuse(args, "--method", set=[], out=None)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.inference.boundary import boundary_index
    from segkit.inference.predictor import predictor_of
    from segkit.training.devices import make_strategy
    from segkit.training.run import load_run

    if args.devices in ("cpu", "gpu"):  # else TensorFlow's own choice, the first GPU if any
        make_strategy(f"{args.devices}:1")
    run = load_run(args.run)
    data = Path(args.data or run.config.data.path)
    predictor = predictor_of(run, overlap=args.overlap, mirror=args.mirror)
    table = {"covariates": predictor.num_covariates, "targets": predictor.num_case_classes}
    used = [key for key, number in table.items() if number]
    manifest = matching_manifest(data, run, used)
    return Job(
        header={"run": run.folder.name},
        data=data,
        manifest=manifest,
        split=f"fold{run.config.data.fold}" if args.split == "val" else args.split,
        outputs=run.outputs,
        segment=with_network(predictor, manifest),
        folder=run.folder,
        boundary=boundary_index(args.boundary, run.outputs),
        case_class=classifier(predictor, manifest) if predictor.num_case_classes else None,
    )


def method_job(args):
    """Returns the `Job` of a method without training."""
    refuse(args, "--run", overlap=None, mirror=None, devices=None)
    options = parse_options(args.method, args.set)
    if args.data is None:
        raise ConfigError("--method needs --data, the prepared data set to score it on.")
    from data_prep.manifest import load_manifest
    from segkit.inference.boundary import boundary_index
    from segkit.outputs import read_outputs

    data = Path(args.data)
    manifest = load_manifest(data)
    if not manifest["classes"]:
        raise DataError(f"the data set {data} has no labels to compare with.")
    outputs = read_outputs(manifest["classes"], {})
    normalization = manifest["preprocess"]["normalization"]
    return Job(
        header={"method": args.method, "options": options},
        data=data,
        manifest=manifest,
        split="fold0" if args.split == "val" else args.split,
        outputs=outputs,
        segment=with_method(args.method, options, len(outputs.classes), normalization),
        folder=Path(args.out or Path("runs") / f"{args.method}-{data.resolve().name}"),
        boundary=boundary_index(args.boundary, outputs),
    )


def refuse(args, flag, **defaults):
    """Refuses arguments that mean something with the other of `--run` and `--method` only."""
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise ConfigError(f"--{name} goes with {flag}. Leave it out.")


def with_network(predictor, manifest):
    """Returns the `Job.segment` of a trained network."""
    from segkit.inference.predictor import encode_covariates
    from segkit.inference.predictor import onto_source
    from segkit.inference.predictor import probability_onto_source
    from segkit.regions import class_map

    def segment(image, case):
        known = encode_covariates(predictor, manifest, case.get("covariates", {}))
        logits = predictor.logits(image, covariates=known)
        return (
            onto_source(predictor, logits, case),
            lambda index: class_map(logits[index], predictor.class_order),
            lambda index: probability_onto_source(predictor, logits, case, index),
        )

    return segment


def classifier(predictor, manifest):
    """Returns the `Job.case_class` of a network that tells classes of the whole case apart."""
    from segkit.inference.predictor import encode_covariates

    def case_class(image, case):
        known = encode_covariates(predictor, manifest, case.get("covariates", {}))
        found = predictor.case_probabilities(image, known).numpy()
        told = {"predicted": manifest["targets"][int(found.argmax())], "target": case.get("target")}
        return {**told, "probabilities": [float(p) for p in found]}

    return case_class


def with_method(name, options, num_classes, normalization):
    """Returns the `Job.segment` of a method without training."""
    from data_prep.baseline import segment_prepared
    from data_prep.preprocess import undo

    def segment(image, case):
        labels = segment_prepared(image, case, normalization, num_classes, name, options)
        mask = undo(labels, case)
        return mask, lambda index: labels[index], lambda index: (mask == index).astype(np.float32)

    return segment


def matching_manifest(data, run, used=()):
    """Returns the data set's manifest after checking that the run was trained for such data.

    Args:
        data: `pathlib.Path` of the data set.
        run: The loaded run.
        used: What of the manifest the run takes besides images and labels.
    """
    from data_prep.manifest import load_manifest

    manifest = load_manifest(data)
    for key in ("channels", "classes", "preprocess", *used):
        if manifest.get(key) != run.manifest[key]:
            raise DataError(
                f"{data} was prepared otherwise than the run's data: {key!r} differs. Prepare it "
                "with the run's data set's options, or leave out --data."
            )
    return manifest


def score_cases(job):
    """Returns one dict per labelled case of a split: id, counts, voxel size and a slice.

    With a boundary also the scores of `segkit.inference.boundary`.
    """
    from tqdm import tqdm

    from segkit.inference.boundary import score_boundary
    from segkit.inference.overlay import pick_slice
    from segkit.inference.scores import count_voxels
    from segkit.inference.scores import voxel_ml

    cases, outputs, split = job.manifest["cases"], job.outputs, job.split
    ids = [case for case, entry in cases.items() if entry["split"] == split]
    if not ids:
        known = {entry["split"] for entry in cases.values()} | {"val"}
        raise ConfigError(
            f"no case of {job.data} is in the split {split!r}. {nearest(split, known)}"
        )
    results = []
    kept = {"num_classes": len(outputs.classes), "ignore_label": outputs.ignore_label}
    regions = list(outputs.regions.values())
    read = whole_cases(job.data, job.manifest, split)
    for case, image, label, truth in tqdm(
        read, total=len(ids), desc=split, unit="case", disable=None
    ):
        if truth is None:
            continue
        entry = cases[case]
        try:
            mask, classes_at, probability_of = job.segment(image, entry)
        except SegkitError as error:
            raise type(error)(f"case {case}: {error}") from None
        shown = np.where(label == outputs.ignore_label, 0, label)
        results.append(
            {
                "case": case,
                "counts": count_voxels(truth, mask, **kept),
                "region_counts": count_voxels(truth, mask, regions=regions, **kept),
                "voxel_ml": voxel_ml(np.array(entry["source_affine"]), truth.shape),
                "slice": pick_slice(image, shown, classes_at, entry["spacing_mm"]),
            }
        )
        if job.case_class is not None:
            results[-1]["case_class"] = job.case_class(image, entry)
        if job.boundary is not None:
            probability = probability_of(job.boundary)
            results[-1]["boundary"] = score_boundary(
                truth, mask, probability, job.boundary, ignore_label=outputs.ignore_label
            )
    if not results:
        raise DataError(
            f"no case of the split {split!r} of {job.data} has a label to compare with."
        )
    return results


def whole_cases(data, manifest, split):
    """Yields `(id, image, label, source_label)` of each case, put together from its chunks."""
    from data_prep.whole_cases import read_cases

    for case in read_cases(data, manifest, split):
        yield case.id, case.image, case.label, case.source_label


def write(folder, report, results, manifest):
    """Writes results.json, tables and pictures; a folder of an earlier evaluation goes."""
    from segkit.inference.boundary import write_boundary
    from segkit.inference.report import write_cases
    from segkit.inference.report import write_pictures
    from segkit.inference.report import write_regions

    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        text = json.dumps(report, indent=1, allow_nan=False)
        (partial / "results.json").write_text(text + "\n", encoding="utf-8")
        write_cases(partial / "cases.csv", report, results)
        if "regions" in report:
            write_regions(partial / "regions.csv", report, results)
        write_pictures(partial, report, results, manifest)
        if "boundary" in report:
            cases = {r["case"]: (r["boundary"], r["slice"]) for r in results}
            write_boundary(partial, report["boundary"]["class"], cases, manifest["classes"])
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
