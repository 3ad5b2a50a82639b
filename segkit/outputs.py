"""What the channels of a network stand for: classes, or regions, sets of classes that may overlap.

It follows from the classes of a data set and the options of a loss, and from nothing else, so
training, scores, prediction and export cannot differ in it.
"""

from dataclasses import dataclass
from dataclasses import field

from segkit.errors import ConfigError
from segkit.errors import DataError

IGNORE = "ignore"  # nnU-Net's name of the class of voxels that count for nothing


@dataclass(frozen=True)
class Outputs:
    """What a network tells apart.

    Attributes:
        classes: The classes that a prediction may hold, background first: the entries `name` and
            `value` of the data set's, without the one to be ignored.
        ignore_label: Index of the class whose voxels count for nothing, or `None`.
        regions: Dict name -> class indices, one per channel, in order; empty where each class has
            a channel.
        class_order: The class that each region paints in a label map, one region after another;
            empty without regions.
    """

    classes: list
    ignore_label: int | None = None
    regions: dict = field(default_factory=dict)
    class_order: tuple = ()

    @property
    def num_channels(self):
        """Number of logits per voxel."""
        return len(self.regions or self.classes)

    @property
    def names(self):
        """Names of what is counted while training, background first: classes, or regions."""
        if self.regions:
            return ["background", *self.regions]
        return [entry["name"] for entry in self.classes]


def read_outputs(classes, loss):
    """Returns the `Outputs` of a network.

    Args:
        classes: The manifest's `"classes"`; the last one is left out if its name is `ignore`.
        loss: Options of the loss; with `regions` among them, each region has a channel.

    Raises:
        DataError: If the class `ignore` is not the last one.
        ConfigError: If the options name another label to ignore, regions do not fit the classes
            or stand within a sum of losses, or it is not clear which class a region paints.
    """
    names = [entry["name"] for entry in classes]
    ignore_label = ignored_class(names)
    kept = classes[:ignore_label]
    for options in _with_parts(loss):
        _check_ignore_label(options.get("ignore_label"), ignore_label)
        if "regions" in options and options is not loss:
            raise ConfigError(
                "loss.parts: a loss over regions cannot be part of a sum, whose other parts take "
                "one channel per class. Use it as the loss itself."
            )
    if "regions" not in loss:
        return Outputs(kept, ignore_label)
    regions = {name: tuple(region) for name, region in loss["regions"].items()}
    order = painting_order(regions, loss.get("class_order"))
    _check_foreground(regions, len(kept))
    return Outputs(kept, ignore_label, regions, order)


def ignored_class(names):
    """Returns the index of the class `ignore`, or `None` if there is none.

    Args:
        names: Names of all classes, in order.

    Raises:
        DataError: If it is not the last one.
    """
    if IGNORE not in names:
        return None
    names = list(names)
    if names[-1] != IGNORE or len(names) == 1:
        raise DataError(
            f"the class {IGNORE!r} must be the last, the one with the highest label value, got "
            f"the classes {', '.join(names)}. Change its value in the labels."
        )
    return len(names) - 1


def check_regions(regions, class_order=None):
    """Checks regions, and the classes that they paint if these are given.

    Args:
        regions: Dict name -> class indices.
        class_order: For each region, the class that it paints; `None` to check regions alone.

    Raises:
        ConfigError: If there is no region, a region has no class, a class index is negative, or
            `class_order` does not name one class of each region.
    """
    if not regions or any(not region or min(region) < 0 for region in regions.values()):
        raise ConfigError(
            "loss.regions must give each name a list of class indices, such as "
            f"{{whole: [1, 2, 3], core: [2, 3], enhancing: [3]}}, got {regions}."
        )
    if class_order is None:
        return
    if len(class_order) != len(regions) or any(
        index not in region for index, region in zip(class_order, regions.values(), strict=True)
    ):
        raise ConfigError(
            f"loss.class_order must name one class of each of the {len(regions)} regions, in "
            f"their order, got {list(class_order)} for {_shown(regions)}."
        )


def painting_order(regions, class_order=None):
    """Returns the class that each region paints in a label map, one region after another.

    Args:
        regions: Dict name -> class indices.
        class_order: The answer, where it is given. Without it a region paints the class that is
            in none of the regions after it.

    Returns:
        Tuple of class indices.

    Raises:
        ConfigError: As `check_regions`, or without `class_order` if a region leaves no class or
            several to paint.

    Example:
        >>> painting_order({"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]})
        (1, 2, 3)
    """
    check_regions(regions, class_order)
    if class_order is not None:
        return tuple(class_order)
    order, later = [], set()
    for name, region in reversed(regions.items()):
        own = set(region) - later
        if len(own) != 1:
            raise ConfigError(
                f"loss.class_order is needed: the region {name!r} of {_shown(regions)} has "
                f"{len(own)} classes that are in no later region, where one would be painted. "
                "List the class that each region paints; later ones paint over earlier ones."
            )
        order += own
        later |= set(region)
    return tuple(reversed(order))


def _with_parts(loss):
    """Yields the options of a loss, and of its parts if it is a sum."""
    yield loss
    for part in loss.get("parts", ()):
        for options in part.values():
            yield from _with_parts(options or {})


def _check_ignore_label(given, index):
    if given is None or given == index:
        return
    if index is None:
        raise ConfigError(
            f"loss.ignore_label is {given}, but the data set has no class to ignore. Name that "
            f"class {IGNORE!r} where the data set is described, prepare it again, and leave out "
            "loss.ignore_label."
        )
    raise ConfigError(
        f"loss.ignore_label is {given}, but the data set's class {IGNORE!r} has the index {index}. "
        "Leave it out: it is set by itself."
    )


def _check_foreground(regions, num_classes):
    for name, region in regions.items():
        for index in region:
            if not 0 < index < num_classes:
                raise ConfigError(
                    f"loss.regions: {name!r} holds {index}, which is no foreground class of the "
                    f"data set; they have the indices 1 to {num_classes - 1}."
                )


def _shown(regions):
    return ", ".join(f"{name} {list(region)}" for name, region in regions.items())
