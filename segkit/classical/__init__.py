"""Segmentation without learned weights, by name: functions `(volume, num_classes) -> labels`.

A method takes a `Volume` of one float32 channel and returns class indices on its grid. The rules
that give its regions their classes are in `levels.py` (by rank of intensity) and `seeds.py`.
"""

from segkit.errors import ConfigError
from segkit.tables import check_options
from segkit.tables import load
from segkit.tables import options_of
from segkit.tables import parse_pairs
from segkit.tables import target

METHODS = {
    "otsu": "segkit.classical.threshold:otsu",
    "multi_otsu": "segkit.classical.threshold:multi_otsu",
    "hysteresis": "segkit.classical.threshold:hysteresis",
    "adaptive_threshold": "segkit.classical.threshold:adaptive_threshold",
    "region_growing": "segkit.classical.region_growing:region_growing",
    "confidence_connected": "segkit.classical.region_growing:confidence_connected",
    "sobel": "segkit.classical.edges:sobel",
    "canny": "segkit.classical.edges:canny",
    "watershed": "segkit.classical.watershed:watershed",
    "random_walker": "segkit.classical.random_walker:random_walker",
    "active_contour": "segkit.classical.active_contour:active_contour",
    "chan_vese": "segkit.classical.active_contour:chan_vese",
}
# What is done to the image before any method: its options are options of every method.
IMAGE = {"image": "segkit.classical.image:one_channel"}


def check_method(name, options):
    """Checks the name and the options of a method without importing it.

    Args:
        name: Key of `METHODS`.
        options: Dict option -> value: keyword-only arguments of the method, or of `one_channel`.

    Returns:
        `(of_image, of_method)`: the options, told apart.

    Raises:
        ConfigError: Unknown name or option, missing option, or a value of the wrong type.
    """
    shared = options_of(IMAGE["image"])
    of_image = {key: value for key, value in options.items() if key in shared}
    of_method = {key: value for key, value in options.items() if key not in shared}
    also = [key for key, option in shared.items() if option.keyword_only]
    check_options(METHODS, name, of_method, "method", also=also)
    check_options(IMAGE, "image", of_image, "method")
    return of_image, of_method


def parse_options(name, pairs):
    """Returns the options of a method that a command line sets, checked.

    Args:
        name: Key of `METHODS`.
        pairs: Strings `key=value`, the value in YAML.

    Raises:
        ConfigError: As `check_method`, or a string that is no such pair.
    """
    declared = options_of(target(METHODS, name, "method")) | options_of(IMAGE["image"])
    options = parse_pairs(declared, pairs, "--set")
    check_method(name, options)
    return options


def count_classes(options):
    """Returns the number of classes that a method's options speak of, at least 2.

    One more than the highest class index in `classes` and `seeds`.
    """
    named = [*(options.get("classes") or ()), *(options.get("seeds") or {})]
    return max([1, *named]) + 1


def segment(name, volume, num_classes, **options):
    """Segments an image of any orientation on its own grid.

    The result does not depend on how the image is stored: methods see its axes turned to `"SAR"`.

    Args:
        name: Key of `METHODS`.
        volume: `Volume`, array `(depth, height, width[, channels])`; depth 1 for a 2-D image.
        num_classes: Number of classes, background included, at most 256.
        **options: Keyword-only arguments of the method, and of `one_channel`, which every method
            takes: `channel`, `box`, `smooth_mm`, `grid_mm`.

    Returns:
        `Volume` of uint8 class indices with the shape and affine of `volume`; 0 outside the box.

    Raises:
        ConfigError: Unknown name, or an option that does not exist or does not fit the image.
        DataError: The image is constant, or holds NaN or infinite values.
    """
    of_image, of_method = check_method(name, options)
    if num_classes > 256:
        raise ConfigError(f"methods tell up to 256 classes apart, got {num_classes}.")
    import numpy as np  # after the checks

    from segkit.classical.image import box_slices
    from segkit.classical.image import labels_onto
    from segkit.classical.image import one_channel
    from segkit.volume import CANONICAL
    from segkit.volume import Volume

    oriented = volume.oriented(CANONICAL)
    channel = one_channel(oriented, **of_image)
    found = load(METHODS, name, "method")(channel, num_classes, **of_method)
    labels = np.zeros(oriented.shape, np.uint8)
    inside = box_slices(oriented.shape, of_image.get("box"))
    labels[inside] = labels_onto(found, labels[inside].shape)
    back = Volume(labels, oriented.affine).oriented(volume.orientation)
    return Volume(np.ascontiguousarray(back.array), volume.affine)
