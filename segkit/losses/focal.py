"""Focal loss over the voxels of each example."""

from keras import ops

from segkit.errors import ConfigError
from segkit.losses.shapes import check_class_weights
from segkit.losses.shapes import class_probabilities
from segkit.losses.shapes import read_voxels
from segkit.losses.shapes import voxel_mean


def focal(
    y_true,
    y_pred,
    *,
    gamma: float = 2.0,
    class_weights: list[float] | None = None,
    ignore_label: int | None = None,
):
    """Focal loss in nats: the mean over voxels of `-w_c (1 - p_c) ** gamma log p_c`, `c` the label.

    With `p` the softmax of the logits; with soft labels `t` each voxel costs the sum over classes
    of `t_c` times that. `gamma` 0 is `cross_entropy`. Computed in float32 whatever the input
    dtype, and `1 - p` without cancellation. A class index outside `[0, classes)` costs nothing.

    With two classes and weights `[1 - a, a]` it is the paper's sigmoid form with balance `a`,
    whose logit is the difference of the two logits.

    Args:
        y_true: As in `cross_entropy`, soft labels included.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        gamma: How strongly well classified voxels are discounted, 0 or more.
        class_weights: As in `cross_entropy`: the paper's `alpha_t`.
        ignore_label: As in `cross_entropy`.

    Returns:
        float32 tensor of shape `(batch,)`, values >= 0.

    Raises:
        ConfigError: `gamma` or `class_weights` do not fit, or `ignore_label` with soft labels.
        ShapeError: If the shapes do not fit.

    Reference:
        Lin et al., "Focal loss for dense object detection", ICCV 2017, arXiv:1708.02002,
        equation 5; there divided by the number of anchors assigned to an object, here by the
        number of voxels.
    """
    if gamma < 0:
        raise ConfigError(f"focal needs a gamma of 0 or more, got {gamma}.")
    voxels = read_voxels(y_true, y_pred, ignore_label)
    check_class_weights(class_weights, y_pred.shape[-1])
    weights = 1.0 if class_weights is None else ops.convert_to_tensor(class_weights, "float32")

    log_p = ops.log_softmax(voxels.logits)
    # The bound keeps the derivative finite at p = 1 for gamma below 1.
    missing = ops.maximum(-ops.expm1(log_p), 1e-7)
    cost = -weights * ops.power(missing, gamma) * log_p
    return voxel_mean(ops.sum(class_probabilities(voxels) * cost, axis=-1), voxels.valid)
