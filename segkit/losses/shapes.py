"""What all losses take for labels: class indices, or class probabilities (soft labels)."""

from keras import backend
from keras import ops

from segkit.errors import ShapeError


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


def is_soft(y_true, y_pred):
    """Returns whether the labels are class probabilities: floats with as many axes as logits."""
    return len(y_true.shape) == len(y_pred.shape) and backend.is_float_dtype(y_true.dtype)


def class_probabilities(y_true, y_pred):
    """Returns labels as class probabilities: soft ones as they are, indices as 0 and 1.

    Args:
        y_true: Labels that passed `check_shapes`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.

    Returns:
        float32 tensor, shape `(batch, *spatial, classes)`.
    """
    if is_soft(y_true, y_pred):
        return ops.cast(y_true, "float32")
    return ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype="float32")
