"""Inpainting, enhancement and style transfer against what needs no training, or no translation.

    python benchmarks/restoration.py --data data/hippocampus --source RAW/Task04_Hippocampus
    python benchmarks/restoration.py --data data/hippocampus --only inpainting enhancement

inpainting    configs/inpaint_gan.yaml against scikit-image's biharmonic inpainting, on held-out
              slices with random holes.
enhancement   configs/enhance_gan.yaml, one network for all levels of noise, against median,
              non-local means and total variation, each tuned on training slices for each level and
              measure; the best of them counts.
style         A segmenter of data set A, scored on A and on B, which is A with its contrast inverted
              by a curve and another texture; and one that was trained on A and on A translated by
              configs/cycle_gan.yaml. B's labels are used for scores only; its training cases are
              those of A, in another order. --source is the raw data set of layout msd that both
              are prepared from.

PSNR and SSIM are scikit-image's, of whole slices, with the range of the true slice; differences are
paired, with a 95 % bootstrap over cases. Networks see whole volumes through the code behind
tools/restore.py. Every run is a folder in --out. Repeat the command to go on; what is finished is
not done again. Without --data nothing is measured.
"""

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PARTS = ("inpainting", "enhancement", "style")
PATCH = "data.patch_size=[48,32]"  # slices of about 50 x 35
LEVELS = (0.1, 0.25, 0.5)  # noise, in deviations of the intensities of a case
TUNED_ON = 60  # training slices
EVERY = 4  # of the slices of a case, one in so many is scored
MEASURES = ("psnr", "ssim")


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
    add("--cases", type=int, help="held-out cases to score (default: all)")
    add("--consistency", type=float, default=1.0, help="weight in style (default: 1)")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="config key of generators")
    args = parser.parse_args(argv)
    if args.data and "style" in args.only and not args.source:
        parser.error("style needs --source; or leave it out with --only")
    return args


def inpainting(args):
    """Returns the table of the part as text."""
    run = train(args, "inpaint_gan", args.out / "inpainting" / "run", args.data)
    restorer, rows = restorer_of(run), []
    for number, (case, volume) in enumerate(volumes(args, f"fold{args.fold}")):
        shown = range(0, volume.shape[0], EVERY)
        holes = np.zeros(volume.shape, bool)
        holes[::EVERY] = random_holes(len(shown), volume.shape[1:], seed=number)
        given = volume.array.copy()
        given[holes] = 0.0  # what is there must not be seen
        made = restorer.restore(type(volume)(given, volume.affine), holes).array
        for index in shown:
            truth, hole = volume.array[index], holes[index]
            found = {"network": made[index], "biharmonic": biharmonic(given[index], hole)}
            rows.append({"case": case, "scores": scored(truth, found)})
    keep(args.out / "inpainting" / "rows.json", rows)
    lines = [
        f"Fold {args.fold}: {len(rows)} slices of {count_cases(rows)} cases, random holes.",
        "",
    ]
    return "\n".join(lines + table({"": rows}, ["biharmonic"]))


def enhancement(args):
    """Returns the table of the part as text."""
    run = train(args, "enhance_gan", args.out / "enhancement" / "run", args.data)
    restorer, found = restorer_of(run), {}
    for level in LEVELS:
        options = tuned(args, level)
        rows = []
        for number, (case, volume) in enumerate(volumes(args, f"fold{args.fold}")):
            noisy = with_noise(volume.array, level, seed=number)
            made = restorer.restore(type(volume)(noisy, volume.affine)).array
            for index in range(0, volume.shape[0], EVERY):
                images = {"network": made[index], "noisy": noisy[index]}
                for name, chosen in options.items():
                    method = CLASSICAL[name.split(" for ")[0]]
                    images[name] = method(noisy[index], level, chosen)
                rows.append({"case": case, "scores": scored(volume.array[index], images)})
        found[f"noise {level:g}"] = rows
        keep(args.out / "enhancement" / f"rows-{level:g}.json", rows)
    rows = next(iter(found.values()))
    lines = [f"Fold {args.fold}: {len(rows)} slices of {count_cases(rows)} cases.", ""]
    return "\n".join(lines + table(found, [name for name in rows[0]["scores"] if " for " in name]))


