"""Boundary loss: predicted probability times signed distance to the true boundary."""

from keras import ops

from segkit.losses.distance import FAR
from segkit.losses.distance import squared_distance
from segkit.losses.overlap import check_foreground
from segkit.losses.shapes import check_indices
from segkit.losses.shapes import class_probabilities
from segkit.losses.shapes import read_voxels
from segkit.losses.shapes import softmax
from segkit.losses.shapes import voxel_mean


def boundary(y_true, y_pred, *, ignore_label: int | None = None):
    """Boundary loss, one value per example, in voxels.

    With `p` the softmax of the logits and `phi_c` the `signed_distance` of class `c`, it is the
    mean of `p_vc * phi_vc` over the voxels `v` and the foreground classes `c`. It is negative
    for a good prediction and least for a perfect one.

    Its gradient is small where the prediction is sure and an empty prediction costs 0, so it is
    used together with a loss of overlap, as the paper does: `weighted_sum` of `dice` and, with a
    small weight, `boundary`. A class that an example does not hold, or that fills it, has no
    boundary and counts 0. The distances are computed on the device for every batch, at a cost
    that grows with `voxels * (sum of the sides) * (foreground classes)`.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        ignore_label: Voxels of this class index are left out of the mean, and make no boundary.

    Returns:
        float32 tensor of shape `(batch,)`.

    Raises:
        ConfigError: If labels are soft, which have no boundary.
        ShapeError: If the shapes do not fit, or there is no foreground class.

    Reference:
        Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019,
        arXiv:1812.07032, equation 5, there a sum, for one foreground class. Distances are in
        voxels: the spacing is not known here.
    """
    check_indices(y_true, y_pred, "the boundary loss")
    check_foreground(y_pred.shape[-1])
    voxels = read_voxels(y_true, y_pred, ignore_label)
    inside = class_probabilities(voxels)[..., 1:] > 0
    outside = ops.logical_not(inside)
    if voxels.valid is not None:
        outside = ops.logical_and(outside, ops.expand_dims(voxels.valid, -1) > 0)
    phi = signed_distance(inside, outside)
    return voxel_mean(ops.mean(softmax(voxels)[..., 1:] * phi, axis=-1), voxels.valid)


def signed_distance(inside, outside):
    """Returns the signed distance of every voxel to the boundary of an object.

    Outside, the distance `d` from the centre of the voxel to that of the nearest one inside;
    inside, `1 - d`, with `d` to the nearest one outside, so that the object's outermost voxels
    have 0, as in the authors' code.

    Args:
        inside: Booleans, shape `(batch, *spatial, channels)`: the voxels of the object.
        outside: The voxels known not to be of the object, of the same shape.

    Returns:
        float32 tensor of that shape, in voxels; 0 throughout a picture where one of the two sets
        is empty.
    """
    channels = inside.shape[-1]
    both = squared_distance(ops.concatenate([inside, outside], axis=-1))
    to_inside, to_outside = both[..., :channels], both[..., channels:]
    distance = ops.where(inside, 1.0 - ops.sqrt(to_outside), ops.sqrt(to_inside))
    return ops.where(ops.maximum(to_inside, to_outside) < FAR, distance, 0.0)
