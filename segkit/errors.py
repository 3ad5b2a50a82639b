"""Errors that a user can mend: one line each, saying what, where and how."""

import difflib


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
