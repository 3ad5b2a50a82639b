"""Scores a trained run on whole cases, on the grid of their source images."""

import argparse
import csv
import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import nearest

EXAMPLES = """examples:
  python tools/evaluate.py --run runs/MY_RUN
  python tools/evaluate.py --run runs/MY_RUN --split test --mirror
  python tools/evaluate.py --run runs/MY_RUN --data data/other --split fold2
"""
POLICY = (
    "A class absent from truth and prediction has no score: it is left out of the means and "
    "counted under 'absent'. Accuracy is the share of a class's true voxels that were found. "
    "Intervals: 95 % percentile bootstrap over cases, 2000 resamples, seed 0."
)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, metavar="FOLDER", help="run folder of tools/train.py")
    add("--data", metavar="FOLDER", help="prepared data set (default: the run's own)")
    add("--split", default="val", help="val (the run's validation fold), test, fold0, fold1, ...")
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
    return exit_code(evaluate, parse_args(argv), interrupted="nothing was written.")


def evaluate(args):
    """Predicts, scores, writes and prints."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.inference.predictor import predictor_of
    from segkit.training.devices import make_strategy
    from segkit.training.run import load_run

    if args.devices != "auto":  # "auto": TensorFlow's own choice, the first GPU if there is one
        make_strategy(f"{args.devices}:1")
    run = load_run(args.run)
    data = Path(args.data or run.config.data.path)
    split = f"fold{run.config.data.fold}" if args.split == "val" else args.split
    manifest = matching_manifest(data, run)
    predictor = predictor_of(run, overlap=args.overlap, mirror=args.mirror)
    results = score_cases(predictor, data, manifest, split, run.outputs)
    header = {"run": run.folder.name, "data": manifest["name"]}
    report = summarise(results, run.outputs, header)
    report |= {"split": split, "policy": POLICY}
    folder = run.folder / "evaluation" / split
    write(folder, report, results, manifest)
    print(table(report))
    print(f"\nPer-case scores, results.json and pictures: {folder}")


def matching_manifest(data, run):
    """Returns the data set's manifest after checking that the run was trained for such data."""
    from data_prep.manifest import load_manifest

    manifest = load_manifest(data)
    table = {"covariates": "covariates", "case_classes": "targets"}
    used = [key for option, key in table.items() if run.config.model.options.get(option)]
    for key in ("channels", "classes", "preprocess", *used):
        if manifest.get(key) != run.manifest[key]:
            raise DataError(
                f"{data} was prepared otherwise than the run's data: {key!r} differs. Prepare it "
                "with the run's data set's options, or leave out --data."
            )
    return manifest


def score_cases(predictor, data, manifest, split, outputs):
    """Returns one dict per labelled case of a split: id, counts, voxel size and a slice."""
    import tensorflow as tf
    from tqdm import tqdm

    from segkit.inference.overlay import pick_slice
    from segkit.inference.predictor import encode_covariates
    from segkit.inference.scores import count_voxels
    from segkit.inference.scores import voxel_ml
    from segkit.volume import Volume
    from segkit.volume import orientation_of
    from segkit.volume import reoriented_affine

    ids = [case for case, entry in manifest["cases"].items() if entry["split"] == split]
    if not ids:
        known = {entry["split"] for entry in manifest["cases"].values()} | {"val"}
        raise ConfigError(f"no case of {data} is in the split {split!r}. {nearest(split, known)}")
    orientation, results = manifest["preprocess"]["orientation"], []
    kept = {"num_classes": len(outputs.classes), "ignore_label": outputs.ignore_label}
    regions = list(outputs.regions.values())
    for case, image, label, truth in tqdm(
        whole_cases(data, manifest, split), total=len(ids), desc=split, unit="case", disable=None
    ):
        if truth is None:
            continue
        entry = manifest["cases"][case]
        known = encode_covariates(predictor, manifest, entry.get("covariates", {}))
        logits = predictor.logits(image, covariates=known)
        mask = predictor.restore(
            logits, tf.constant(entry["crop"]), tf.constant(entry["oriented_shape"])
        )
        affine = np.array(entry["source_affine"])
        oriented = reoriented_affine(affine, entry["source_shape"], orientation)
        mask = Volume(mask.numpy(), oriented).oriented(orientation_of(affine)).array
        results.append(
            {
                "case": case,
                **case_class(predictor, manifest, image, known, entry),
                "counts": count_voxels(truth, mask, **kept),
                "region_counts": count_voxels(truth, mask, regions=regions, **kept),
                "voxel_ml": voxel_ml(affine, truth.shape),
                "slice": pick_slice(
                    image,
                    np.where(label == outputs.ignore_label, 0, label),
                    logits.numpy(),
                    entry["spacing_mm"],
                    outputs.class_order,
                ),
            }
        )
    if not results:
        raise DataError(f"no case of the split {split!r} of {data} has a label to compare with.")
    return results


