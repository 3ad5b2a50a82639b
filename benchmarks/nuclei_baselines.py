r"""Nuclei by StarDist, by U-Net and watershed, and by Mask R-CNN, at equal CPU time, in one table.

    python benchmarks/nuclei_baselines.py --data data/nuclei --cpu-minutes 120 \
        --stardist VENV/bin/python --mask-rcnn runs/MY_MASK_RCNN

StarDist is no dependency of segkit. It wants an environment of its own:

    python -m venv VENV
    VENV/bin/pip install stardist==0.9.2 "tensorflow-cpu==2.20.*"

It is trained as its own example does (benchmarks/peers/stardist_nuclei.py), on the images and ids
of the records of all other folds, and scored on those of --fold by tools/evaluate_instances.py, as
the others are. The U-Net is configs/unet_nuclei.yaml, trained for as long, with --watershed.
Without --stardist or --mask-rcnn these are left out.

Every method has a folder in --out. Repeat the command to go on; what is finished is not done again.
Without --data nothing is measured.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cpu_budget import train_for
from benchmarks.runs import ROOT
from benchmarks.runs import call
from benchmarks.runs import tool
from data_prep.manifest import load_manifest
from data_prep.whole_cases import read_cases

COLUMNS = {"mask_ap50": "mask AP50", "dsb2018_50": "TP/(TP+FP+FN) at 0.5", "mask_ap": "mask AP"}
COLUMNS |= {"dsb2018": "DSB 2018", "pq": "PQ", "aji": "AJI", "count_error": "count error"}


def main(argv=None):
    args = parse_args(argv)
    if args.data is None:
        print("benchmarks/nuclei_baselines.py needs --data, a prepared data set with objects; "
              "nothing measured.")  # fmt: skip
        return
    rows = {}
    if args.mask_rcnn:
        rows["Mask R-CNN"] = with_mask_rcnn(args)
    rows["U-Net, watershed"] = with_unet(args)
    write(args, rows)
    if args.stardist:
        rows["StarDist"] = with_stardist(args)
        write(args, rows)
    print("\n" + (args.out / "results.md").read_text())


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="prepared with objects of one class")
    add("--out", metavar="FOLDER", type=Path, default=Path("runs/nuclei-baselines"))
    add("--cpu-minutes", type=float, default=120.0, help="of each training (default: 120)")
    add("--fold", type=int, default=0)
    add("--stardist", metavar="PYTHON", help="of the environment that has StarDist")
    add("--mask-rcnn", metavar="RUN", type=Path, help="evaluated run, to stand in the table")
    add("--depth", type=float, default=1.0, help="of the watershed, as for evaluate_instances")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="config key of the U-Net")
    return parser.parse_args(argv)


def with_mask_rcnn(args):
    """Returns the row of a run that was trained and evaluated before."""
    report = args.mask_rcnn / "evaluation" / f"fold{args.fold}" / "results.json"
    if not report.exists():
        raise SystemExit(f"{report} is missing. Run tools/evaluate.py on the run first.")
    return {"groups": json.loads(report.read_text())["groups"]}


def with_unet(args):
    """Returns the row of the U-Net: what its training took, and its scores."""
    folder = args.out / "unet"
    arguments = ("--config", ROOT / "configs" / "unet_nuclei.yaml", "--data", args.data)
    settings = [*args.set, f"data.fold={args.fold}"]
    spent = train_for(args.cpu_minutes, folder, arguments, settings)
    report = folder / "run" / "evaluation" / f"fold{args.fold}-objects" / "results.json"
    depth = json.loads(report.read_text())["watershed"] if report.exists() else None
    if depth != args.depth:
        tool("evaluate_instances.py", "--run", folder / "run", "--split", f"fold{args.fold}",
             "--watershed", args.depth)  # fmt: skip
    return row(report, spent.seconds, spent.steps)


def with_stardist(args):
    """Returns the row of StarDist, which reads and writes plain arrays."""
    folder, split = args.out / "stardist", f"fold{args.fold}"
    if not (folder / "spent.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_arrays(args, folder)
        worker = Path(__file__).with_name("peers") / "stardist_nuclei.py"
        call(args.stardist, worker, folder, args.cpu_minutes)
    report = folder / "evaluation" / split / "results.json"
    if not report.exists():
        tool("evaluate_instances.py", "--maps", folder / "maps", "--data", args.data,
             "--split", split, "--out", folder)  # fmt: skip
    spent = json.loads((folder / "spent.json").read_text())
    return row(report, spent["seconds"], spent["steps"])


def write_arrays(args, folder):
    """Writes the images of all folds, with ids but for those that are to be predicted."""
    manifest = load_manifest(args.data)
    for split in sorted({entry["split"] for entry in manifest["cases"].values()} - {"test"}):
        predicted = split == f"fold{args.fold}"
        place = folder / ("val" if predicted else "train")
        place.mkdir(parents=True, exist_ok=True)
        for case in read_cases(args.data, manifest, split):
            if case.source_instance.shape != case.image.shape[:3] or len(case.image) > 1:
                raise SystemExit(f"{case.id} did not keep its grid, or is no picture.")
            arrays = {} if predicted else {"ids": case.source_instance[0]}
            np.savez(place / f"{case.id}.npz", image=case.image[0], **arrays)


def row(report, seconds, steps):
    groups = json.loads(report.read_text())["groups"]
    return {"groups": groups, "cpu_minutes": seconds / 60, "steps": steps}


def write(args, rows):
    """Writes a table for all images, and one for each kind of them."""
    lines = [
        f"Images of fold {args.fold}, {args.cpu_minutes:g} minutes of CPU time each, seed 0. "
        "Brackets: 95 % bootstrap over images.",
    ]
    for group, entry in next(iter(rows.values()))["groups"].items():
        lines += ["", f"{group}, {entry['cases']} images", ""]
        lines += [f"| method | CPU time | steps | {' | '.join(COLUMNS.values())} |"]
        lines += ["|---" * (len(COLUMNS) + 3) + "|"]
        for name, found in rows.items():
            minutes, steps = found.get("cpu_minutes"), found.get("steps", "")
            scores = found["groups"][group]["mean"]
            cells = [name, "" if minutes is None else f"{minutes:.1f} min", str(steps)]
            cells += [shown(scores, key) for key in COLUMNS]
            lines.append(f"| {' | '.join(cells)} |")
    (args.out / "results.md").write_text("\n".join(lines) + "\n")


def shown(scores, key):
    """Returns a score as text, with its interval if there are several images."""
    if key not in scores:
        raise SystemExit(f"a report has no {key}. Evaluate the run again.")
    if scores[key] is None:
        return ""
    low, high = scores[f"{key}_interval"]
    if low is None:
        return f"{scores[key]:.3f}"
    return f"{scores[key]:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    main()
