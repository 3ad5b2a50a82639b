"""Tabulates what the networks cost and see, or draws one; nothing is trained."""

import argparse
import contextlib
import csv
import math
import os
import sys
from pathlib import Path
from typing import NamedTuple

from segkit.config import load_config
from segkit.errors import ConfigError
from segkit.errors import SegkitError
from segkit.errors import exit_code
from segkit.errors import writing
from segkit.models import GENERATORS
from segkit.models import MODELS
from segkit.tables import is_own
from segkit.tables import target

# Configs of generators, which are named by what they are for.
GANS = ("spade_gan", "dcgan", "style_gan", "inpaint_gan", "enhance_gan", "cycle_gan")
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS = (".png", ".pdf", ".svg")
EXAMPLES = """examples:
  python tools/models.py                                          # all, as in configs/NAME.yaml
  python tools/models.py --input 40 56 40 1 --csv models.csv
  python tools/models.py --model unet3d --set model.filters=32 --set train.precision=mixed_bfloat16
  python tools/models.py --config my.yaml --classes 4
  python tools/models.py --model unet --draw unet.png
  python tools/models.py --model mypackage.nets:small_net --input 64 64 1

For one example: multiply-adds of all kernels; forward: the most that activations take at a time;
training: all of them, which is what the backward pass may need (XLA keeps less). Sees: the
receptive field, the box of input voxels that one output voxel depends on, through convolutions and
pooling, in voxels.
"""


class Plan(NamedTuple):
    """A network to be measured: its name, options, input `(*sides, channels)` and precision."""

    name: str
    options: dict
    input_shape: tuple
    precision: str


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, which = parser.add_argument, parser.add_mutually_exclusive_group()
    which.add_argument("--model", nargs="+", metavar="NAME", help="default: all")
    which.add_argument("--config", metavar="FILE", help="the model of a configuration")
    add(
        "--input",
        type=int,
        nargs="+",
        metavar="N",
        help="sides and channels (default: data.patch_size of each config, one channel)",
    )
    add("--classes", type=int, default=2, metavar="N", help="background included (default: 2)")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="override a config key")
    add("--csv", metavar="FILE", help="also write the table, with whole numbers, as CSV")
    add("--draw", metavar="FILE", help="draw the network: .png, .pdf or .svg; one model only")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(tabulate, parse_args(argv), interrupted="the table is not complete.")


def tabulate(args):
    """Measures, prints, and writes what was asked for."""
    check(args)
    asked = [args.config] if args.config else args.model
    rows, plans, notes = [], [], []
    for name in asked or (*MODELS, *GANS):
        with noting(name, notes, strict=asked):
            plans.append(read_plan(name, args))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for plan in plans:
        with noting(plan.name, notes, strict=asked):
            measures = measure(plan, args.classes)
            rows.append(row(plan, args.classes, measures))
            notes += remarks(plan, measures)
    print(table(rows))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if args.csv:
        write_csv(args.csv, rows)
    if args.draw:
        draw(args.draw, plan, measures)


@contextlib.contextmanager
def noting(name, notes, *, strict):
    """Makes a mistake a note, unless `strict`: a network that does not fit among all of them."""
    try:
        yield
    except SegkitError as error:
        if strict:
            raise
        notes.append(f"{name}: {error}")


def check(args):
    """Refuses options that make no sense, before TensorFlow is imported."""
    if args.input and (min(args.input) < 1 or len(args.input) not in (3, 4)):
        raise ConfigError(
            f"--input must be 2 or 3 sides and the number of channels, got {args.input}."
        )
    if args.draw and not (args.config or len(args.model or ()) == 1):
        raise ConfigError("--draw draws one network. Name it with --model or --config.")
    for option, path, endings in (("draw", args.draw, KINDS), ("csv", args.csv, (".csv",))):
        if path and Path(path).suffix not in endings:
            raise ConfigError(f"--{option} must end in {', '.join(endings)}, got {path!r}.")


def read_plan(name, args):
    """Returns the `Plan` of a configuration file, of a model by name, or of one's own."""
    if args.config is None:
        target(MODELS | dict.fromkeys(GANS, ""), name, "model")
    if is_own(name) and args.config is None:
        if args.set or not args.input:
            raise ConfigError(
                f"{name} has no config to take sides and options from. Give --input and no --set, "
                "or write a config and give it with --config."
            )
        return Plan(name, {}, tuple(args.input), "float32")
    path = args.config or CONFIGS / f"{name}.yaml"
    config = load_config(path, args.set, {"model": MODELS | GENERATORS})
    shape = tuple(args.input or (*config.data.patch_size, 1))
    return Plan(config.model.name, config.model.options, shape, config.train.precision)


def measure(plan, num_classes):
    """Returns the `Measures` of a plan."""
    from segkit.models.measure.network import measure_network

    return measure_network(
        plan.name, num_classes, plan.input_shape, precision=plan.precision, **plan.options
    )


def row(plan, num_classes, measures):
    """Returns what the CSV holds of a network, column -> value."""
    costs = measures.costs
    return {
        "model": plan.name,
        "input": times(plan.input_shape),
        "classes": num_classes,
        "precision": plan.precision,
        "parameters": costs.parameters,
        "multiply_adds": costs.multiply_adds,
        "forward_bytes": costs.forward_bytes,
        "training_bytes": costs.training_bytes,
        "receptive_field": times(measures.field) if measures.field else "unknown",
    }


def remarks(plan, measures):
    """Yields what the numbers of a network leave out."""
    if measures.costs.uncounted:
        names = ", ".join(measures.costs.uncounted)
        yield f"{plan.name}: the multiply-adds leave out the products of {names}."
    if measures.unknown:
        names = ", ".join(measures.unknown)
        yield f"{plan.name}: it is not known what {names} read, so the receptive field is not."


def table(rows):
    """Returns the rows as text, in millions, thousands of millions and MiB."""
    cells = [("model", "input", "parameters", "multiply-adds", "forward", "training", "sees")]
    for entry in rows:
        cells.append(
            (
                entry["model"],
                entry["input"],
                f"{entry['parameters'] / 1e6:.2f} M",
                f"{entry['multiply_adds'] / 1e9:.3f} G",
                f"{entry['forward_bytes'] / 2**20:.1f} MiB",
                f"{entry['training_bytes'] / 2**20:.1f} MiB",
                entry["receptive_field"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *others in cells:
        numbers = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *numbers]))
    return "\n".join(lines)


def write_csv(path, rows):
    """Writes the table with whole numbers, memory in bytes."""
    with (
        writing(path, "Name another --csv."),
        open(path, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def draw(path, plan, measures):
    """Draws a network."""
    from segkit.models.measure.drawing import draw_network

    title = f"{plan.name}: {measures.costs.parameters / 1e6:.2f} M parameters"
    with writing(path, "Name another --draw."):
        draw_network(path, measures.graph, title)
    print(f"\n{path}")


def times(sides):
    """Returns `"40 x 56 x 40"`; a side that is all of the image is `all`."""
    return " x ".join("all" if side == math.inf else str(side) for side in sides)


if __name__ == "__main__":
    sys.exit(main())
