"""Does pre-training pay? Whole-case Dice after fine-tuning on few labels, with it and without.

    python benchmarks/dpn.py --data data/hippocampus                    # about 2 hours of 2 cores
    python benchmarks/dpn.py --data data/hippocampus --seeds 1 --labels 8 --tune-epochs 2 8

For each seed DPN is pre-trained on all cases of the training folds, without their labels. Then two
networks are trained on 4, 8, 16, 32 of these cases with the same steps, few (100) and more (400):
one from the pre-trained weights, one from random ones. Both are scored on the whole cases of the
validation fold, which neither has seen; each takes the epoch with the best Dice on patches of it.
Which cases have labels depends on the seed, by hash; more labels hold those of fewer.

Every run is a folder in --out, in a process of its own. Repeat the command to go on after an
interruption; what is finished is not done again. Without --data nothing is measured.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.runs import ROOT
from benchmarks.runs import case_scores
from benchmarks.runs import leave_out
from benchmarks.runs import overrides
from benchmarks.runs import paired_gain
from benchmarks.runs import score
from benchmarks.runs import train
from benchmarks.runs import write_config
from data_prep.manifest import load_manifest

ARMS = ("scratch", "pretrained")


def main(argv=None):
    args = parse_args(argv)
    if args.data is None:
        print("benchmarks/dpn.py needs --data, a prepared data set with labels; nothing measured.")
        return
    manifest, scores = load_manifest(args.data), {}
    validation = f"fold{args.fold}"
    for seed in range(args.seeds):
        source = pretrain(args, seed)
        for count in args.labels:
            repeats = leave_out(manifest, validation, count, seed)
            for epochs, arm in itertools.product(args.tune_epochs, ARMS):
                report = tune(args, arm, count, epochs, seed, repeats, source)
                scores.setdefault((count, epochs, arm), []).append(case_scores(report))
    rows = [
        compare(count, epochs, *(np.array(scores[count, epochs, arm]) for arm in ARMS))
        for epochs, count in itertools.product(args.tune_epochs, args.labels)
    ]
    write(args, rows)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="prepared with labels")
    add("--out", metavar="FOLDER", type=Path, default=Path("runs/dpn-benchmark"))
    add("--config", metavar="FILE", type=Path, default=ROOT / "configs" / "dpn.yaml")
    add("--pretext", default="masked")
    add("--labels", type=int, nargs="+", default=[4, 8, 16, 32], help="labelled cases")
    add("--seeds", type=int, default=3)
    add("--fold", type=int, default=0)
    add("--pretrain-epochs", type=int, default=40, help="of 50 steps (default: 40)")
    add("--tune-epochs", type=int, nargs="+", default=[2, 8], help="of 50 steps (default: 2 8)")
    every = {"metavar": "KEY=VALUE", "action": "append", "default": []}
    add("--set", **every, help="config key of all runs")
    add("--pretrain-set", **every, help="config key of the pre-training")
    add("--tune-set", **every, help="config key of both trainings on labels")
    add("--transfer-set", **every, help="config key of the training from pre-trained weights")
    return parser.parse_args(argv)


def pretrain(args, seed):
    """Returns the folder of a finished pre-training."""
    folder = args.out / f"pre-seed{seed}"
    settings = {"train.epochs": args.pretrain_epochs, "train.seed": seed, "data.fold": args.fold}
    arguments = ["--config", write_config(folder, args.config, settings), "--data", args.data]
    arguments += ["--pretext", args.pretext, *overrides(*args.set, *args.pretrain_set)]
    train("pretrain.py", folder, *arguments)
    return folder


def tune(args, arm, count, epochs, seed, repeats, source):
    """Returns the report of tools/evaluate.py on a training with labels."""
    folder = args.out / f"{arm}-{count:03d}-epochs{epochs}-seed{seed}"
    settings = {"train.epochs": epochs, "train.seed": seed, "data.fold": args.fold}
    settings |= {"data.repeats": repeats}
    arguments = ["--config", write_config(folder, args.config, settings), "--data", args.data]
    arguments += ["--no-evaluate", *overrides(*args.set, *args.tune_set)]
    if arm == "pretrained":
        arguments += overrides(f"train.initial_weights={source}", *args.transfer_set)
    train("train.py", folder, *arguments)
    return score(folder, args.fold)


def compare(count, epochs, scratch, pretrained):
    """Compares two arrays of scores, `(seeds, cases)`, paired in both."""
    return {
        "labels": count,
        "steps": 50 * epochs,
        "scratch": np.nanmean(scratch),
        "pretrained": np.nanmean(pretrained),
        **paired_gain(scratch, pretrained),
        "scratch_seeds": np.nanmean(scratch, axis=1).tolist(),
        "pretrained_seeds": np.nanmean(pretrained, axis=1).tolist(),
    }


def write(args, rows):
    """Writes and prints the table, and draws the learning curves."""
    lines = [
        f"Mean foreground Dice of whole cases of fold {args.fold}, {args.seeds} seed(s), pretext "
        f"{args.pretext}. Brackets: 95 % bootstrap over seeds and cases, in pairs.",
        "",
        "| labelled cases | steps | from scratch | pre-trained | difference |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["interval"]
        gain = f"{row['gain']:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(
            f"| {row['labels']} | {row['steps']} | {row['scratch']:.3f} | "
            f"{row['pretrained']:.3f} | {gain} |"
        )
    print("\n".join(["", *lines]))
    (args.out / "results.md").write_text("\n".join(lines) + "\n")
    (args.out / "results.json").write_text(json.dumps(rows, indent=1, default=float) + "\n")
    draw(args.out / "learning_curves.png", rows)


def draw(path, rows):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    budgets = itertools.groupby(rows, key=lambda row: row["steps"])
    for number, (steps, of_steps) in enumerate(budgets):
        of_steps, color = list(of_steps), f"C{number}"
        labels = [row["labels"] for row in of_steps]
        for arm, style in zip(ARMS, ("--", "-"), strict=True):
            means = [row[arm] for row in of_steps]
            axes.plot(labels, means, style, marker="o", color=color, label=f"{arm}, {steps} steps")
            for row in of_steps:
                seeds = row[f"{arm}_seeds"]
                axes.plot([row["labels"]] * len(seeds), seeds, ".", alpha=0.4, color=color)
    labels = sorted({row["labels"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(labels, [str(n) for n in labels])
    axes.set_xlabel("labelled training cases")
    axes.set_ylabel("mean foreground Dice")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
