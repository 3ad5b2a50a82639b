"""The models side by side: whole-case Dice after trainings of the same CPU time.

    python benchmarks/equal_budget.py --data data/hippocampus                  # 20 CPU minutes each
    python benchmarks/equal_budget.py --data data/hippocampus --models unet vnet --cpu-minutes 5

Every model is trained as its configs/NAME.yaml says, but for the number of steps: two short
trainings measure what a step costs, and what fits in the budget is done in 20 epochs. The budget
is CPU time of all cores, start-up and validation included, because the time on the clock depends on
what else a machine does. Scores are of whole cases of the validation fold, from tools/evaluate.py.

Every run is a folder in --out. Repeat the command to go on; what is finished is not done again.
Without --data nothing is measured.
"""

import argparse
import json
import resource
import shutil
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.runs import call

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
EPOCHS = 20
PILOTS = (5, 20)  # steps
VALIDATION_BATCHES = 16


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
    add("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="NAME")
    add("--cpu-minutes", type=float, default=20.0, help="of each training (default: 20)")
    add("--fold", type=int, default=0)
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="config key of all runs")
    return parser.parse_args(argv)


def measure(args, name):
    """Returns the row of one model: a dict, kept in its folder."""
    kept = args.out / name / "row.json"
    if kept.exists():
        return json.loads(kept.read_text())
    step, rest = cost(args, name)
    left = 60 * args.cpu_minutes - rest
    per_epoch = max(1, round(left / (EPOCHS * step)))
    run = args.out / name / "run"
    seconds = train(args, name, run, EPOCHS, per_epoch)
    call("evaluate.py", "--run", run, "--split", f"fold{args.fold}")
    report = json.loads((run / "evaluation" / f"fold{args.fold}" / "results.json").read_text())
    row = {
        "model": name,
        "patch": yaml.safe_load((run / "config.yaml").read_text())["data"]["patch_size"],
        "parameters": parameters(run),
        "steps": EPOCHS * per_epoch,
        "step_cpu_seconds": step,
        "cpu_minutes": seconds / 60,
        "dice": report["mean_foreground_dice"],
        "interval": report["mean_foreground_dice_interval"],
    }
    kept.write_text(json.dumps(row, indent=1) + "\n")
    return row


def cost(args, name):
    """Returns CPU seconds of a step, and of all else: start-up and the validation of all epochs."""
    short, long = (
        train(args, name, args.out / name / f"pilot{steps}", 1, steps) for steps in PILOTS
    )
    step = max((long - short) / (PILOTS[1] - PILOTS[0]), 1e-3)
    validation = VALIDATION_BATCHES * step / 3  # forward is about a third of a step
    return step, short - PILOTS[0] * step + (EPOCHS - 1) * validation


def train(args, name, folder, epochs, steps):
    """Trains and returns the CPU seconds that it took; a training that was cut off begins anew."""
    spent, settings = folder.parent / f"{folder.name}.seconds", [*MODELS[name], *args.set]
    if spent.exists():
        return float(spent.read_text())
    settings += [
        f"train.epochs={epochs}",
        f"train.steps_per_epoch={steps}",
        f"train.validation_batches={VALIDATION_BATCHES}",
        f"data.fold={args.fold}",
    ]
    shutil.rmtree(folder, ignore_errors=True)
    options = [part for text in settings for part in ("--set", text)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call("train.py", "--model", name, "--data", args.data, "--run", folder, "--no-evaluate",
         *options)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if len((folder / "history.csv").read_text().splitlines()) <= epochs:  # it was asked to stop
        raise SystemExit(f"{folder} was stopped. Repeat the command to begin it anew.")
    spent.write_text(f"{seconds:.1f}")
    return seconds


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
