"""Cross-entropy over the voxels of each example."""

from keras import ops

from segkit.losses.shapes import check_shapes


def cross_entropy(y_true, y_pred):
    """Cross-entropy in nats, one value per example: the mean over the voxels of `-log p(label)`.

    Computed in float32 whatever the input dtype. A label outside `[0, classes)` is an error of
    the data: TensorFlow raises on CPUs and gives NaN on GPUs.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.

    Returns:
        float32 tensor of shape `(batch,)`, values >= 0.

    Raises:
        ShapeError: If the shapes do not fit.
    """
    check_shapes(y_true, y_pred)
    labels, logits = ops.cast(y_true, "int32"), ops.cast(y_pred, "float32")
    per_voxel = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.mean(per_voxel, axis=tuple(range(1, len(labels.shape))))
