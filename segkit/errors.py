"""Errors that a user can mend: one line each, saying what, where and how."""

import contextlib
import difflib
import sys


class SegkitError(ValueError):
    """Base of all errors caused by the user's input; tools print it and exit with code 2."""


class ConfigError(SegkitError):
    """A configuration key, value or option is wrong."""


class DataError(SegkitError):
    """A file, folder or record cannot be read as what it should be."""


class ShapeError(SegkitError):
    """Arrays or layers do not fit each other."""


class ExportError(SegkitError):
    """An exported model does not do what the trained one does."""


def nearest(name, known):
    """Ends an error message: the nearest match to `name`, then all that is `known`.

    Args:
        name: What the user wrote.
        known: Iterable of the accepted names.

    Returns:
        Text such as `"Did you mean 'unet'? Known: fcn8s, unet."`.
    """
    known = sorted(str(k) for k in known)
    match = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"Did you mean {match[0]!r}? " if match else ""
    return f"{hint}Known: {', '.join(known)}."


@contextlib.contextmanager
def writing(path, mend):
    """Turns an `OSError` of the block, such as a full disk, into a `DataError`.

    Args:
        path: What is being written, for the message.
        mend: What the user can do, one sentence.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot write {path}: {reason}. {mend}") from error


def exit_code(tool, args, *, interrupted):
    """Runs a command-line tool and returns its exit code.

    Args:
        tool: Function of the parsed arguments.
        args: What `tool` is called with.
        interrupted: Said on Ctrl-C: what was kept, and how to go on.

    Returns:
        0; 2 after a `SegkitError`, which is printed as one line; 130 after Ctrl-C. Any other
        exception is a bug and keeps its traceback.
    """
    try:
        tool(args)
    except SegkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted: {interrupted}\n")
        return 130
    return 0
