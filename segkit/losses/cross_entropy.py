"""Cross-entropy over the voxels of each example."""

from keras import ops

from segkit.losses.shapes import check_shapes
from segkit.losses.shapes import class_probabilities
from segkit.losses.shapes import is_soft


def cross_entropy(y_true, y_pred):
    """Cross-entropy in nats, one value per example: the mean over the voxels of `-log p(label)`.

    With soft labels `t` it is the mean of `-sum_c t_c log p_c`, linear in `t`; the entropy of `t`
    is its least value. Computed in float32 whatever the input dtype. A class index outside
    `[0, classes)` is an error of the data: TensorFlow raises on CPUs and gives NaN on GPUs.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`; or soft labels, class
            probabilities of any float dtype, shape `(batch, *spatial, classes)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.

    Returns:
        float32 tensor of shape `(batch,)`, values >= 0.

    Raises:
        ShapeError: If the shapes do not fit.
    """
    check_shapes(y_true, y_pred)
    logits = ops.cast(y_pred, "float32")
    if is_soft(y_true, y_pred):
        truth = class_probabilities(y_true, y_pred)
        per_voxel = -ops.sum(truth * ops.log_softmax(logits), axis=-1)
    else:
        labels = ops.cast(y_true, "int32")
        per_voxel = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.mean(per_voxel, axis=tuple(range(1, len(per_voxel.shape))))
