"""Do synthetic pairs pay? Whole-case Dice after training on few labels, with them and without.

    python benchmarks/synthesis.py --data data/hippocampus                     # 8 labels, 3 seeds
    python benchmarks/synthesis.py --data data/hippocampus --seeds 1 --ratio 0.25 0.5 --count 500

For each seed a generator learns from the slices of 8 cases of the training folds, and makes pairs
of image and label map from theirs alone. Then networks are trained on the slices of these 8 cases,
all with the same steps and the augmentation policy `nnunet`: one on them alone, one for each
--ratio, --count and --deform with that share of synthetic slices in every batch. All are scored on
the whole cases of the validation fold. No training has seen those; but each network, the generator
among them, takes the epoch with the best score on patches of that fold. Which cases have labels
depends on the seed, by hash, as in benchmarks/dpn.py.

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
from benchmarks.runs import tool
from benchmarks.runs import train
from benchmarks.runs import write_config
from data_prep.manifest import load_manifest


def main(argv=None):
    args = parse_args(argv)
    if args.data is None:
        print("benchmarks/synthesis.py needs --data, a data set with labels; nothing measured.")
        return
    manifest, validation = load_manifest(args.data), f"fold{args.fold}"
    arms = list(itertools.product(args.ratio, args.count, args.deform))
    without, with_pairs = [], {arm: [] for arm in arms}
    for seed in range(args.seeds):
        few = leave_out(manifest, validation, args.labels, seed)
        without.append(case_scores(segment(args, seed, few)))
        generator = learn_to_make(args, seed, few)
        for ratio, count, deform in arms:
            made = synthesize(args, seed, generator, count, deform)
            report = segment(args, seed, few, made, ratio)
            with_pairs[ratio, count, deform].append(case_scores(report))
    rows = [compare(arm, np.array(without), np.array(with_pairs[arm])) for arm in arms]
    write(args, rows)


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="prepared with labels")
    add("--out", metavar="FOLDER", type=Path, default=Path("runs/synthesis-benchmark"))
    add("--config", metavar="FILE", type=Path, default=ROOT / "configs" / "unet.yaml")
    add("--gan-config", metavar="FILE", type=Path, default=ROOT / "configs" / "spade_gan.yaml")
    add("--labels", type=int, default=8, help="labelled cases (default: 8)")
    add("--seeds", type=int, default=3)
    add("--fold", type=int, default=0)
    add("--patch", type=int, nargs=2, default=[64, 64], help="of all networks (default: 64 64)")
    add("--ratio", type=float, nargs="+", default=[0.25], help="of a batch (default: 0.25)")
    add("--count", type=int, nargs="+", default=[2000], help="synthetic slices (default: 2000)")
    add("--deform", type=float, nargs="+", default=[1.0], help="of label maps (default: 1)")
    add("--epochs", type=int, help="of the segmentation (default: the config's)")
    add("--gan-epochs", type=int, help="of the generator (default: the config's)")
    every = {"metavar": "KEY=VALUE", "action": "append", "default": []}
    add("--set", **every, help="config key of all segmentations")
    add("--gan-set", **every, help="config key of the generators")
    return parser.parse_args(argv)


def learn_to_make(args, seed, few):
    """Returns the folder of a trained generator."""
    folder = args.out / f"generator-seed{seed}"
    config = write_config(folder, args.gan_config, settings_of(args, seed, few, args.gan_epochs))
    train("train.py", folder, "--config", config, "--data", args.data, *overrides(*args.gan_set))
    return folder


def synthesize(args, seed, generator, count, deform):
    """Returns the folder of a synthetic data set; one that is complete is left as it is."""
    out = args.out / f"made-{count}-deform{deform:g}-seed{seed}"
    if not (out / "dataset.json").exists():
        tool("synthesize.py", "--run", generator, "--out", out, "--count", count,
             "--deform", deform, "--seed", seed)  # fmt: skip
    return out


def segment(args, seed, few, made=None, ratio=0):
    """Returns the report of tools/evaluate.py on a training, with synthetic pairs or without."""
    name = f"mixed{ratio:g}-{made.name}" if made else f"alone-seed{seed}"
    folder = args.out / name
    settings = settings_of(args, seed, few, args.epochs) | {"augment.policy": "nnunet"}
    if made:
        settings["data.synthetic"] = {"path": str(made), "ratio": ratio}
    arguments = ["--config", write_config(folder, args.config, settings), "--data", args.data]
    train("train.py", folder, *arguments, "--no-evaluate", *overrides(*args.set))
    return score(folder, args.fold)


def settings_of(args, seed, few, epochs):
    """Returns what the trainings of a seed have in common."""
    settings = {"train.seed": seed, "data.fold": args.fold, "data.repeats": few}
    settings["data.patch_size"] = args.patch
    return settings | ({"train.epochs": epochs} if epochs else {})


def compare(arm, without, with_pairs):
    """Returns a row of the table; scores are `(seeds, cases)`."""
    ratio, count, deform = arm
    return {
        "ratio": ratio,
        "count": count,
        "deform": deform,
        "without": np.nanmean(without),
        "with": np.nanmean(with_pairs),
        **paired_gain(without, with_pairs),
        "without_seeds": np.nanmean(without, axis=1).tolist(),
        "with_seeds": np.nanmean(with_pairs, axis=1).tolist(),
    }


def write(args, rows):
    """Writes and prints the table."""
    lines = [
        f"Mean foreground Dice of whole cases of fold {args.fold}, {args.labels} labelled cases, "
        f"{args.seeds} seed(s), policy nnunet. Brackets: 95 % bootstrap over seeds and cases, in "
        "pairs.",
        "",
        "| share of a batch | synthetic slices | deformed | without | with | difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["interval"]
        lines.append(
            f"| {row['ratio']:g} | {row['count']} | {row['deform']:g} | {row['without']:.3f} | "
            f"{row['with']:.3f} | {row['gain']:+.3f} ({low:+.3f} to {high:+.3f}) |"
        )
    print("\n".join(["", *lines]))
    (args.out / "results.md").write_text("\n".join(lines) + "\n")
    (args.out / "results.json").write_text(json.dumps(rows, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
