"""Scores the objects that a trained run, or another program, finds in whole cases."""

import argparse
import contextlib
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.errors import exit_code
from segkit.errors import nearest
from segkit.errors import writing

EVALUATE = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("evaluate.py"))))
EXAMPLES = """examples:
  python tools/evaluate_instances.py --run runs/MY_MASK_RCNN
  python tools/evaluate_instances.py --run runs/MY_MASK_RCNN --split test --min-score 0.7 --save
  python tools/evaluate_instances.py --run runs/MY_UNET --watershed
  python tools/evaluate_instances.py --run runs/MY_UNET --watershed 2 --data data/nuclei
  python tools/evaluate_instances.py --maps STARDIST_MAPS --data data/nuclei --split fold0

STARDIST_MAPS holds a map of ids for each case, CASE.png, .tif, .npy or .nii.gz.
"""
MEND = "Free some space, or mend the permissions of the folder."


class Job(NamedTuple):
    """What is scored, on what, and where the report goes.

    `find` takes a `data_prep.whole_cases.WholeCase` and the manifest's entry of the case; it
    returns `Detections` or an `InstanceMap` on the source grid. `header` identifies what is scored
    in the report.
    """

    header: dict
    data: Path
    manifest: dict
    split: str
    find: Callable
    min_score: float | None
    folder: Path


