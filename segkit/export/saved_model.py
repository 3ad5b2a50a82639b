"""A predictor as a versioned SavedModel: raw image in, class indices out, plain TensorFlow.

The layout is TensorFlow Serving's: `FOLDER/1`, `FOLDER/2`, ... A version appears under its number
only after it was loaded back and found to do what the predictor does.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from segkit.errors import ExportError

CARD = "segkit.json"
TOLERANCE = 1e-5


def export_saved_model(predictor, folder, *, examples, card, version=None):
    """Writes the next version of a model, checked against the predictor.

    Signatures, both from `image` float32 `(depth, height, width, channels)`, `spacing_mm` float32
    `(3,)` and, of a network that takes them, `covariates` float32 `(num_covariates,)`, encoded as
    `segkit.covariates.encode` does: `serving_default` gives `mask` int32 `(depth, height, width)`
    and `probabilities` float32 `(depth, height, width, channels)`, of classes or of regions;
    `mask` gives `mask` alone and never holds full-resolution probabilities.

    Args:
        predictor: `tf.Module` with `num_channels`, `num_covariates`, `class_order`, and
            `segment` and `probabilities` of `(image, spacing_mm, covariates=None)`; it must track
            each of its variables.
        folder: Folder of the model; made if missing.
        examples: Iterable of `(image, spacing_mm)`, with covariates `(image, spacing_mm,
            covariates)`, to compare predictor and export on, at least one.
        card: Dict of what a user must know, written to `assets/segkit.json` with the version and
            the result of the comparison.
        version: Positive number; `None` for one more than the largest there is.

    Returns:
        `Path` of the version's folder.

    Raises:
        ExportError: The version exists, the folder cannot be written, or the reloaded model gives
            another result; nothing is left behind.
    """
    return write_version(
        predictor,
        folder,
        signatures=_signatures(predictor),
        check=lambda saved: check_parity(predictor, saved, examples),
        card=card,
        version=version,
    )


def write_version(module, folder, *, signatures, check, card, version=None):
    """Writes the next version of a model, which appears only if it passes a check.

    Args:
        module: `tf.Module` that tracks each of its variables.
        folder: Folder of the model; made if missing.
        signatures: Dict name -> `tf.function` with a signature.
        check: Function of the folder of the SavedModel that returns what the card is to say of the
            comparison, a dict, or raises an error.
        card: Dict of what a user must know, written to `assets/segkit.json` with the version and
            the result of the check.
        version: Positive number; `None` for one more than the largest there is.

    Returns:
        `Path` of the version's folder.

    Raises:
        ExportError: As `export_saved_model`.
    """
    folder = Path(folder)
    version = version or next_version(folder)
    target, partial = folder / str(version), folder / f".{version}.{os.getpid()}.partial"
    if target.exists():
        raise ExportError(f"{target} exists already. Leave out the version to add the next one.")
    try:
        partial.mkdir(parents=True)
        tf.saved_model.save(module, str(partial), signatures=signatures)
        parity = check(partial)
        (partial / "assets").mkdir(exist_ok=True)
        text = json.dumps({**card, "version": version, "parity": parity}, indent=1)
        (partial / "assets" / CARD).write_text(text + "\n", encoding="utf-8")
        partial.rename(target)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def next_version(folder):
    """Returns one more than the largest version number in a model's folder, 1 if there is none."""
    folder = Path(folder)
    names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


def check_parity(predictor, folder, examples):
    """Loads a SavedModel back and compares it with the predictor.

    Probabilities must agree within `TOLERANCE`, and masks in every voxel but those whose two
    likeliest classes differ by less than that, or with a region that near to 1/2.

    Args:
        predictor: As for `export_saved_model`.
        folder: Folder of the SavedModel.
        examples: As in `export_saved_model`.

    Returns:
        Dict `{"examples": count, "max_probability_difference": float}`.

    Raises:
        ExportError: If they differ, or there is no example.
    """
    signatures = tf.saved_model.load(str(folder)).signatures
    count, largest = 0, 0.0
    for count, example in enumerate(examples, start=1):
        named = zip(("image", "spacing_mm", "covariates"), example, strict=False)
        inputs = {name: tf.convert_to_tensor(value, tf.float32) for name, value in named}
        mask, probabilities = predictor.probabilities(**inputs)
        served = signatures["serving_default"](**inputs)
        difference = np.abs(served["probabilities"] - probabilities).max()
        decided = _margin(probabilities.numpy(), predictor.class_order) > TOLERANCE
        masks = [served["mask"], signatures["mask"](**inputs)["mask"]]
        wrong = max(int((decided & (m.numpy() != mask.numpy())).sum()) for m in masks)
        if wrong or not difference <= TOLERANCE:
            raise ExportError(
                f"the exported model differs from the trained one on example {count}: {wrong} "
                f"voxels, probabilities by up to {difference:.2g} (at most {TOLERANCE:g} allowed). "
                "Nothing was exported; please report this with the versions of TensorFlow and "
                "Keras."
            )
        largest = max(largest, float(difference))
    if not count:
        raise ExportError("an export is checked on at least one example, got none.")
    return {"examples": count, "max_probability_difference": largest}


def _margin(probabilities, class_order):
    """How far each voxel is from being decided otherwise, `(depth, height, width)`."""
    if class_order:
        return np.abs(probabilities - 0.5).min(axis=-1)
    top = np.partition(probabilities, -2, axis=-1)
    return top[..., -1] - top[..., -2]


def _signatures(predictor):
    specification = [
        tf.TensorSpec((None, None, None, predictor.num_channels), tf.float32, name="image"),
        tf.TensorSpec((3,), tf.float32, name="spacing_mm"),
    ]
    if predictor.num_covariates:
        width = predictor.num_covariates
        specification.append(tf.TensorSpec((width,), tf.float32, name="covariates"))

    def serve(image, spacing_mm, covariates=None):
        mask, probabilities = predictor.probabilities(image, spacing_mm, covariates=covariates)
        return {"mask": mask, "probabilities": probabilities}

    def mask_only(image, spacing_mm, covariates=None):
        return {"mask": predictor.segment(image, spacing_mm, covariates=covariates)}

    return {
        "serving_default": tf.function(serve, input_signature=specification),
        "mask": tf.function(mask_only, input_signature=specification),
    }
