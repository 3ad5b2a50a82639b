"""Cross-entropy over the voxels of each example."""

from keras import ops

from segkit.errors import ConfigError
from segkit.losses.shapes import check_class_weights
from segkit.losses.shapes import is_soft
from segkit.losses.shapes import read_voxels
from segkit.losses.shapes import voxel_mean


def cross_entropy(
    y_true,
    y_pred,
    *,
    class_weights: list[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_label: int | None = None,
):
    """Cross-entropy in nats, one value per example: the mean over the voxels of `-log p(label)`.

    With soft labels `t` it is the mean of `-sum_c t_c log p_c`, linear in `t`; the entropy of `t`
    is its least value. Computed in float32 whatever the input dtype. A class index outside
    `[0, classes)` is an error of the data: TensorFlow raises on CPUs and gives NaN on GPUs.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`; or soft labels, class
            probabilities of any float dtype, shape `(batch, *spatial, classes)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        class_weights: Factors on `log p_c`, one per class, background first. The mean is over
            voxels, as in Keras, and not over their weights, as in PyTorch, where the weight of
            the only class of an example would have no effect; so they should be near 1.
        label_smoothing: Share of the labels, in [0, 1), that is spread evenly over all classes:
            `(1 - label_smoothing) * t_c + label_smoothing / classes` takes the place of `t_c`.
        ignore_label: Voxels of this class index are left out of the mean; an example that holds
            no others costs 0.

    Returns:
        float32 tensor of shape `(batch,)`, values >= 0.

    Raises:
        ConfigError: `class_weights` or `label_smoothing` do not fit, or `ignore_label` with soft
            labels.
        ShapeError: If the shapes do not fit.
    """
    voxels = read_voxels(y_true, y_pred, ignore_label)
    nats = voxel_cross_entropy(voxels, class_weights, label_smoothing)
    return voxel_mean(nats, voxels.valid)


def voxel_cross_entropy(voxels, class_weights, label_smoothing=0.0):
    """Returns the cross-entropy of each voxel, float32 `(batch, *spatial)`, as `cross_entropy`."""
    labels, logits, _ = voxels
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}.")
    check_class_weights(class_weights, logits.shape[-1])
    weights = 1.0 if class_weights is None else ops.convert_to_tensor(class_weights, "float32")

    if is_soft(labels, logits):
        nats = -ops.sum(weights * labels * ops.log_softmax(logits), axis=-1)
    else:
        nats = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        if class_weights is not None:
            nats = nats * ops.take(weights, labels)
    if label_smoothing:
        evenly = -ops.mean(weights * ops.log_softmax(logits), axis=-1)
        nats = (1 - label_smoothing) * nats + label_smoothing * evenly
    return nats
