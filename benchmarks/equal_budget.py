"""The models side by side: whole-case Dice after trainings of the same CPU time.

    python benchmarks/equal_budget.py --data data/hippocampus                  # 20 CPU minutes each
    python benchmarks/equal_budget.py --data data/hippocampus --models unet vnet --cpu-minutes 5
    python benchmarks/equal_budget.py --data data/hippocampus-slices --models mask_rcnn_hippocampus

Every model is trained as its configs/NAME.yaml says, but for the number of steps, which follows
from the budget (benchmarks/cpu_budget.py). Scores are of whole cases of the validation fold, from
tools/evaluate.py; those of a network that finds objects are of the classes that these paint.

Every run is a folder in --out. Repeat the command to go on; what is finished is not done again.
Without --data nothing is measured.
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cpu_budget import train_for
from benchmarks.runs import tool

MODELS = {  # config -> keys that suit volumes of about 35 x 50 x 35 voxels
    "unet3d": [],
    "plain_unet": [],
    "resenc_unet": [],
    "attention_unet": [],
    "unet_plus_plus": [],
    "vnet": [],
    "mednext": [],
    "unet": [],
    "deeplabv3plus": [],
    "fcn8s": ["data.patch_size=[64,64]"],
}
DETECTORS = ("mask_rcnn_hippocampus",)  # on a data set prepared with --instances


def main(argv=None):
    args = parse_args(argv)
    if args.data is None:
        print("benchmarks/equal_budget.py needs --data, a prepared data set; nothing measured.")
        return
    rows = []
    for name in args.models:
        rows.append(measure(args, name))
        write(args, rows)
    print("\n" + (args.out / "results.md").read_text())


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="prepared with labels")
    add("--out", metavar="FOLDER", type=Path, default=Path("runs/equal-budget"))
    add("--models", nargs="+", default=list(MODELS), choices=[*MODELS, *DETECTORS], metavar="NAME")
    add("--cpu-minutes", type=float, default=20.0, help="of each training (default: 20)")
    add("--fold", type=int, default=0)
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="config key of all runs")
    return parser.parse_args(argv)


def measure(args, name):
    """Returns the row of one model: a dict, kept in its folder."""
    kept = args.out / name / "row.json"
    if kept.exists():
        return json.loads(kept.read_text())
    settings = [*MODELS.get(name, ()), *args.set, f"data.fold={args.fold}"]
    folder, arguments = args.out / name, ("--model", name, "--data", args.data)
    spent = train_for(args.cpu_minutes, folder, arguments, settings)
    run = folder / "run"
    tool("evaluate.py", "--run", run, "--split", f"fold{args.fold}")
    report = json.loads((run / "evaluation" / f"fold{args.fold}" / "results.json").read_text())
    report = report.get("semantic", report)  # of what finds objects, the classes that they paint
    row = {
        "model": name,
        "patch": yaml.safe_load((run / "config.yaml").read_text())["data"]["patch_size"],
        "parameters": parameters(run),
        "steps": spent.steps,
        "step_cpu_seconds": spent.step_seconds,
        "cpu_minutes": spent.seconds / 60,
        "dice": report["mean_foreground_dice"],
        "interval": report["mean_foreground_dice_interval"],
    }
    kept.write_text(json.dumps(row, indent=1) + "\n")
    return row


def parameters(run):
    from segkit.training.run import load_run

    return load_run(run).model.count_params()


def write(args, rows):
    lines = [
        f"Whole cases of fold {args.fold}, {args.cpu_minutes:g} minutes of CPU time each, seed 0. "
        "Brackets: 95 % bootstrap over cases.",
        "",
        "| model | patch | parameters | steps | CPU time | mean foreground Dice |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["dice"]):
        low, high = row["interval"]
        lines.append(
            f"| `{row['model']}` | {' x '.join(map(str, row['patch']))} | {row['parameters']:,} | "
            f"{row['steps']} | {row['cpu_minutes']:.1f} min | "
            f"{row['dice']:.3f} ({low:.3f}-{high:.3f}) |"
        )
    (args.out / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
