"""Priors: what the first stage of a cascade found, as channels of 0 and 1 behind the image's own.

A data set tells them by their names, `prior:CLASS`; its plan by their scheme of normalisation.
"""

PREFIX = "prior:"
SCHEME = "prior"  # of `preprocess.normalise`: values stay as they are


def prior_names(classes):
    """Returns the names of the channels of priors, one per class but the background.

    Args:
        classes: Names of the first stage's classes, background first.
    """
    return tuple(f"{PREFIX}{name}" for name in list(classes)[1:])


def planned_priors(normalization):
    """Returns how many of a plan's channels are priors: the last ones.

    Args:
        normalization: The plan's dict per channel.
    """
    return sum(scheme["scheme"] == SCHEME for scheme in normalization)


def without_priors(channels):
    """Returns the names of the channels that are no priors, as a list."""
    return [name for name in channels if not name.startswith(PREFIX)]


def count_priors(channels):
    """Returns how many of a data set's channels are priors: the last ones.

    Args:
        channels: Names of the channels.
    """
    return sum(name.startswith(PREFIX) for name in channels)
