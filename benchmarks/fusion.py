"""Whether fusion pays, on phantoms that a single input cannot tell apart.

    python benchmarks/fusion.py --seeds 0 1 2

`which`: one channel shows two equal discs sharply, the other one, blurred, which of them is the
lesion. `side`: two equal discs, and a covariate says which of them. `both`: two channels show the
same disc, each under noise of its own. Everything runs through the tools: table, training, whole
test cases. A network that sees the discs alone can do no better than take both: Dice 2/3.
"""

import argparse
import csv
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.runs import overrides
from benchmarks.runs import train

SIDE, RADIUS = 32, 4
TRAINING, TEST = 200, 50
# phantom, label of the row, channels, model options, channels to leave out in turn
RUNS = (
    ("which", "both channels", "shape,marker", {}, ("shape", "marker")),
    ("side", "with covariates", "shape", {"covariates": 4}, ()),
    ("which", "shape alone", "shape", {}, ()),
    ("side", "without covariates", "shape", {}, ()),
    ("both", "both channels", "a,b", {}, ("a", "b")),
    ("both", "both, modality_dropout 0.5", "a,b", {"modality_dropout": 0.5}, ("a", "b")),
    (
        "which",
        "both, modality_dropout 0.5",
        "shape,marker",
        {"modality_dropout": 0.5},
        ("shape", "marker"),
    ),
    ("which", "marker alone", "marker", {}, ()),
)


def main(argv=None):
    """Trains every network of `RUNS`, and prints the Dice of the test cases."""
    args = parse_args(argv)
    rows = []
    for phantom, name, channels, options, left_out in RUNS:
        if phantom not in args.phantoms:
            continue
        scores = [measure(args, phantom, channels, options, left_out, seed) for seed in args.seeds]
        row = {key: [score[key] for score in scores] for key in scores[0]}
        rows.append((phantom, name, row))
        print(phantom, name, row, flush=True)
    print("\n| phantom | network | complete | without one channel |\n|---|---|---|---|")
    for phantom, name, row in rows:
        complete, *others = (f"{key}: {mean(dice)}".strip(": ") for key, dice in row.items())
        print(f"| {phantom} | {name} | {complete} | {', '.join(others)} |")


def parse_args(argv):
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default="runs/fusion", help="where data and runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=5, help="of 50 steps")
    parser.add_argument("--phantoms", nargs="+", default=["which", "side", "both"])
    return parser.parse_args(argv)


def mean(values):
    """Returns mean, lowest and highest as text."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} - {max(values):.3f})"


def measure(args, phantom, channels, options, left_out, seed):
    """Trains one network; returns the mean Dice complete (key "") and without each channel."""
    data = args.folder / f"{phantom}-{channels}"
    if not (data / "dataset.json").exists():
        prepare(args.folder / phantom, data, phantom, channels)
    name = "-".join([phantom, channels, *(f"{k}{v}" for k, v in options.items()), str(seed)])
    run = args.folder / "runs" / name
    settings = {f"model.{key}": value for key, value in {"modality_dropout": 0, **options}.items()}
    settings |= {"train.seed": seed, "train.epochs": args.epochs, "train.steps_per_epoch": 50}
    settings |= {"data.patch_size": [SIDE, SIDE], "augment.policy": "none"}
    sets = overrides(*(f"{key}={value}" for key, value in settings.items()))
    train("train.py", run, "--model", "fusion_unet", "--data", data, "--no-evaluate", *sets)
    return score(run, data, left_out)


def score(run, data, left_out):
    """Returns the mean foreground Dice over the test cases, complete and without each channel."""
    from data_prep.manifest import load_manifest
    from segkit.inference.predictor import encode_covariates
    from segkit.inference.predictor import predictor_of
    from segkit.training.run import load_run
    from tools.evaluate import whole_cases

    predictor, manifest = predictor_of(load_run(run)), load_manifest(data)
    scores = {name: [] for name in ("", *left_out)}
    for case, image, label, _ in whole_cases(data, manifest, "test"):
        values = manifest["cases"][case].get("covariates", {})
        known = encode_covariates(predictor, manifest, values)
        for name, dice in scores.items():
            kept = [name != channel for channel in manifest["channels"]]
            mask = predictor.logits(image * np.float32(kept), covariates=known).numpy().argmax(-1)
            dice.append(2 * (mask & label).sum() / (mask.sum() + label.sum()))
    return {name: float(np.mean(dice)) for name, dice in scores.items()}


def prepare(raw, data, phantom, channels):
    """Writes the phantoms and their table once, and converts them."""
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source

    table = raw / "cases.csv"
    if not table.exists():
        write_phantoms(raw, phantom)
    options = {"images": channels, "covariates": "side,age" if phantom == "side" else ""}
    made = Options(layout="table", layout_options=options)
    convert(scan_source("table", table, **options), data, source=raw, options=made)


def write_phantoms(folder, phantom):
    """Writes images, labels and `cases.csv`."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for n in range(TRAINING + TEST):
        channels, label, more = MAKERS[phantom](np.random.default_rng([n, 7]))
        row = {"split": "test" if n >= TRAINING else "train", **more}
        for name, array in {**channels, "label": label}.items():
            row[name] = f"{n}_{name}.png"
            shown = array if name == "label" else np.clip(100 + 50 * array, 1, 255)
            Image.fromarray(shown.astype(np.uint8)).save(folder / row[name])
        rows.append(row)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def which(rng):
    """Two discs in `shape`; in `marker` a blur around the centre of the lesion."""
    lesion, other = two_centres(rng)
    shape = disc(lesion) | disc(other)
    off = lesion + rng.normal(0, 1.5, 2)
    marker = np.exp(-(distance(off) ** 2) / (2 * (1.2 * RADIUS) ** 2))
    return {"shape": noisy(rng, shape, 0.3), "marker": noisy(rng, marker, 0.5)}, disc(lesion), {}


def side(rng):
    """Two discs, one per half; `side` names the half of the lesion, `age` nothing."""
    rows = rng.uniform(6, SIDE - 6, 2)
    columns = rng.uniform(5, 11, 2) + np.array([0, SIDE // 2])
    centres = dict(zip(("left", "right"), zip(rows, columns, strict=True), strict=True))
    name = rng.choice(list(centres))
    shape = disc(centres["left"]) | disc(centres["right"])
    known = {"side": name, "age": "" if rng.random() < 0.1 else f"{rng.normal(60, 10):.0f}"}
    return {"shape": noisy(rng, shape, 0.3)}, disc(centres[name]), known


def both(rng):
    """One disc, in both channels."""
    lesion = disc(rng.uniform(6, SIDE - 6, 2))
    return {name: noisy(rng, lesion, 0.6) for name in ("a", "b")}, lesion, {}


def two_centres(rng):
    """Draws two centres that are at least three radii apart."""
    while True:
        centres = rng.uniform(6, SIDE - 6, (2, 2))
        if np.hypot(*(centres[0] - centres[1])) > 3 * RADIUS:
            return centres


def distance(centre):
    """Returns the distance of each pixel from a centre."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.hypot(rows - centre[0], columns - centre[1])


def disc(centre):
    """Returns a disc as a mask."""
    return distance(centre) < RADIUS


def noisy(rng, array, deviation):
    """Returns an array under noise."""
    return array + rng.normal(0, deviation, array.shape)


MAKERS = {"which": which, "side": side, "both": both}

if __name__ == "__main__":
    main()
