"""Turns raw studies into sharded TFRecords: checked, planned, preprocessed, split by patient."""

import argparse
import math
import os
import sys
import time

from data_prep.layouts import LAYOUTS
from data_prep.layouts import scan_source
from segkit.covariates import entry_names
from segkit.errors import ConfigError
from segkit.errors import exit_code
from segkit.tables import options_of
from segkit.tables import parse_pairs
from segkit.tables import target

STAGES = {"hash": "hashing sources", "check": "checking cases", "write": "writing shards"}
SHOWN_CLASSES = 12
EXAMPLES = """examples:
  python tools/prepare_data.py --source Task04_Hippocampus --layout msd --out data/hippocampus
  python tools/prepare_data.py --source isbi2012 --layout images --out data/isbi \\
      --layout-option labels=membrane=0,interior=255
  python tools/prepare_data.py --source dsb2018 --layout dsb2018 --out data/nuclei
  python tools/prepare_data.py --source instances_train.json --layout coco --out data/cells
  python tools/prepare_data.py --source Task03_Liver --layout msd --out data/lesions \\
      --instances slices
  python tools/prepare_data.py --source ct:12 --layout phantom --out data/phantom --spacing 2,2,2
  python tools/prepare_data.py --verify --out data/hippocampus

A conversion that was interrupted goes on with the same command. A complete data set whose
sources and options are unchanged is left as it is.
"""


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    args = parse_args(argv)
    tool = verify if args.verify else prepare
    return exit_code(tool, args, interrupted="run the same command again to go on.")


def parse_args(argv):
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--source",
        help="folder of the raw data; for --layout phantom a recipe such as ct:40, for table a CSV",
    )
    add("--layout", help=f"how the source is organised: {', '.join(LAYOUTS)}")
    add("--out", required=True, help="folder of the prepared data set")
    add("--splits", default="kfold", help="kfold, or nnunet for nnU-Net's folds (default kfold)")
    add("--folds", type=int, default=5, help="number of folds (default 5)")
    add(
        "--test-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the patients held back for testing, such as 0.2 (default 0)",
    )
    add("--seed", type=int, default=0, help="key of the split (default 0)")
    add_preparation(add)
    add("--verify", action="store_true", help="only check the data set in --out")
    args = parser.parse_args(argv)
    if not args.verify and (args.source is None or args.layout is None):
        parser.error("give --source and --layout, or --verify")
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    return args


def add_preparation(add):
    """Adds the options that do not depend on how cases are split."""
    add("--workers", type=int, default=os.cpu_count(), help="processes (default: one per CPU)")
    add(
        "--spacing",
        metavar="D,H,W",
        help="voxel size in mm, one number per axis of --orientation, or keep for each case's "
        "own (default: chosen from the data)",
    )
    add(
        "--orientation", help="axes of the prepared arrays (default: SAR, or the coarse axis first)"
    )
    add("--chunk", type=int, help="longest side of a stored chunk (default 160, for 2-D data 2048)")
    add(
        "--chunk-overlap",
        type=int,
        help="overlap of chunks: no less than the largest training patch (default 2/5 of a chunk)",
    )
    add(
        "--layout-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the layout; may be repeated",
    )
    add(
        "--instances",
        metavar="MODE",
        help="make objects of the connected parts of each class: components in 3-D, or slices, "
        "one by one (default: the layout's own objects, if any)",
    )
    add(
        "--normalization",
        metavar="SCHEME",
        help="of all channels: zscore, mean 0 and deviation 1 in each image (default: by their "
        "names)",
    )
    add("--skip-bad", action="store_true", help="leave out cases that cannot be used")
    add("--overwrite", action="store_true", help="replace another data set in --out")


def prepare(args):
    """Converts and prints a summary."""
    dataset, layout_options = scan(args)
    splits = {name: getattr(args, name) for name in ("splits", "folds", "test_share", "seed")}
    options = make_options(args, layout_options, **splits)
    with Progress() as progress:
        convert_dataset(args, dataset, options, progress)


def scan(args):
    """Returns the `RawDataset` of --source, and the options of its layout."""
    declared = options_of(target(LAYOUTS, args.layout, "layout"))
    layout_options = parse_pairs(declared, args.layout_option, "--layout-option")
    return scan_source(args.layout, args.source, **layout_options), layout_options


def make_options(args, layout_options, **more):
    """Returns the `Options` of a conversion; `more` are those that `add_preparation` lacks."""
    from data_prep.convert import Options  # scipy and protobuf: after the checks

    return Options(
        layout=args.layout,
        layout_options=layout_options,
        spacing_mm=parse_spacing(args.spacing),
        orientation=args.orientation,
        chunk=args.chunk,
        chunk_overlap=args.chunk_overlap,
        skip_bad=args.skip_bad,
        instances=args.instances,
        normalization=args.normalization,
        **more,
    )


def convert_dataset(args, dataset, options, progress):
    """Writes a data set, shows how far it is by `progress`, and prints a summary."""
    from data_prep.convert import convert

    start = time.monotonic()
    manifest, written = convert(
        dataset,
        args.out,
        source=args.source,
        options=options,
        workers=args.workers,
        overwrite=args.overwrite,
        progress=progress,
    )
    progress.close()
    if not written:
        print(f"{args.out} is up to date: same sources, same options, all shards in place.")
    summarise(manifest)
    print(f"took      {time.monotonic() - start:.1f} s")
    if manifest["classes"]:
        flat = all(case["shape"][0] == 1 for case in manifest["cases"].values())
        model = "unet" if flat else "unet3d"
        model = "mask_rcnn" if "instances" in manifest else model
        print(f"next      python tools/train.py --model {model} --data {args.out}")


