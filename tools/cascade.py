"""Prepares a data set for the second stage of a cascade: what a first stage finds are channels."""

import argparse
import json
import os
import runpy
import shutil
import sys
from dataclasses import replace
from functools import cache
from functools import partial
from pathlib import Path

import yaml

from data_prep.layouts import LAYOUTS
from data_prep.manifest import file_sha256
from data_prep.manifest import load_manifest
from data_prep.manifest import write_json
from data_prep.manifest import write_text
from segkit.config import load_config
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.errors import exit_code
from segkit.errors import writing
from segkit.outputs import ignored_class
from segkit.outputs import read_outputs
from segkit.priors import count_priors

TOOLS = Path(__file__).resolve().parent
PREPARE = runpy.run_path(str(TOOLS / "prepare_data.py"))
MEND = "Free some space, then repeat the command."
RECORD = "proposals.json"
SPLITS = {"splits": str, "folds": int, "test_share": float, "seed": int}
AGAIN = "Give --overwrite to replace the data set, or another --out."

EXAMPLES = """examples:
  python tools/prepare_data.py --source RAW --layout msd --out data/low --spacing 2,2,2
  python tools/cross_validate.py --model unet3d --data data/low --out runs/cv-low
  python tools/cascade.py --first runs/cv-low --source RAW --layout msd --out data/cascade
  python tools/train.py --model unet3d --data data/cascade

  python tools/cascade.py --first runs/cv-low --source RAW --layout msd --out data/roi \\
      --roi-margin 10                      # the second stage sees what is near the first's only

Every case is segmented by a network that was not trained on it. A command that was interrupted
goes on when it is repeated.
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--first", metavar="FOLDER", help="of tools/cross_validate.py, all folds")
    which.add_argument("--method", metavar="NAME", help="a method without training proposes")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the method, see docs/classical.md; may be repeated",
    )
    add("--source", required=True, help="the raw data, of --first those it was prepared from")
    add("--layout", required=True, help=f"how it is organised: {', '.join(LAYOUTS)}")
    add("--out", required=True, help="folder of the prepared data set")
    add(
        "--roi-margin",
        type=float,
        metavar="MM",
        help="cut off all that is farther than this from what the first stage finds",
    )
    add("--devices", default="auto", choices=("auto", "cpu", "gpu"), help="default: auto")
    for name, kind in SPLITS.items():
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=kind, help="of a method, as in tools/prepare_data.py")
    PREPARE["add_preparation"](add)
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    return args


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(cascade, parse_args(argv), interrupted="run the same command to go on.")


def cascade(args):
    """Segments what is missing, converts, and prints a summary."""
    dataset, layout_options = PREPARE["scan"](args)
    out = Path(args.out)
    stage = (Method if args.method else Networks)(args, dataset, out / "first_stage")
    options = PREPARE["make_options"](
        args,
        layout_options,
        roi_margin_mm=args.roi_margin,
        first_stage=stage.about,
        **stage.splits,
    )
    from data_prep.priors import with_priors
    from data_prep.splits import split_cases

    splits = stage.check_splits(split_cases(dataset, options))
    with PREPARE["Progress"]() as progress:
        with writing(out, MEND):
            folder = begin(out, dataset, stage.about, args, partial(progress, "hashing sources"))
            stage.save()
            propose(dataset, splits, stage, folder, args.skip_bad, partial(progress, "segmenting"))
        dataset = with_priors(dataset, folder, stage.classes)
        PREPARE["convert_dataset"](args, dataset, options, progress)


class Networks:
    """The first stage that a cross-validation is: each case by the fold that did not train on it.

    Attributes:
        about: What makes two first stages the same, for the record.
        classes: Class name -> value in its label maps, background first.
        splits: Options of its data set that say how cases are split.
    """

    def __init__(self, args, dataset, saved):
        """Reads what the folds say of themselves; networks are loaded when they are needed.

        Args:
            args: The command line.
            dataset: `RawDataset` to segment.
            saved: Folder that `save` writes.

        Raises:
            ConfigError: Options that go with a method.
            DataError: A fold is not trained to its end, is a cascade or takes other channels.
        """
        for name, default in {"set": [], **dict.fromkeys(SPLITS)}.items():
            if getattr(args, name) != default:
                raise ConfigError(f"--{name.replace('_', '-')} goes with --method. Leave it out.")
        folder = Path(args.first)
        if not (folder / "fold0").is_dir():
            raise DataError(f"{folder} has no fold0. Give a folder of tools/cross_validate.py.")
        self.ensemble = runpy.run_path(str(TOOLS / "ensemble.py"))
        self.folder, self.saved, self.devices = folder, saved, args.devices
        self.folders = self.ensemble["fold_folders"](folder)
        self.manifest = load_manifest(self.folders[0])
        networks = {path.name: file_sha256(path / "model.keras") for path in self.folders}
        self.about = {"data": self.manifest["name"], "networks": networks}
        classes = read_outputs(self.manifest["classes"], {}).classes
        self.classes = {entry["name"]: entry["value"] for entry in classes}
        options = {"test_share": 0.0, **self.manifest["options"]}
        self.splits = {name: options[name] for name in SPLITS}
        if load_config(self.folders[0] / "config.yaml").model.options.get("covariates"):
            raise DataError(
                f"{folder} takes covariates, which a first stage is not given. Train one with "
                "--set model.covariates=0."
            )
        channels = self.manifest["channels"]
        if count_priors(channels):
            raise DataError(
                f"{folder} is a cascade itself: its first stage has trained on every case, so no "
                "fold is free of any. Give a cross-validation of networks without priors."
            )
        if channels != list(dataset.channels):
            raise DataError(
                f"the first stage takes the channels {', '.join(channels)}, the source has "
                f"{', '.join(dataset.channels)}. Give the source that it was prepared from."
            )

    def check_splits(self, splits):
        """Returns the splits of the cases that the networks know; refuses other splits."""
        known = {case: entry["split"] for case, entry in self.manifest["cases"].items()}
        for case, split in splits.items():
            if known.get(case, split) != split:
                raise DataError(
                    f"the split of cases is not the first stage's: {case} is in {split}, and was "
                    f"in {known[case]} there, so a network would segment cases that it has "
                    "trained on. Give the source and --layout-option that it was prepared with."
                )
        return {case: split for case, split in splits.items() if case in known}

    def segmenter(self, split):
        """Returns the function from a `Volume` of a split to class indices on its grid."""
        use(self.devices)
        from segkit.inference.predictor import predict_volume
        from segkit.inference.predictor import predictor_of
        from segkit.training.run import load_run

        run = load_run(self.saved if split == "test" else self.folder / split)
        return partial(predict_volume, predictor_of(run))

    def save(self):
        """Writes the mean of the networks as a run, if it is not there."""
        if (self.saved / "model.keras").is_file():
            return
        use(self.devices)
        runs = self.ensemble["load_members"](self.folders)
        self.ensemble["check_alike"](runs)
        from segkit.models.ensemble import average

        config, manifest = runs[0].config, runs[0].manifest
        # No fold is held out, so that scoring one as if it were is refused.
        config = replace(config, data=replace(config.data, fold=manifest["folds"]))
        about = {"members": [str(path) for path in self.folders]}
        network = average([run.model for run in runs])
        self.ensemble["save_run"](self.saved, config, network, manifest, about)


class Method:
    """The first stage that a method without training is; attributes as of `Networks`."""

    def __init__(self, args, dataset, saved):
        """Checks the name and the options of the method.

        Args:
            args: The command line.
            dataset: `RawDataset` whose classes the method gives.
            saved: Folder that `save` writes.

        Raises:
            ConfigError: No such method or option, or seeds that suit a single image.
        """
        from segkit.classical import parse_options

        options = parse_options(args.method, args.set)
        if options.get("seeds") and options.get("seed_units") != "fraction":
            raise ConfigError("seeds in mm suit one image: give --set seed_units=fraction.")
        names = list(dataset.classes)[: ignored_class(dataset.classes)]
        self.classes = {name: dataset.classes[name] for name in names}
        self.saved = saved
        self.what = {"method": args.method, "num_classes": len(names), "options": options}
        self.about = json.loads(json.dumps(self.what))
        given = {name: getattr(args, name) for name in SPLITS}
        self.splits = {name: value for name, value in given.items() if value is not None}
        self.splits.setdefault("splits", "kfold")

    def check_splits(self, splits):
        """Returns the splits: what has learned nothing knows no case."""
        return splits

    def segmenter(self, split):
        """Returns the function from a `Volume` to class indices on its grid."""
        from segkit.classical import segment

        what = {"num_classes": self.what["num_classes"], **self.what["options"]}
        return lambda volume: segment(self.what["method"], volume, **what)

    def save(self):
        """Writes which method it is."""
        self.saved.mkdir(exist_ok=True)
        write_text(self.saved / "method.yaml", yaml.safe_dump(self.what))


@cache
def use(devices):
    """Loads TensorFlow, with the devices that are asked for."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segkit.training.devices import make_strategy

    if devices != "auto":  # "auto": TensorFlow's own choice, the first GPU if there is one
        make_strategy(f"{devices}:1")


