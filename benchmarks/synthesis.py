"""Do synthetic pairs pay? Whole-case Dice after training on few labels, with them and without.

    python benchmarks/synthesis.py --data data/hippocampus                     # 8 labels, 3 seeds
    python benchmarks/synthesis.py --data data/hippocampus --seeds 1 --ratio 0.25 0.5 --count 500
    python benchmarks/synthesis.py --data data/hippocampus --ceiling --unlabelled RAW/Task04

For each seed a generator learns from the slices of 8 cases of the training folds, and makes pairs
of image and label map from theirs alone. Then networks are trained on the slices of these 8 cases,
all with the same steps and the augmentation policy `nnunet`: one on them alone, one for each
--ratio, --count and --deform with that share of synthetic slices in every batch. All are scored on
the whole cases of the validation fold. No training has seen those; but each network, the generator
among them, takes the epoch with the best score on patches of that fold. Which cases have labels
depends on the seed, by hash, as in benchmarks/dpn.py.

With --unlabelled, the raw data set, the images of the other training cases have a part, too, with
label maps that the network without synthetic slices finds in them: a generator learns from the
slices of all training cases and makes pairs of any of these label maps; and, to tell what
generators are good for, networks are trained on these cases themselves, without any generator.
--ceiling trains on the labels of all training cases: what there is to gain.

Every run is a folder in --out, in a process of its own. Repeat the command to go on after an
interruption; what is finished is not done again. Without --data nothing is measured.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.guessed_labels import prepare_guessed
from benchmarks.runs import ROOT
from benchmarks.runs import case_scores
from benchmarks.runs import leave_out
from benchmarks.runs import overrides
from benchmarks.runs import paired_gain
from benchmarks.runs import score
from benchmarks.runs import tool
from benchmarks.runs import train
from benchmarks.runs import training_cases
from benchmarks.runs import write_config
from data_prep.manifest import load_manifest

KINDS = {
    "made": "made of the labelled cases",
    "made_guessed": "made of all, labels guessed",
    "guessed": "all themselves, labels guessed",
    "ceiling": "all themselves, true labels",
}


class Arm(NamedTuple):
    """What is mixed into the batches of a training.

    Attributes:
        kind: Key of `KINDS`.
        ratio: Share of a batch, on average for `guessed`; 0 for `ceiling`, which mixes nothing.
        count: Number of synthetic slices.
        deform: Strength of the deformation of label maps.
    """

    kind: str
    ratio: float
    count: int = 0
    deform: float = 0.0


def main(argv=None):
    args = parse_args(argv)
    if args.data is None:
        print("benchmarks/synthesis.py needs --data, a data set with labels; nothing measured.")
        return
    manifest, validation, arms = load_manifest(args.data), f"fold{args.fold}", arms_of(args)
    without, with_pairs = [], {arm: [] for arm in arms}
    for seed in range(args.seeds):
        few = leave_out(manifest, validation, args.labels, seed)
        without.append(case_scores(segment(args, seed, f"alone-seed{seed}", few)))
        for arm in arms:
            with_pairs[arm].append(case_scores(segment_with(args, seed, few, manifest, arm)))
    rows = [compare(arm, np.array(without), np.array(with_pairs[arm])) for arm in arms]
    write(args, rows)


def arms_of(args):
    """Returns the list of `Arm`."""
    kinds = ["made", "made_guessed"] if args.unlabelled else ["made"]
    arms = [Arm(*arm) for arm in itertools.product(kinds, args.ratio, args.count, args.deform)]
    if args.unlabelled:
        arms += [Arm("guessed", ratio) for ratio in args.ratio]
    return arms + ([Arm("ceiling", 0.0)] if args.ceiling else [])


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
    add("--unlabelled", metavar="FOLDER", type=Path, help="raw, layout msd, of --data")
    add("--ceiling", action="store_true", help="train with all labels, too")
    every = {"metavar": "KEY=VALUE", "action": "append", "default": []}
    add("--set", **every, help="config key of all segmentations")
    add("--gan-set", **every, help="config key of the generators")
    args = parser.parse_args(argv)
    if not all(0 < ratio <= 1 for ratio in args.ratio):
        parser.error("--ratio must be above 0, and 1 at most")
    return args


def segment_with(args, seed, few, manifest, arm):
    """Trains with what an arm mixes in; returns the report of tools/evaluate.py."""
    data, repeats = args.data, few
    if arm.kind == "ceiling":
        return segment(args, seed, f"ceiling-seed{seed}", {})
    if arm.kind != "made":
        alone, folder = args.out / f"alone-seed{seed}", args.out / f"guessed-seed{seed}"
        data, repeats = prepare_guessed(folder, manifest, args.unlabelled, alone, few), {}
    if arm.kind == "guessed":
        repeats = oftener(args, manifest, few, arm.ratio)
        return segment(args, seed, f"guessed{arm.ratio:g}-seed{seed}", repeats, data=data)
    made = synthesize(args, seed, data, repeats, arm)
    mixed = {"data.synthetic": {"path": str(made), "ratio": arm.ratio}}
    return segment(args, seed, f"mixed{arm.ratio:g}-{made.name}", few, mixed)


def synthesize(args, seed, data, repeats, arm):
    """Returns the folder of a synthetic data set, after training its generator; both if need be."""
    generator = args.out / f"generator-{arm.kind}-seed{seed}"
    settings = settings_of(args, seed, repeats, args.gan_epochs)
    config = write_config(generator, args.gan_config, settings)
    train("train.py", generator, "--config", config, "--data", data, *overrides(*args.gan_set))
    out = args.out / f"{arm.kind}-{arm.count}-deform{arm.deform:g}-seed{seed}"
    if not (out / "dataset.json").exists():
        tool("synthesize.py", "--run", generator, "--out", out, "--count", arm.count,
             "--deform", arm.deform, "--seed", seed)  # fmt: skip
    return out


def oftener(args, manifest, few, ratio):
    """Returns `data.repeats` by which the cases of `few` are a share of all that is seen."""
    training = training_cases(manifest, f"fold{args.fold}")
    labelled = [case for case in training if case not in few]
    times = round(len(few) * (1 - ratio) / (ratio * len(labelled)))
    return dict.fromkeys(labelled, times)


def segment(args, seed, name, repeats, mixed=None, data=None):
    """Trains a network under the policy nnunet; returns the report of tools/evaluate.py.

    Args:
        args: The command line.
        seed: Of the training.
        name: Of its folder.
        repeats: `data.repeats`.
        mixed: Settings that mix something in, or `None`.
        data: Data set if not `args.data`.
    """
    folder = args.out / name
    settings = settings_of(args, seed, repeats, args.epochs) | {"augment.policy": "nnunet"}
    config = write_config(folder, args.config, settings | (mixed or {}))
    arguments = ["--config", config, "--data", data or args.data, "--no-evaluate"]
    train("train.py", folder, *arguments, *overrides(*args.set))
    return score(folder, args.fold)


def settings_of(args, seed, repeats, epochs):
    """Returns what the trainings of a seed have in common."""
    settings = {"train.seed": seed, "data.fold": args.fold, "data.repeats": repeats}
    settings["data.patch_size"] = args.patch
    return settings | ({"train.epochs": epochs} if epochs else {})


def compare(arm, without, with_pairs):
    """Returns a row of the table; scores are `(seeds, cases)`."""
    return {
        **arm._asdict(),
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
        "| mixed in | share of a batch | slices made | deformed | without | with | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["interval"]
        made = f"{row['count']} | {row['deform']:g}" if row["count"] else "- | -"
        lines.append(
            f"| {KINDS[row['kind']]} | {row['ratio'] or '-'} | {made} | {row['without']:.3f} | "
            f"{row['with']:.3f} | {row['gain']:+.3f} ({low:+.3f} to {high:+.3f}) |"
        )
    print("\n".join(["", *lines]))
    (args.out / "results.md").write_text("\n".join(lines) + "\n")
    (args.out / "results.json").write_text(json.dumps(rows, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