def case_class(predictor, manifest, image, covariates, entry):
    """Returns what a predictor says of the whole case, if it says something."""
    if not predictor.num_case_classes:
        return {}
    found = predictor.case_probabilities(image, covariates).numpy()
    names = manifest["targets"]
    told = {"predicted": names[int(found.argmax())], "target": entry.get("target")}
    return {"case_class": {**told, "probabilities": [float(p) for p in found]}}


def whole_cases(data, manifest, split):
    """Yields `(id, image, label, source_label)` of each case, put together from its chunks."""
    from data_prep.manifest import shard_files
    from data_prep.records import decode_numpy
    from data_prep.records import read_records

    for path in shard_files(manifest, data, [split]):
        chunks = map(decode_numpy, read_records(path))
        for case, parts in itertools.groupby(chunks, key=lambda chunk: chunk.case_id):
            parts = list(parts)
            image = np.zeros((*parts[0].case_shape, parts[0].image.shape[-1]), np.float32)
            label = np.zeros(parts[0].case_shape, np.uint16)
            for part in parts:
                box = tuple(
                    slice(o, o + n) for o, n in zip(part.origin, part.image.shape, strict=False)
                )
                image[box] = part.image
                if part.label is not None:
                    label[box] = part.label
            yield case, image, label, parts[0].source_label


def summarise(results, outputs, header):
    """Returns the report: means and intervals per class and region, and scores of each case."""
    classes = [dict(entry) for entry in outputs.classes]
    report = {**header, "cases": len(results), "classes": classes}
    counts = np.stack([result["counts"] for result in results])
    report |= add_scores(counts, classes, "mean_foreground_")
    per_case = scores_per_case(counts)
    if outputs.regions:
        report["regions"] = [
            {"name": name, "classes": list(region)} for name, region in outputs.regions.items()
        ]
        counts = np.stack([result["region_counts"] for result in results])
        report |= add_scores(counts, [{}, *report["regions"]], "mean_region_")
        for scores, regions in zip(per_case, scores_per_case(counts[:, 1:]), strict=True):
            scores["regions"] = regions
    report["per_case"] = {r["case"]: scores for r, scores in zip(results, per_case, strict=True)}
    if "case_class" in results[0]:
        for result in results:
            report["per_case"][result["case"]]["case_class"] = result["case_class"]
        known = [r["case_class"] for r in results if r["case_class"]["target"] is not None]
        hits = sum(found["predicted"] == found["target"] for found in known)
        report["case_accuracy"] = hits / len(known) if known else None
    return report


def add_scores(counts, entries, prefix):
    """Adds means over cases to `entries`, background first; returns those of the foreground."""
    from segkit.inference.scores import SCORES
    from segkit.inference.scores import mean_scores

    overall = {}
    for name, function in SCORES.items():
        scores = function(counts)
        means, intervals = mean_scores(scores)
        for index, entry in enumerate([*entries, overall]):
            key = f"{prefix}{name}" if entry is overall else name
            entry[key] = number(means[index])
            entry[f"{key}_interval"] = [number(n) for n in intervals[index]]
        if name == "dice":
            for entry, column in zip(entries, scores.T, strict=True):
                entry["absent"] = int(np.isnan(column).sum())
    return overall


def scores_per_case(counts):
    """Returns for each case its scores by name, a number per class or region."""
    from segkit.inference.scores import SCORES

    return [
        {name: [number(v) for v in function(case)] for name, function in SCORES.items()}
        for case in counts
    ]