def begin(out, dataset, about, args, progress):
    """Returns the folder of proposals, rid of those of other networks or for other images."""
    from data_prep.convert import hash_sources
    from data_prep.priors import prior_path

    folder = out / "proposals"
    record = {"first_stage": about, "cases": {}}
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    elif (out / "conversion.json").is_file() and not args.overwrite:
        raise DataError(f"{out} holds a data set that is no cascade's. {AGAIN}")
    if record["first_stage"] != about:
        if not args.overwrite:
            raise DataError(f"{folder} was made by another first stage. {AGAIN}")
        record["cases"] = {}
        shutil.rmtree(folder)
        shutil.rmtree(out / "first_stage", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    digests = hash_sources(dataset, args.workers, progress)
    for case, digest in record["cases"].items():
        if digests.get(case) != digest:
            prior_path(folder, case).unlink(missing_ok=True)
    write_json(folder / RECORD, {"first_stage": about, "cases": digests})
    return folder


def propose(dataset, splits, stage, folder, skip_bad, progress):
    """Writes the label maps that are missing, one split after another."""
    from data_prep.preprocess import to_values
    from data_prep.priors import prior_path
    from segkit.io.nifti import write_nifti

    cases = [case for case in dataset.cases if case.id in splits]
    missing = [case for case in cases if not prior_path(folder, case.id).is_file()]
    loaded = None
    for case in sorted(missing, key=lambda case: splits[case.id]):
        if splits[case.id] != loaded:
            loaded = splits[case.id]
            segment = stage.segmenter(loaded)
        try:
            found = segment(dataset.read(case)[0])
        except SegkitError as error:
            if not skip_bad:
                raise type(error)(f"case {case.id}: {error}") from None
        else:
            found = replace(found, array=to_values(found.array, stage.classes))
            write_nifti(prior_path(folder, case.id), found)
        missing.remove(case)
        progress(len(cases) - len(missing), len(cases))


if __name__ == "__main__":
    sys.exit(main())
