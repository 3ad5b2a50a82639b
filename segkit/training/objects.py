"""Which runs find objects one by one, so that tools can treat them apart. No TensorFlow."""

from pathlib import Path

from segkit.config import load_config
from segkit.errors import SegkitError
from segkit.models import DETECTORS


def finds_objects(folder):
    """Returns whether a run's network finds objects; `False` where there is no run at all.

    Args:
        folder: Run folder, or `None`.
    """
    try:
        config = load_config(Path(folder or "") / "config.yaml")
    except (SegkitError, OSError):
        return False  # whoever loads the run says what is wrong
    return config.model.name in DETECTORS


def parse_args(parser, argv):
    """Parses the arguments of a tool that has a sibling for runs that find objects.

    Args:
        parser: `argparse.ArgumentParser` with an argument `--run`.
        argv: Arguments, `None` for those of the process.

    Returns:
        The parsed arguments, with `objects`: whether the sibling should run, which parses `argv`
        again with options of its own; and `argv`.
    """
    args, further = parser.parse_known_args(argv)
    args.argv, args.objects = argv, finds_objects(args.run)
    if further and not args.objects:
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    return args
