"""A detector as a versioned SavedModel: raw image in, boxes and masks out, plain TensorFlow."""

import numpy as np
import tensorflow as tf

from segkit.errors import ExportError
from segkit.export.saved_model import write_version

# Of pixels, and of scores and probabilities.
TOLERANCES = {"boxes": 1e-2, "scores": 1e-4, "classes": 0, "masks": 1e-3, "slices": 1e-4}


def export_detector(detector, folder, *, examples, card, version=None):
    """Writes the next version of a model, checked against the detector.

    The signature `serving_default` goes from `image` float32 `(depth, height, width, channels)` and
    `spacing_mm` float32 `(3,)` to what `segkit.inference.detector.Detector.serve` returns.

    Args:
        detector: `tf.Module` with `num_channels` and `serve`; it must track each of its variables.
        folder: Folder of the model; made if missing.
        examples: Iterable of `(image, spacing_mm)` to compare on, at least one.
        card: Dict of what a user must know.
        version: Positive number; `None` for one more than the largest there is.

    Returns:
        `Path` of the version's folder.

    Raises:
        ExportError: As `segkit.export.saved_model.export_saved_model`.
    """
    specification = [
        tf.TensorSpec((None, None, None, detector.num_channels), tf.float32, name="image"),
        tf.TensorSpec((3,), tf.float32, name="spacing_mm"),
    ]
    serve = tf.function(detector.serve, input_signature=specification)
    return write_version(
        detector,
        folder,
        signatures={"serving_default": serve},
        check=lambda saved: check_parity(detector, saved, examples),
        card=card,
        version=version,
    )


def check_parity(detector, folder, examples):
    """Loads a SavedModel back and compares all that it finds with the detector.

    Args:
        detector: As for `export_detector`.
        folder: Folder of the SavedModel.
        examples: As there.

    Returns:
        Dict `{"examples": count, "objects": count, "max_box_difference": pixels,
        "max_mask_difference": probability}`.

    Raises:
        ExportError: If they differ by more than `TOLERANCES`, or there is no example.
    """
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    count, objects, largest = 0, 0, dict.fromkeys(TOLERANCES, 0.0)
    for count, (image, spacing_mm) in enumerate(examples, start=1):
        inputs = [tf.convert_to_tensor(value, tf.float32) for value in (image, spacing_mm)]
        expected = {name: v.numpy() for name, v in detector.serve(*inputs).items()}
        served = serve(image=inputs[0], spacing_mm=inputs[1])
        served = _in_order({name: v.numpy() for name, v in served.items()}, expected)
        for name, tolerance in TOLERANCES.items():
            difference = _difference(served[name], expected[name])
            if not difference <= tolerance:
                raise ExportError(
                    f"the exported model differs from the trained one on example {count}: {name} "
                    f"by up to {difference:.2g} (at most {tolerance:g} allowed). Nothing was "
                    "exported; please report this with the versions of TensorFlow and Keras."
                )
            largest[name] = max(largest[name], difference)
        objects += int(np.count_nonzero(expected["scores"]))
    if not count:
        raise ExportError("an export is checked on at least one example, got none.")
    return {
        "examples": count,
        "objects": objects,
        "max_box_difference": largest["boxes"],
        "max_mask_difference": largest["masks"],
    }


def _in_order(served, expected):
    """Puts the objects served in the order expected: the last digit of a score can change it.

    Each takes the place of the nearest expected box of its class. What is missing or too much then
    differs.
    """
    if any(served[name].shape != expected[name].shape for name in TOLERANCES):
        return served
    ordered = {name: value.copy() for name, value in served.items()}
    for index, scores in enumerate(expected["scores"]):
        there = np.flatnonzero(scores > 0)
        one, other = ({n: v[index] for n, v in found.items()} for found in (expected, served))
        distance = np.abs(one["boxes"][there, None] - other["boxes"][None]).max(axis=-1)
        distance[one["classes"][there, None] != other["classes"][None]] = np.inf
        nearest = distance.argmin(axis=1)
        if len(np.unique(nearest)) < len(nearest):
            continue
        for name in ("boxes", "scores", "classes", "masks"):
            ordered[name][index, there] = other[name][nearest]
    return ordered


def _difference(served, expected):
    if served.shape != expected.shape:
        return float("inf")
    return float(np.abs(served.astype(float) - expected).max(initial=0))