def style(args):
    """Returns the table of the part as text."""
    out, fold = args.out / "style", f"data.fold={args.fold}"
    a, b = out / "A", out / "B"
    if not (out / "B-raw" / "dataset.json").exists():
        write_restyled(Path(args.source), out / "B-raw")
    for source, data in ((args.source, a), (out / "B-raw", b)):
        if not (data / "dataset.json").exists():
            call("prepare_data.py", "--source", source, "--layout", "msd", "--out", data)
    plain = segment(args, out / "segmenter-A", a, fold)
    options = [f"data.style={json.dumps(str(b))}", f"task.segmenter={json.dumps(str(plain))}"]
    options += [f"loss.consistency={args.consistency}"]
    translator = train(args, "cycle_gan", out / "translator", a, *options)
    translated = out / "A-as-B"
    if not (translated / "dataset.json").exists():
        call("synthesize.py", "--run", translator, "--source", a, "--out", translated)
    mixed = f"data.synthetic={{path: {json.dumps(str(translated))}, ratio: 0.5}}"
    adapted = segment(args, out / "segmenter-A-as-B", a, fold, mixed)
    upper = segment(args, out / "segmenter-B", b, fold)
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


def scored(truth, images):
    """Returns PSNR and SSIM of each image by name: dict name -> dict measure -> float."""
    from skimage.metrics import peak_signal_noise_ratio
    from skimage.metrics import structural_similarity

    span = float(truth.max() - truth.min())
    window = min(7, *(side - 1 + side % 2 for side in truth.shape))

    def measured(image):
        image = image.astype(truth.dtype)
        ssim = structural_similarity(truth, image, data_range=span, win_size=window)
        # An image without any error has 100 dB, as in validation.
        error = ((truth - image) ** 2).mean()
        psnr = peak_signal_noise_ratio(truth, image, data_range=span) if error > 0 else 100.0
        return {"psnr": float(min(psnr, 100.0)), "ssim": float(ssim)}

    return {name: measured(image) for name, image in images.items()}


def table(found, rivals):
    """Returns lines of Markdown: means, and the network against its best rival in each measure.

    Args:
        found: Dict heading -> rows of `scored`, one per slice.
        rivals: Names of what the network is held against.
    """
    lines = []
    for heading, rows in found.items():
        lines += [f"| {heading or 'method'} | PSNR (dB) | SSIM |", "|---|---|---|"]
        means = {
            name: {m: np.mean([row["scores"][name][m] for row in rows]) for m in MEASURES}
            for name in rows[0]["scores"]
        }
        lines += [f"| {n} | {m['psnr']:.2f} | {m['ssim']:.4f} |" for n, m in means.items()]
        for measure, digits in zip(MEASURES, (2, 4), strict=True):
            rival = max(rivals, key=lambda name: means[name][measure])
            mean, low, high = difference(rows, rival, measure)
            lines.append(
                f"\nNetwork minus {rival}, {measure.upper()}: {mean:+.{digits}f} "
                f"({low:+.{digits}f} to {high:+.{digits}f})."
            )
        lines.append("")
    return lines


def difference(rows, rival, measure, draws=2000):
    """Returns the mean difference of network and rival over cases, and its 95 % interval."""
    by_case = {}
    for row in rows:
        gained = row["scores"]["network"][measure] - row["scores"][rival][measure]
        by_case.setdefault(row["case"], []).append(gained)
    values = np.array([np.mean(gains) for gains in by_case.values()])
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def biharmonic(image, hole):
    from skimage.restoration import inpaint_biharmonic

    return inpaint_biharmonic(image, hole) if hole.any() else image


def median(image, level, size):
    from scipy.ndimage import median_filter

    return median_filter(image, size)


def non_local_means(image, level, options):
    from skimage.restoration import denoise_nl_means

    patch, factor = options
    size = {"patch_size": patch, "patch_distance": 7, "fast_mode": True}
    return denoise_nl_means(image, h=factor * level, sigma=level, **size)


def total_variation(image, level, factor):
    from skimage.restoration import denoise_tv_chambolle

    # The function thinks in weights for images of range 1; here the noise sets the scale.
    return denoise_tv_chambolle(image, weight=factor * level, max_num_iter=500)


CLASSICAL = {
    "median": median,
    "non-local means": non_local_means,
    "total variation": total_variation,
}
CHOICES = {
    "median": [2, 3, 4, 5],
    "non-local means": [(p, f) for p in (3, 5, 7) for f in (0.4, 0.6, 0.8, 1.0, 1.3)],
    "total variation": [0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.4],
}


def tuned(args, level):
    """Returns the best option of each classical method for each measure, on training slices."""
    kept = args.out / "enhancement" / f"tuned-{level:g}.json"
    if not kept.exists():
        pairs = [(x, with_noise(x, level, seed=10_000 + n)) for n, x in enumerate(tuning(args))]
        keep(kept, tune(pairs, level))
    return json.loads(kept.read_text(encoding="utf-8"))