def write(folder, report, results, manifest):
    """Writes results.json, tables and pictures; a folder of an earlier evaluation goes."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        text = json.dumps(report, indent=1, allow_nan=False)
        (partial / "results.json").write_text(text + "\n", encoding="utf-8")
        write_cases(partial / "cases.csv", report, results)
        if "regions" in report:
            write_regions(partial / "regions.csv", report, results)
        write_pictures(partial, report, results, manifest)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_cases(path, report, results):
    """Writes one row per case and class."""
    names = [entry["name"] for entry in report["classes"]]
    rows = [(r, r["counts"], report["per_case"][r["case"]]) for r in results]
    write_table(path, "class", names, rows)


def write_regions(path, report, results):
    """Writes one row per case and region."""
    names = [entry["name"] for entry in report["regions"]]
    rows = [(r, r["region_counts"][1:], report["per_case"][r["case"]]["regions"]) for r in results]
    write_table(path, "region", names, rows)


def write_table(path, what, names, cases):
    """Writes one row per case and name; `cases` are triples of result, counts and scores."""
    columns = ("case", what, "dice", "iou", "accuracy", "true_voxels", "predicted_voxels")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "true_ml", "predicted_ml"])
        for result, counts, scores in cases:
            ml = result["voxel_ml"]
            for index, name in enumerate(names):
                hits, extra, missed = counts[index]
                voxels = [int(hits + missed), int(hits + extra)]
                values = [scores[score][index] for score in columns[2:5]]
                volumes = [None, None] if ml is None else [round(v * ml, 6) for v in voxels]
                writer.writerow([result["case"], name, *values, *voxels, *volumes])


def write_pictures(folder, report, results, manifest):
    """Draws the cases with the worst, median and best mean foreground Dice."""
    from segkit.inference.overlay import save_overlay

    ranked = []
    for result in results:
        dice = [d for d in report["per_case"][result["case"]]["dice"][1:] if d is not None]
        if dice:
            ranked.append((sum(dice) / len(dice), result))
    ranked.sort(key=lambda pair: pair[0])
    names = [entry["name"] for entry in manifest["classes"]]
    flat = all(entry["source_shape"][0] == 1 for entry in manifest["cases"].values())
    for rank, index in {"worst": 0, "median": len(ranked) // 2, "best": -1}.items():
        if ranked:
            dice, result = ranked[index]
            title = f"{rank}: {result['case']}, mean foreground Dice {dice:.3f}"
            path = folder / f"{rank}.png"
            save_overlay(path, result["slice"], names, title, upright=flat)


def table(report):
    """Returns the summary as text."""
    regions = report.get("regions", [])
    names = [entry["name"] for entry in report["classes"] + regions]
    width = max(map(len, [*names, "mean foreground"]))
    lines = [
        f"{report['run']} on {report['split']} of {report['data']}: {report['cases']} cases",
        "",
        f"{'':{width}}  Dice   95 % interval    IoU    accuracy  cases  absent",
    ]
    lines += [line(entry, width, report["cases"]) for entry in report["classes"]]
    lines.append(f"{'mean foreground':{width}}  {row(report, 'mean_foreground_')}")
    if regions:
        lines += ["", *(line(entry, width, report["cases"]) for entry in regions)]
        lines.append(f"{'mean regions':{width}}  {row(report, 'mean_region_')}")
    if "case_accuracy" in report:
        lines += ["", f"class of the whole case: accuracy {shown(report['case_accuracy'])}"]
    return "\n".join(lines)


def line(entry, width, cases):
    """Returns the line of the table for a class or a region."""
    absent = entry["absent"]
    return f"{entry['name']:{width}}  {row(entry, '')}  {cases - absent:>5}  {absent:>6}"


def row(entry, prefix):
    """Returns the numbers of one line of the table."""
    low, high = (shown(n) for n in entry[f"{prefix}dice_interval"])
    dice, iou, accuracy = (shown(entry[prefix + name]) for name in ("dice", "iou", "accuracy"))
    return f"{dice}  {low} - {high}  {iou}  {accuracy:>8}"


def shown(value):
    """Returns a score in five characters."""
    return "  -  " if value is None else f"{value:.3f}"


def number(value):
    """Returns a float that JSON can hold: `None` for NaN."""
    return None if np.isnan(value) else float(value)


if __name__ == "__main__":
    sys.exit(main())