def verify(args):
    """Checks every shard against the manifest."""
    from data_prep.manifest import verify as verify_folder

    with Progress() as progress:
        manifest = verify_folder(
            args.out, progress=lambda done, total: progress("verifying shards", done, total)
        )
    print(
        f"{args.out} is intact: {len(manifest['shards'])} shards, {len(manifest['cases'])} cases."
    )
    return 0


def parse_spacing(text):
    """Returns `"keep"`, three floats, or `None` where the data decides."""
    if text is None or text == "keep":
        return text
    try:
        spacing = tuple(float(part) for part in text.split(","))
    except ValueError:
        spacing = ()
    if len(spacing) != 3:
        raise ConfigError(f"--spacing must be like 1,1,1 or keep, got {text!r}.")
    return spacing


def summarise(manifest):
    """Prints what a data set holds."""
    cases, plan = manifest["cases"].values(), manifest["preprocess"]
    spacing = plan["spacing_mm"]
    shapes = sorted(case["shape"] for case in cases)
    held_back = sum(case["split"] == "test" for case in cases)
    print(f"data set  {manifest['name']}, channels {', '.join(manifest['channels'])}")
    skipped = len(manifest["skipped"])
    print(f"cases     {len(cases)}, of these {held_back} for testing; {skipped} skipped")
    grid = "each case's own" if spacing is None else " x ".join(f"{s:g}" for s in spacing) + " mm"
    print(
        f"grid      {plan['orientation']}, spacing {grid}, median shape {shapes[len(shapes) // 2]}"
    )
    print(f"intensity {', '.join(scheme['scheme'] for scheme in plan['normalization'])}")
    if "roi_margin_mm" in plan:
        kept = sorted(share_kept(case) for case in cases)
        print(
            f"region    {plan['roi_margin_mm']:g} mm around the priors: {kept[0]:.1%} to "
            f"{kept[-1]:.1%} of an image, median {kept[len(kept) // 2]:.1%}"
        )
    voxels = manifest["fingerprint"]["class_voxels"]
    for entry, count in list(zip(manifest["classes"], voxels, strict=False))[:SHOWN_CLASSES]:
        print(f"class     {entry['name']}: {100 * count / sum(voxels):.2f} % of voxels")
    if len(voxels) > SHOWN_CLASSES:
        print(f"class     ... and {len(voxels) - SHOWN_CLASSES} more")
    summarise_table(manifest)
    summarise_objects(manifest)
    for note, count in manifest["fingerprint"]["notes"].items():
        print(f"note      {count} case(s): {note}")
    size = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    print(f"shards    {len(manifest['shards'])}, {size:.1f} MB, {manifest['folds']} folds")


def share_kept(case):
    """Returns the share of an image's voxels that cropping left."""
    return math.prod(high - low for low, high in case["crop"]) / math.prod(case["oriented_shape"])


def summarise_table(manifest):
    """Prints what a table says of the cases beside their files."""
    columns = manifest.get("covariates", [])
    for column in columns:
        kind = f"mean {column.get('mean', 0):.4g}, deviation {column.get('std', 0):.4g}"
        if column["kind"] == "category":
            kind = "one of " + ", ".join(column["categories"])
        print(f"covariate {column['name']}: {kind}; {missing_values(column['missing'])}")
    if columns:
        width = len(entry_names(columns))
        print(f"          together {width} numbers: train with --set model.covariates={width}")
    if "targets" in manifest:
        print(f"target    {', '.join(manifest['targets'])}")
    for number, name in enumerate(manifest["channels"]):
        cases = manifest["cases"].values()
        count = sum(number in case.get("missing_channels", []) for case in cases)
        if count:
            print(f"channel   {name}: missing in {count} case(s), 0 throughout there")


def summarise_objects(manifest):
    """Prints what a data set says of single objects and of kinds of images."""
    kinds = [case["kind"] for case in manifest["cases"].values() if "kind" in case]
    for kind in sorted(set(kinds)):
        print(f"kind      {kind}: {kinds.count(kind)} case(s)")
    if "instances" not in manifest:
        return
    found = manifest["instances"]
    low, middle, high = (found["sides"][n] for n in (1, 3, 5))
    print(
        f"objects   {found['count']}, up to {found['per_case_max']} in a case; sides {low:g} to "
        f"{high:g} voxels, median {middle:g}"
    )
    if found["overlap_voxels"]:
        print(
            f"          {found['overlap_voxels']} voxels of overlapping masks, in "
            f"{found['overlap_cases']} case(s), were given to the smaller object"
        )


def missing_values(count):
    """Returns how missing values of a covariate are dealt with."""
    if not count:
        return "none missing in training"
    return f"{count} missing in training, replaced by the mean and flagged"


class Progress:
    """Bars with the remaining time on a terminal; elsewhere a line at every tenth."""

    def __init__(self):
        self.bar, self.stage, self.tenth = None, None, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the bar that is shown."""
        if self.bar is not None:
            self.bar.close()

    def __call__(self, stage, done, total):
        """Shows that `done` of `total` items of a stage are done."""
        if stage != self.stage:
            self._begin(stage, total)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        elif 10 * done // total > self.tenth:
            self.tenth = 10 * done // total
            print(f"{STAGES.get(stage, stage)}: {done}/{total}", file=sys.stderr)

    def _begin(self, stage, total):
        self.stage, self.tenth = stage, 0
        self.close()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(desc=STAGES.get(stage, stage), total=total)


if __name__ == "__main__":
    sys.exit(main())