class Scored(NamedTuple):
    """What is kept of a case: its scores, counts of voxels by class, and a slice to draw."""

    scores: object
    counts: np.ndarray
    slice: tuple


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, which = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--maps", metavar="FOLDER", help="maps of ids that another program made")
    EVALUATE.add_arguments(parser, which, "maps", "MAPS")
    add(
        "--min-score",
        type=float,
        metavar="SCORE",
        help="objects with a lower score are not there, for all scores but AP and FROC (default: "
        "0.5 of a network that finds objects, else none)",
    )
    add(
        "--watershed",
        type=float,
        nargs="?",
        const=1.0,
        metavar="DEPTH",
        help="of a run that labels pixels: make objects by a watershed; a larger depth cuts fewer "
        "of them apart (default: 1)",
    )
    add("--save", action="store_true", help="keep the maps of what was found")
    add(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="side of the tiles that larger images are cut into (default: the run's patch)",
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(evaluate, parse_args(argv), interrupted="nothing was written.")


def evaluate(args):
    """Finds objects, scores, writes and prints."""
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise ConfigError(f"--min-score must be from 0 to 1, got {args.min_score}.")
    job = maps_job(args) if args.maps else run_job(args)
    outputs = outputs_of(job)
    with new_folder(job.folder) as folder:
        report = score(job, outputs, folder, save=args.save)
    print_report(report)
    print(f"\nresults.json, scores of each case and pictures: {job.folder}")


def run_job(args):
    """Returns the `Job` of a trained run."""
    if args.out:
        raise ConfigError("--out goes with --maps: what is said of a run lies in its folder.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.training.devices import make_strategy
    from segkit.training.objects import finds_objects
    from segkit.training.run import load_run

    if args.devices in ("cpu", "gpu"):  # else TensorFlow's own choice, the first GPU if any
        make_strategy(f"{args.devices}:1")
    run = load_run(args.run)
    data = Path(args.data or run.config.data.path)
    manifest = EVALUATE.matching_manifest(data, run)
    split = f"fold{run.config.data.fold}" if args.split == "val" else args.split
    header = {"run": run.folder.name, "model": run.config.model.name}
    if finds_objects(args.run):
        find, min_score, more = by_detector(args, run)
    else:
        find, min_score, more = by_watershed(args, run)
    name = split if finds_objects(args.run) else f"{split}-objects"
    folder = run.folder / "evaluation" / name
    return Job({**header, **more}, data, manifest, split, find, min_score, folder)


def by_detector(args, run):
    """Returns `(find, min_score, header)` of a network that finds objects."""
    from data_prep.preprocess import undo
    from segkit.inference.detector import MIN_SCORE
    from segkit.inference.detector import detector_of

    if args.watershed is not None:
        raise ConfigError("--watershed is for runs that label pixels; this one finds objects.")
    detector = detector_of(run, overlap=args.overlap, tile=args.tile)
    min_score = MIN_SCORE if args.min_score is None else args.min_score

    def find(case, entry):
        back = partial(undo, case=entry)
        return detector.find(case.image, entry, back, min_score=min_score)

    return find, min_score, {"tile": list(detector.tile)}


def by_watershed(args, run):
    """Returns `(find, min_score, header)` of a network that labels pixels."""
    if args.watershed is None:
        raise ConfigError(
            f"{run.config.model.name} labels pixels. Add --watershed to make objects of them, or "
            "score the labels with tools/evaluate.py."
        )
    if run.outputs.regions:
        raise ConfigError("--watershed needs classes, and this run was trained on regions.")
    if args.tile is not None:
        raise ConfigError("--tile goes with runs that find objects. Leave it out.")
    import tensorflow as tf

    from data_prep.preprocess import undo
    from segkit.inference.detector import onto_source
    from segkit.inference.predictor import encode_covariates
    from segkit.inference.predictor import predictor_of
    from segkit.inference.watershed_instances import watershed_instances

    predictor = predictor_of(run, overlap=args.overlap)

    def find(case, entry):
        known = encode_covariates(predictor, run.manifest, entry.get("covariates", {}))
        found = tf.nn.softmax(predictor.logits(case.image, covariates=known)).numpy()
        flat, spacing = len(found) == 1, entry["spacing_mm"]
        objects = watershed_instances(
            found[0] if flat else found,
            depth=args.watershed,
            spacing=spacing[1:] if flat else spacing,
        )
        labels = objects.labels.reshape(found.shape[:3])
        return onto_source(objects._replace(labels=labels), partial(undo, case=entry))

    return find, args.min_score, {"watershed": args.watershed}


def maps_job(args):
    """Returns the `Job` of maps that another program made."""
    for name in ("watershed", "overlap", "tile", "devices"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} goes with --run. Leave it out.")
    if args.data is None:
        raise ConfigError("--maps needs --data, the prepared data set to score them on.")
    from data_prep.manifest import load_manifest
    from segkit.inference.instance_files import READ
    from segkit.inference.instance_files import read_map

    data, maps = Path(args.data), Path(args.maps)
    manifest = load_manifest(data)
    names = [entry["name"] for entry in manifest["classes"]]

    def find(case, entry):
        paths = [path for ending in READ if (path := maps / f"{case.id}{ending}").is_file()]
        if len(paths) != 1:
            raise DataError(
                f"{maps} must hold one map of the case, {case.id} with one of the endings "
                f"{', '.join(READ)}, got {len(paths)}. A map without objects is one of zeros."
            )
        return read_map(paths[0], entry, names)

    name = f"{maps.resolve().name}-{data.resolve().name}"
    split = "fold0" if args.split == "val" else args.split
    folder = Path(args.out or Path("runs") / name) / "evaluation" / split
    header = {"method": f"maps of {maps.resolve().name}"}
    return Job(header, data, manifest, split, find, args.min_score, folder)


def outputs_of(job):
    """Returns the classes that count, `segkit.outputs.Outputs`; checks that there are objects."""
    from segkit.outputs import read_outputs

    if "instances" not in job.manifest:
        raise DataError(
            f"the data set {job.data} has no objects to compare with. Prepare it from a source "
            "that has them, or with --instances; see docs/instances.md."
        )
    cases = job.manifest["cases"].values()
    if job.split not in (known := {entry["split"] for entry in cases}):
        raise ConfigError(
            f"no case of {job.data} is in the split {job.split!r}. "
            f"{nearest(job.split, known | {'val'})}"
        )
    return read_outputs(job.manifest["classes"], {})


def score(job, outputs, folder, *, save):
    """Scores all cases of a split, writes everything to a folder and returns the report."""
    from tqdm import tqdm

    from data_prep.whole_cases import read_cases
    from segkit.inference.instance_report import write_instance_pictures
    from segkit.inference.instance_report import write_instances
    from segkit.inference.instance_report import write_results
    from segkit.inference.instance_summary import summarise_instances
    from segkit.inference.summary import summarise

    entries = job.manifest["cases"]
    total = sum(entry["split"] == job.split for entry in entries.values())
    scored = {}
    cases = read_cases(job.data, job.manifest, job.split)
    for case in tqdm(cases, total=total, desc=job.split, unit="case", disable=None):
        if case.source_instance is not None:
            keep = folder / "maps" if save else None
            scored[case.id] = score_one(job, outputs, case, entries[case.id], keep)
    if not scored:
        raise DataError(f"no case of the split {job.split!r} of {job.data} has objects to find.")
    header = {**job.header, "data": job.manifest["name"], "split": job.split}
    names = [entry["name"] for entry in outputs.classes]
    report = summarise_instances(
        [one.scores for one in scored.values()], names, {**header, "min_score": job.min_score}
    )
    counted = [{"case": case, "counts": one.counts} for case, one in scored.items()]
    report["semantic"] = summarise(counted, outputs, header)
    with writing(job.folder, MEND):
        write_results(folder, report)
        write_instances(folder, report)
        write_instance_pictures(folder, report, lambda case: scored[case].slice)
    return report


def score_one(job, outputs, case, entry, keep):
    """Returns what is `Scored` of a case; writes its map to the folder `keep` if there is one."""
    from segkit.inference.detections import true_objects
    from segkit.inference.instance_scores import decide
    from segkit.inference.instance_scores import score_case
    from segkit.inference.scores import count_voxels

    try:
        found = job.find(case, entry)
    except SegkitError as error:
        raise type(error)(f"case {case.id}: {error}") from None
    flat = len(case.source_label) == 1
    label, ids = (m[0] if flat else m for m in (case.source_label, case.source_instance))
    truth = true_objects(ids, label, outputs.ignore_label)
    number = len(outputs.classes)
    scores = score_case(
        case.id, truth, found, number, group=entry.get("kind"), min_score=job.min_score
    )
    found = decide(found, job.min_score)
    painted = np.append(0, found.classes)[found.labels]
    counts = count_voxels(label, painted, number, ignore_label=outputs.ignore_label)
    if keep is not None:
        write_found(keep, case.id, found, outputs.classes, np.array(entry["source_affine"]))
    return Scored(scores, counts, slice_to_draw(case, entry, truth, found))


def write_found(folder, case, found, classes, affine):
    """Writes the map of a case and the JSON file beside it, as `--maps` reads them."""
    from segkit.inference.instance_files import beside
    from segkit.inference.instance_files import describe_objects
    from segkit.inference.instance_files import write_map

    path = folder / f"{case}{'.png' if found.labels.ndim == 2 else '.nii.gz'}"
    objects = describe_objects(found, [entry["name"] for entry in classes], affine)
    with writing(path, MEND):
        folder.mkdir(exist_ok=True)
        write_map(path, found, affine)
        text = json.dumps({"objects": objects}, indent=1)
        beside(path).write_text(text + "\n", encoding="utf-8")


def slice_to_draw(case, entry, truth, found):
    """Returns `(image, truth, found)` of a picture, or of the slice with most of the truth."""
    from data_prep.preprocess import undo

    image = undo(case.image, entry, linear=True)
    shown = image if image.shape[-1] == 3 else image[..., 0]
    if truth.labels.ndim == 2:
        return shown[0], truth, found
    index = int((truth.labels > 0).sum(axis=(1, 2)).argmax())
    planes = (one._replace(labels=one.labels[index].copy()) for one in (truth, found))
    return shown[index].copy(), *planes


def print_report(report):
    """Prints the scores of objects, and those of the classes that they paint."""
    from segkit.inference.instance_report import instance_table
    from segkit.inference.report import table

    lowest = report["min_score"]
    decided = "all objects" if lowest is None else f"objects of score {lowest:g} or more"
    print(f"AP and FROC of all that was found; the other scores of {decided}:\n")
    print(instance_table(report))
    print("\nThe map of classes that the objects paint:")
    print(table(report["semantic"]))


@contextlib.contextmanager
def new_folder(folder):
    """Gives a folder to write to, which takes the place of an earlier one when all went well."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with writing(folder, MEND):
            unfinished.mkdir(parents=True)
        yield unfinished
        with writing(folder, MEND):
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
