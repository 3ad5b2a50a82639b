"""The check that all losses make on their inputs."""

from segkit.errors import ShapeError


def check_shapes(y_true, y_pred):
    """Checks that labels are class indices on the voxels of the logits.

    Args:
        y_true: Labels, to be of shape `(batch, *spatial)`.
        y_pred: Logits, to be of shape `(batch, *spatial, classes)`.

    Raises:
        ShapeError: If they are not; sides that are unknown at this time fit any other.
    """
    labels, voxels = tuple(y_true.shape), tuple(y_pred.shape)[:-1]
    fits = len(labels) == len(voxels) and all(
        a == b or a is None or b is None for a, b in zip(labels, voxels, strict=True)
    )
    if not fits:
        raise ShapeError(
            f"labels must be class indices of shape {voxels} for logits {tuple(y_pred.shape)}, "
            f"got {labels}. Drop a last axis of 1, or take argmax of one-hot labels."
        )