def tune(pairs, level):
    """Returns dict `"method for measure"` -> option with the highest mean over pairs.

    Args:
        pairs: Pairs of a true and a noisy slice.
        level: Standard deviation of the noise.
    """
    best = {}
    for name, method in CLASSICAL.items():
        means = []
        for option in CHOICES[name]:
            rows = [scored(truth, {"": method(noisy, level, option)})[""] for truth, noisy in pairs]
            means.append({m: np.mean([row[m] for row in rows]) for m in MEASURES})
        for measure in MEASURES:
            index = int(np.argmax([mean[measure] for mean in means]))
            best[f"{name} for {measure}"] = CHOICES[name][index]
    return best


def tuning(args):
    """Returns training slices, from as many cases as there are slices, or from all."""
    other = f"fold{args.fold + 1 if args.fold == 0 else args.fold - 1}"
    cases = [volume.array for _, volume in volumes(args, other)]
    numbers = np.random.default_rng(0).integers(0, 10**6, TUNED_ON)
    chosen = [cases[n % len(cases)] for n in range(TUNED_ON)]
    return [case[number % len(case)] for case, number in zip(chosen, numbers, strict=True)]


def with_noise(array, level, *, seed):
    """Returns an array with Gaussian noise added, float32."""
    noise = np.random.default_rng(seed).normal(size=array.shape)
    return (array + level * noise).astype(np.float32)


def random_holes(count, sides, *, seed):
    """Returns holes as the task draws them, bool `(count, *sides)`."""
    import tensorflow as tf

    from segkit.layers.step_context import step_context
    from segkit.training.adversarial.degrade import HOLES
    from segkit.training.adversarial.degrade import draw_holes
    from segkit.training.replica import example_keys

    with step_context(example_keys(20_000 + seed, tf.range(count, dtype=tf.int64))):
        return draw_holes(count, sides, share=(0.1, 0.4), kinds=list(HOLES)).numpy()[..., 0] > 0


def volumes(args, split):
    """Yields `(case, Volume)` of prepared cases of one channel, normalised."""
    from data_prep.manifest import load_manifest
    from data_prep.preprocess import prepared_affine
    from data_prep.whole_cases import read_cases
    from segkit.volume import Volume

    manifest = load_manifest(args.data)
    if len(manifest["channels"]) != 1:
        raise SystemExit(f"--data has {len(manifest['channels'])} channels; one is needed.")
    for number, case in enumerate(read_cases(args.data, manifest, split)):
        if number == args.cases:
            return
        yield case.id, Volume(case.image[..., 0], prepared_affine(manifest["cases"][case.id]))


@functools.cache
def restorer_of(run):
    from segkit.inference.restorer import restorer_of as of
    from segkit.training.run import load_run

    return of(load_run(run))


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
    return train_once(folder, "unet", data, [PATCH, *settings])


def train(args, model, folder, data, *settings):
    """Trains a generator; returns its folder."""
    return train_once(folder, model, data, [PATCH, f"data.fold={args.fold}", *settings, *args.set])


def train_once(folder, model, data, settings):
    """Trains unless that was done; goes on where it was stopped."""
    if not (folder / "done").exists():
        options = [part for text in settings for part in ("--set", text)]
        options += ["--resume"] if list(folder.glob("checkpoints/step-*")) else []
        options += ["--no-evaluate"] if model == "unet" else []
        call("train.py", "--model", model, "--data", data, "--run", folder, *options)
        if not is_whole(folder):
            raise SystemExit(f"{folder} was stopped. Repeat the command to go on.")
        (folder / "done").touch()
    return folder


def is_whole(folder):
    """Returns whether a run has done all of its epochs."""
    epochs = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["train"]["epochs"]
    return len((folder / "history.csv").read_text().splitlines()) == epochs + 1


def dice(args, run, data):
    """Returns the mean foreground Dice of a run on the fold of a data set."""
    kept = run / f"dice-{Path(data).name}.json"
    if not kept.exists():
        split = f"fold{args.fold}"
        call("evaluate.py", "--run", run, "--data", data, "--split", split)
        report = json.loads((run / "evaluation" / split / "results.json").read_text())
        keep(kept, report["mean_foreground_dice"])
    return json.loads(kept.read_text())


def count_cases(rows):
    return len({row["case"] for row in rows})


def keep(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def call(tool, *arguments):
    print(f"== {tool} {' '.join(map(str, arguments[:6]))}", flush=True)
    command = [sys.executable, ROOT / "tools" / tool, *map(str, arguments)]
    # The package beside this script, also where another copy is installed.
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    if result.returncode:
        raise SystemExit(f"{tool} failed. Repeat the command to go on.")


if __name__ == "__main__":
    main()
