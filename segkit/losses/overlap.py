"""The sums over voxels of which Dice-type losses are made, and their mean over classes."""

from typing import NamedTuple

from keras import ops

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.losses.shapes import check_class_weights
from segkit.losses.shapes import class_probabilities
from segkit.losses.shapes import read_voxels
from segkit.losses.shapes import softmax


class Overlap(NamedTuple):
    """Sums over the voxels of an example, or of its group; float32 `(batch, classes)`, in voxels.

    Attributes:
        both: `sum_v t_vc * p_vc`, with `t` the labels and `p` the predicted probabilities.
        truth: `sum_v t_vc`.
        predicted: `sum_v p_vc`.
    """

    both: object
    truth: object
    predicted: object


def class_overlap(
    y_true,
    y_pred,
    *,
    include_background,
    ignore_label,
    group_size,
    size=lambda p: p,
):
    """Returns the `Overlap` of labels and the softmax of logits.

    Args:
        y_true: As in `read_voxels`.
        y_pred: As in `read_voxels`.
        include_background: If `False`, class 0 is left out.
        ignore_label: As in `read_voxels`.
        group_size: As in `group_overlap`.
        size: As in `group_overlap`.

    Raises:
        ConfigError: As `read_voxels` and `group_overlap`.
        ShapeError: As `read_voxels` and `group_overlap`, or if no class is left.
    """
    voxels = read_voxels(y_true, y_pred, ignore_label)
    truth, probs = class_probabilities(voxels), softmax(voxels)
    if not include_background:
        check_foreground(y_pred.shape[-1])
        truth, probs = truth[..., 1:], probs[..., 1:]
    return group_overlap(truth, probs, group_size, size)


def group_overlap(truth, probs, group_size, size=lambda p: p):
    """Returns the `Overlap` of labels and predictions.

    Args:
        truth: float32 `(batch, *spatial, classes)`, values in [0, 1]; 0 at ignored voxels.
        probs: As `truth`.
        group_size: The voxels of so many consecutive examples are counted together, and each of
            them gets the sums of the group. With 1 every example stands for itself. For a given
            global batch the result is the same for any number of replicas whose shares are
            multiples of it.
        size: What is summed up for `truth` and `predicted`: probabilities, or their squares.

    Raises:
        ConfigError: If `group_size` is below 1.
        ShapeError: If the batch is no multiple of `group_size`.
    """
    if group_size < 1:
        raise ConfigError(f"group_size must be 1 or more, got {group_size}.")
    spatial = tuple(range(1, len(probs.shape) - 1))
    sums = (ops.sum(x, axis=spatial) for x in (truth * probs, size(truth), size(probs)))
    return Overlap(*(_pool(x, group_size) for x in sums))


def check_foreground(num_classes):
    """Checks that a class is left when the background is not counted.

    Raises:
        ShapeError: If there is none.
    """
    if num_classes < 2:
        raise ShapeError(
            f"a loss over foreground classes needs logits of at least 2 classes, got {num_classes}."
            " Set include_background to true where the loss has it."
        )


def class_mean(per_class, class_weights, num_classes):
    """Returns the mean over classes, weighted by `class_weights`.

    Args:
        per_class: Shape `(batch, classes)`, or without the background `(batch, classes - 1)`.
        class_weights: One weight per class of the logits, background first, of which only the
            ratios matter; that of a background that is left out is not used. `None`: all equal.
        num_classes: Number of classes of the logits.

    Returns:
        Tensor of shape `(batch,)`.

    Raises:
        ConfigError: If there is not one weight per class, one is below 0, or all are 0.
    """
    if class_weights is None:
        return ops.mean(per_class, axis=-1)
    check_class_weights(class_weights, num_classes)
    used = class_weights[num_classes - per_class.shape[-1] :]
    if max(used) == 0:
        raise ConfigError(
            f"class_weights must not be 0 for all foreground classes, got {list(class_weights)}."
        )
    return ops.sum(per_class * (ops.convert_to_tensor(used, "float32") / sum(used)), axis=-1)


def _pool(sums, group_size):
    """Adds up `(batch, classes)` within each group; every example gets the sum of its group."""
    if group_size == 1:
        return sums
    batch, classes = sums.shape
    if batch is not None and batch % group_size:
        raise ShapeError(
            f"a batch must be a multiple of group_size {group_size}, got {batch} examples. Change "
            "loss.group_size, or the batch size of each replica."
        )
    groups = ops.sum(ops.reshape(sums, (-1, group_size, classes)), axis=1)
    return ops.repeat(groups, group_size, axis=0)
