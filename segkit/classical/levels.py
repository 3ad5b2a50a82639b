"""Classes by rank of intensity: levels found by Otsu's criterion, from dark to bright.

The rule of all methods that look at intensities: level 0 is the darkest. The option `classes`
lists the class of each level, such as `[0, 2, 1, 0]`; without it level n is class n.
"""

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import DataError

BINS = 256


def otsu_thresholds(values, levels):
    """Returns the thresholds that split values into levels of largest variance between them.

    Maximises, over all ways to cut the histogram into non-empty runs of bins, the sum over levels
    of `(sum_i p_i x_i)^2 / sum_i p_i`: the variance between levels but for a constant. Dynamic
    programming finds the optimum in time proportional to the levels, where trying all
    combinations grows with their power. Of equally good cuts the darkest is taken.

    Args:
        values: Finite numbers, any shape.
        levels: Number of levels, at least 2.

    Returns:
        float64 array of `levels - 1` increasing thresholds, edges of bins; a value equal to a
        threshold is above it.

    Raises:
        DataError: The values fill fewer bins than `levels`.

    Reference:
        Otsu, IEEE Transactions on Systems, Man, and Cybernetics 9, 1979, equations 12-18 (two)
        and 27 (several levels); Liao, Chen and Chung, Journal of Information Science and
        Engineering 17, 2001, for the additive form. 256 bins over the range of the values.
    """
    counts, edges = np.histogram(np.asarray(values, np.float64), BINS)
    centres = (edges[:-1] + edges[1:]) / 2 - edges[0]
    mass = np.append(0, np.cumsum(counts, dtype=np.float64))
    moment = np.append(0, np.cumsum(counts * centres))
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (moment - moment[:, None]) ** 2 / (mass - mass[:, None])
    gain = np.where(mass > mass[:, None], gain, -np.inf)  # row: first edge, column: last edge
    best, cuts = gain[0], []
    for _ in range(levels - 1):
        total = best[:, None] + gain
        cuts.append(total.argmax(axis=0))
        best = total.max(axis=0)
    if best[-1] == -np.inf:
        raise DataError(
            f"the image has {np.count_nonzero(counts)} distinguishable intensities, which cannot "
            f"make {levels} levels. Ask for fewer."
        )
    at, thresholds = BINS, []
    for cut in reversed(cuts):
        at = cut[at]
        thresholds.append(edges[at])
    return np.array(thresholds[::-1])


def classes_of_levels(method, levels, num_classes, classes):
    """Returns the class of each level, uint8 array.

    Args:
        method: Name of the method, for the messages.
        levels: Number of levels that the method finds; `None` for as many as there are `classes`,
            or without these `num_classes`.
        num_classes: Number of classes, background included.
        classes: Class of each level, from dark to bright, or `None`: level n is class n.

    Raises:
        ConfigError: A class that does not exist, or another number of classes than of levels.
    """
    if classes is None:
        return np.arange(levels or num_classes, dtype=np.uint8)
    if len(classes) < 2 or levels not in (None, len(classes)):
        wanted = "2 or more levels" if levels is None else f"{levels} levels"
        raise ConfigError(
            f"{method} makes {wanted}, from dark to bright: method.classes must list the class of "
            f"each, got {classes}."
        )
    check_classes("classes", classes, num_classes)
    return np.array(classes, dtype=np.uint8)


def check_classes(option, classes, num_classes):
    """Raises `ConfigError` if a class index is not one of `0..num_classes - 1`."""
    for index in classes:
        if not 0 <= index < num_classes:
            raise ConfigError(
                f"method.{option} names the class {index}; there are the classes 0 to "
                f"{num_classes - 1}, 0 is the background."
            )


def class_of_intensity(method, values, num_classes, classes):
    """Returns the function from intensities to classes that Otsu's levels of `values` give.

    Args:
        method: Name of the method, for the messages.
        values: Intensities of the image.
        num_classes: Number of classes, background included.
        classes: As in `classes_of_levels`; its length is the number of levels.
    """
    table = classes_of_levels(method, None, num_classes, classes)
    thresholds = otsu_thresholds(values, len(table))
    return lambda intensities: table[np.searchsorted(thresholds, intensities, side="right")]
