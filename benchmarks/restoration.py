"""Inpainting, enhancement and style transfer against what needs no training, or no translation.

    python benchmarks/restoration.py --data data/hippocampus --source RAW/Task04_Hippocampus
    python benchmarks/restoration.py --data data/hippocampus --only inpainting enhancement

inpainting    configs/inpaint_gan.yaml against biharmonic inpainting of random holes.
enhancement   configs/enhance_gan.yaml, one network for all levels of noise, against median,
              non-local means, total variation and bicubic interpolation, tuned for each level.
style         A segmenter of data set A, scored on A and on B, which is A with its contrast inverted
              by a curve and another texture; and one that was trained on A and on A translated by
              configs/cycle_gan.yaml. B's labels are used for scores only; its training cases are
              those of A, in another order. --source is the raw data set of layout msd that both
              are prepared from. An inverted image is far from what it was, so the translator
              learns without the terms that hold it back, identity and consistency.

The first two are scored by tools/evaluate_synthesis.py --cover, on patches that cover the held-out
slices; its tables end with the network less the best of all others, see docs/synthesis_scores.md.
Every run is a folder in --out. Repeat the command to go on; what is finished is not done again.
Without --data nothing is measured.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.runs import overrides
from benchmarks.runs import tool
from benchmarks.runs import train
from segkit.inference.synthesis_report import restoration_lines

PARTS = ("inpainting", "enhancement", "style")
PATCH = "data.patch_size=[48,32]"  # slices of about 50 x 35
LEVELS = (0.1, 0.25, 0.5)  # noise, in deviations of the intensities of a case


def main(argv=None):
    args = parse_args(argv)
    if args.data is None:
        print("benchmarks/restoration.py needs --data, a prepared data set; nothing measured.")
        return
    parts = {"inpainting": inpainting, "enhancement": enhancement, "style": style}
    for name in args.only:
        kept = args.out / name / "results.md"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(parts[name](args) + "\n", encoding="utf-8")
        print(f"\n{kept}\n\n{kept.read_text(encoding='utf-8')}")


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="prepared with labels and folds, one channel")
    add("--source", metavar="FOLDER", help="raw, layout msd; for style")
    add("--out", metavar="FOLDER", type=Path, default=Path("runs/restoration"))
    add("--only", nargs="+", default=list(PARTS), choices=PARTS)
    add("--fold", type=int, default=0, help="held out (default: 0)")
    add("--count", type=int, help="held-out patches to restore at most (default: 10000)")
    add("--consistency", type=float, default=0.0, help="weight in style (default: 0)")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="config key of generators")
    args = parser.parse_args(argv)
    if args.data and "style" in args.only and not args.source:
        parser.error("style needs --source; or leave it out with --only")
    return args


def inpainting(args):
    """Returns the table of the part as text."""
    run = learn(args, "inpaint_gan", args.out / "inpainting" / "run", args.data)
    return beside_methods(args, run)


def enhancement(args):
    """Returns the tables of the part as text, one for each level of noise."""
    run = learn(args, "enhance_gan", args.out / "enhancement" / "run", args.data)
    return "\n\n".join(beside_methods(args, run, level) for level in LEVELS)


def beside_methods(args, run, level=None):
    """Scores a network beside methods without training, at a level of noise; returns the tables."""
    split = f"fold{args.fold}"
    folder, options = split, ["--split", split, "--cover"]
    if args.count:
        options += ["--count", args.count]
    if level is not None:
        folder = f"{split}-gaussian={level}-{level}"
        options += overrides(f"gaussian=[{level}, {level}]")
    report = run / "evaluation" / folder / "results.json"
    if not report.exists():
        tool("evaluate_synthesis.py", "--run", run, *options)
    return "\n".join(restoration_lines(json.loads(report.read_text(encoding="utf-8"))))


def style(args):
    """Returns the table of the part as text."""
    out = args.out / "style"
    a, b = out / "A", out / "B"
    if not (out / "B-raw" / "dataset.json").exists():
        write_restyled(Path(args.source), out / "B-raw")
    for source, data in ((args.source, a), (out / "B-raw", b)):
        if not (data / "dataset.json").exists():
            tool("prepare_data.py", "--source", source, "--layout", "msd", "--out", data)
    plain = segment(args, out / "segmenter-A", a)
    options = [f"data.style={json.dumps(str(b))}", "loss.identity=0"]
    if args.consistency:
        options += [f"task.segmenter={json.dumps(str(plain))}"]
        options += [f"loss.consistency={args.consistency}"]
    translator = learn(args, "cycle_gan", out / "translator", a, *options)
    translated = out / "A-as-B"
    if not (translated / "dataset.json").exists():
        tool("synthesize.py", "--run", translator, "--source", a, "--out", translated)
    mixed = f"data.synthetic={{path: {json.dumps(str(translated))}, ratio: 0.5}}"
    adapted = segment(args, out / "segmenter-A-as-B", a, mixed)
    upper = segment(args, out / "segmenter-B", b)
    rows = {
        "trained on A, tested on A": dice(args, plain, a),
        "trained on A, tested on B": dice(args, plain, b),
        "trained on A and A translated, tested on B": dice(args, adapted, b),
        "trained on B, tested on B": dice(args, upper, b),
    }
    keep(out / "rows.json", rows)
    best, lost, back = list(rows.values())[:3]
    lines = ["| segmenter | mean foreground Dice |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in rows.items()]
    share = regained(best, lost, back)
    return "\n".join([*lines, "", f"Regained: {share:.0%} of the Dice that was lost."])


def regained(best, lost, back):
    """Returns the share of what was lost that came back; NaN where nothing was lost."""
    return (back - lost) / (best - lost) if best > lost else float("nan")


def restyled(image, *, seed):
    """Returns an image in the look of B, float32: a curve that inverts it, and another texture.

        1000 * (1 - sqrt(x)) + 40 * t

    with `x` from 0 to 1 between the percentiles 0.5 and 99.5, and `t` noise that is correlated over
    about two voxels, of deviation 1.
    """
    from scipy.ndimage import gaussian_filter

    low, high = np.percentile(image, (0.5, 99.5))
    share = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    texture = gaussian_filter(np.random.default_rng(seed).normal(size=image.shape), 1.0)
    curve = 1000 * (1 - np.sqrt(share))
    return (curve + 40 * texture / texture.std()).astype(np.float32)


def write_restyled(source, out):
    """Writes a data set of layout msd with the images of another one restyled."""
    from segkit.io.nifti import read_nifti
    from segkit.io.nifti import write_nifti
    from segkit.volume import Volume

    shutil.rmtree(out, ignore_errors=True)
    (out / "imagesTr").mkdir(parents=True)
    shutil.copytree(source / "labelsTr", out / "labelsTr")
    for number, path in enumerate(sorted((source / "imagesTr").glob("[!.]*.nii.gz"))):
        image = read_nifti(path)
        array = restyled(image.array.astype(np.float64), seed=number)
        write_nifti(out / "imagesTr" / path.name, Volume(array, image.affine))
    shutil.copy(source / "dataset.json", out / "dataset.json")  # last: says that all is there


def segment(args, folder, data, *settings):
    """Trains the segmenter; returns its folder."""
    settings = overrides(PATCH, f"data.fold={args.fold}", *settings)
    train("train.py", folder, "--model", "unet", "--data", data, "--no-evaluate", *settings)
    return folder


def learn(args, model, folder, data, *settings):
    """Trains a generator; returns its folder."""
    settings = overrides(PATCH, f"data.fold={args.fold}", *settings, *args.set)
    train("train.py", folder, "--model", model, "--data", data, *settings)
    return folder


def dice(args, run, data):
    """Returns the mean foreground Dice of a run on the fold of a data set."""
    kept = run / f"dice-{Path(data).name}.json"
    if not kept.exists():
        split = f"fold{args.fold}"
        tool("evaluate.py", "--run", run, "--data", data, "--split", split)
        report = json.loads((run / "evaluation" / split / "results.json").read_text())
        keep(kept, report["mean_foreground_dice"])
    return json.loads(kept.read_text())


def keep(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
