"""What all losses share: labels and logits that fit, ignored voxels, class weights, means.

Labels are class indices, or class probabilities (soft labels), as mixing examples makes them.
"""

from typing import NamedTuple

from keras import backend
from keras import ops

from segkit.errors import ConfigError
from segkit.errors import ShapeError


class Voxels(NamedTuple):
    """Labels and logits of a batch, with the voxels to be ignored blanked out.

    Attributes:
        labels: Class indices, int32 `(batch, *spatial)`, 0 where ignored; or soft labels,
            float32 `(batch, *spatial, classes)`.
        logits: float32 `(batch, *spatial, classes)`; 0 where ignored, without a gradient.
        valid: float32 `(batch, *spatial)`: 1 where a voxel counts, 0 where it is ignored; `None`
            if all count.
    """

    labels: object
    logits: object
    valid: object


def read_voxels(y_true, y_pred, ignore_label=None):
    """Checks labels and logits against each other and returns them as `Voxels`.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`; or soft labels, class
            probabilities of any float dtype, shape `(batch, *spatial, classes)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        ignore_label: Voxels of this class index count for nothing; `None`: all voxels count.

    Raises:
        ConfigError: If there is an `ignore_label` and the labels are soft.
        ShapeError: If the shapes do not fit; sides that are unknown at this time fit any other.
    """
    check_shapes(y_true, y_pred)
    logits = ops.cast(y_pred, "float32")
    if ignore_label is not None:
        check_indices(y_true, y_pred, "ignore_label")
    if is_soft(y_true, y_pred):
        return Voxels(ops.cast(y_true, "float32"), logits, None)
    labels = ops.cast(y_true, "int32")
    if ignore_label is None:
        return Voxels(labels, logits, None)
    valid = ops.not_equal(labels, ignore_label)
    logits = ops.where(ops.expand_dims(valid, -1), logits, 0.0)
    return Voxels(ops.where(valid, labels, 0), logits, ops.cast(valid, "float32"))


def check_shapes(y_true, y_pred):
    """Checks that labels lie on the voxels of the logits.

    Args:
        y_true: Labels, to be of shape `(batch, *spatial)`, or floats `(batch, *spatial, classes)`.
        y_pred: Logits, to be of shape `(batch, *spatial, classes)`.

    Raises:
        ShapeError: If they are not; sides that are unknown at this time fit any other.
    """
    labels, logits = tuple(y_true.shape), tuple(y_pred.shape)
    expected = logits if is_soft(y_true, y_pred) else logits[:-1]
    fits = len(labels) == len(expected) and all(
        a == b or a is None or b is None for a, b in zip(labels, expected, strict=True)
    )
    if not fits:
        dtype = backend.standardize_dtype(y_true.dtype)
        raise ShapeError(
            f"labels must be class indices of shape {logits[:-1]} or float class probabilities of "
            f"shape {logits} for logits {logits}, got {labels} of {dtype}. Drop a last axis of 1, "
            "or take argmax of one-hot labels."
        )


def check_indices(y_true, y_pred, what):
    """Checks that labels are class indices, for `what` has no meaning with soft ones.

    Raises:
        ConfigError: If they are class probabilities.
    """
    if is_soft(y_true, y_pred):
        raise ConfigError(
            f"{what} needs labels that are class indices, got class probabilities of shape "
            f"{tuple(y_true.shape)}. Leave mixing, such as mixup, out of the augmentation, or "
            f"train without {what}."
        )


def is_soft(y_true, y_pred):
    """Returns whether the labels are class probabilities: floats with as many axes as logits."""
    return len(y_true.shape) == len(y_pred.shape) and backend.is_float_dtype(y_true.dtype)


def class_probabilities(voxels):
    """Returns labels as class probabilities: soft ones as they are, indices as 0 and 1.

    Args:
        voxels: `Voxels`. A class index outside `[0, classes)` belongs to no class.

    Returns:
        float32 tensor, shape `(batch, *spatial, classes)`; 0 at ignored voxels.
    """
    if is_soft(voxels.labels, voxels.logits):
        return voxels.labels
    truth = ops.one_hot(voxels.labels, voxels.logits.shape[-1], dtype="float32")
    return blank(truth, voxels.valid)


def softmax(voxels):
    """Returns the predicted probabilities, float32 as the logits; 0 at ignored voxels."""
    return blank(ops.softmax(voxels.logits), voxels.valid)


def blank(values, valid):
    """Returns `values` `(batch, *spatial, channels)` with 0 at ignored voxels."""
    return values if valid is None else values * ops.expand_dims(valid, -1)


def voxel_mean(per_voxel, valid=None):
    """Returns the mean over the voxels that count, 0 if there are none.

    Args:
        per_voxel: Shape `(batch, *spatial)`.
        valid: As in `Voxels`.

    Returns:
        Tensor of shape `(batch,)`.
    """
    axes = tuple(range(1, len(per_voxel.shape)))
    if valid is None:
        return ops.mean(per_voxel, axis=axes)
    return ops.sum(per_voxel * valid, axis=axes) / ops.maximum(ops.sum(valid, axis=axes), 1.0)


def check_class_weights(class_weights, num_classes):
    """Checks that there is one weight per class, none below 0 and not all 0.

    Args:
        class_weights: List of floats, background first; `None` passes.
        num_classes: Number of classes of the logits.

    Raises:
        ConfigError: If they are not so.
    """
    if class_weights is None:
        return
    if len(class_weights) != num_classes or min(class_weights) < 0 or max(class_weights) == 0:
        raise ConfigError(
            f"class_weights must be {num_classes} numbers of 0 or more and not all 0, one per "
            f"class with the background first, got {list(class_weights)}."
        )
