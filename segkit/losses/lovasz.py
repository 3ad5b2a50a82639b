"""Lovász-softmax loss: a convex extension of the Jaccard loss."""

from keras import ops

from segkit.losses.shapes import check_indices
from segkit.losses.shapes import class_probabilities
from segkit.losses.shapes import read_voxels
from segkit.losses.shapes import softmax


def lovasz(y_true, y_pred, *, ignore_label: int | None = None):
    """Lovász-softmax loss, one value per example.

    For each class that the labels of the example hold, background included, the errors
    `|t_vc - p_vc|` of its voxels, with `p` the softmax of the logits, are sorted from largest to
    smallest and summed with weights: the increases of the Jaccard loss `1 - IoU` as one voxel
    after the other is taken for wrong. The result is the mean over these classes; for a
    prediction of zeros and ones it is the mean of `1 - IoU`. A class that the labels do not hold
    counts only through the voxels that it takes from others.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        ignore_label: Voxels of this class index are left out; an example that holds no others
            costs 0.

    Returns:
        float32 tensor of shape `(batch,)`, values in [0, 1].

    Raises:
        ConfigError: If labels are soft: the Jaccard index is of sets.
        ShapeError: If the shapes do not fit.

    Reference:
        Berman et al., "The Lovász-softmax loss", CVPR 2018, arXiv:1705.08790, sections 2 and 3,
        with the image and not the batch as unit, and the mean over the classes present.
    """
    check_indices(y_true, y_pred, "the lovasz loss")
    voxels = read_voxels(y_true, y_pred, ignore_label)
    truth, probs = (_by_class(x) for x in (class_probabilities(voxels), softmax(voxels)))
    # Ignored voxels have the error 0, so they come last and change no weight before them.
    errors = ops.abs(truth - probs)
    order = ops.argsort(-errors, axis=-1)
    ranked = ops.take_along_axis(errors, order, axis=-1)
    weights = jaccard_steps(ops.take_along_axis(truth, order, axis=-1))
    per_class = ops.sum(ranked * weights, axis=-1)
    present = ops.cast(ops.max(truth, axis=-1) > 0, "float32")
    number = ops.maximum(ops.sum(present, axis=-1), 1.0)
    return ops.sum(per_class * present, axis=-1) / number


def jaccard_steps(truth):
    """Returns by how much each further wrong voxel raises `1 - IoU`, exactly.

    A missed voxel lowers the intersection by 1 and raises the loss by `1 / union`; a false one
    raises the union by 1 and the loss by `intersection / (union * (union - 1))`. The difference
    of two neighbouring losses, as in the authors' code, would lose its digits in float32: among a
    million voxels it is about as large as the rounding of each.

    Args:
        truth: 0 or 1, shape `(batch, classes, voxels)`, in the order in which voxels turn wrong.
    """
    missed = ops.cumsum(truth, axis=-1)
    false = ops.cumsum(1.0 - truth, axis=-1)
    size = ops.sum(truth, axis=-1, keepdims=True)
    intersection, union = size - missed, size + false
    by_false = intersection / (union * ops.maximum(union - 1.0, 1.0))
    return ops.where(truth > 0, 1.0 / ops.maximum(union, 1.0), by_false)


def _by_class(x):
    """Returns `(batch, *spatial, classes)` as `(batch, classes, voxels)`."""
    flat = ops.reshape(x, (ops.shape(x)[0], -1, x.shape[-1]))
    return ops.transpose(flat, (0, 2, 1))
