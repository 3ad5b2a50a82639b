"""Per-class voxel counts, from which the scores of `ratios.py` follow.

Counts of parts of the data add up, so a score over a whole data set comes from counts summed
over batches and replicas, not from a mean of per-batch scores.
"""

from functools import partial

from keras import backend
from keras import ops

from segkit.regions import encode_regions


def counter(outputs):
    """Returns the function of labels and logits that counts what a network tells apart.

    Args:
        outputs: `segkit.outputs.Outputs`; one row per name is counted, in the order of its
            `names`.
    """
    ignored = {"ignore_label": outputs.ignore_label}
    if outputs.regions:
        return partial(region_counts, regions=list(outputs.regions.values()), **ignored)
    return partial(class_counts, num_classes=len(outputs.classes), **ignored)


def class_counts(labels, logits, num_classes, ignore_label=None):
    """Counts true positives, false positives and false negatives of each class.

    The prediction is the class with the largest logit, the lowest index on a tie, and so is the
    truth of soft labels. A class index outside `[0, num_classes)` belongs to no class: it only
    makes a false positive of the prediction. Safe inside a function compiled by XLA. Counts are
    exact below 2**24 voxels per class and call, where float32 stops holding every integer.

    Args:
        labels: Class indices, any integer dtype, shape `(batch, *spatial)`; or soft labels, class
            probabilities, shape `(batch, *spatial, num_classes)`.
        logits: Shape `(batch, *spatial, num_classes)`; probabilities serve as well.
        num_classes: Number of classes, background included.
        ignore_label: Voxels of this class index are not counted, `None`: all are. Labels must be
            class indices then.

    Returns:
        float32 tensor of shape `(num_classes, 3)`: columns true positives, false positives,
        false negatives.
    """
    valid = _valid(labels, ignore_label)
    if len(labels.shape) == len(logits.shape) and backend.is_float_dtype(labels.dtype):
        labels = ops.argmax(labels, axis=-1)
    truth = _one_hot(labels, num_classes)
    guess = _one_hot(ops.argmax(logits, axis=-1), num_classes)
    return _counts(truth, guess, valid)


def region_counts(labels, logits, regions, ignore_label=None):
    """Counts true positives, false positives and false negatives of regions that may overlap.

    A voxel is predicted to be in a region where its logit is above 0. What is in no region counts
    as the background, so that the rows can be scored as those of `class_counts`.

    Args:
        labels: Class indices, any integer dtype, shape `(batch, *spatial)`.
        logits: Shape `(batch, *spatial, regions)`.
        regions: For each region the class indices that make it up.
        ignore_label: As in `class_counts`.

    Returns:
        float32 tensor of shape `(1 + regions, 3)`, columns as in `class_counts`.
    """
    truth = _with_background(encode_regions(labels, regions))
    guess = _with_background(ops.cast(logits > 0, "float32"))
    return _counts(truth, guess, _valid(labels, ignore_label))


def _valid(labels, ignore_label):
    if ignore_label is None:
        return None
    return ops.cast(ops.not_equal(ops.reshape(labels, (-1, 1)), ignore_label), "float32")


def _counts(truth, guess, valid):
    """Counts of zeros and ones `(voxels, rows)`, at the valid voxels."""
    if valid is not None:
        truth, guess = truth * valid, guess * valid
    hits = ops.sum(truth * guess, axis=0)
    return ops.stack([hits, ops.sum(guess, axis=0) - hits, ops.sum(truth, axis=0) - hits], axis=-1)


def _with_background(masks):
    masks = ops.reshape(masks, (-1, masks.shape[-1]))
    return ops.concatenate([1.0 - ops.max(masks, axis=-1, keepdims=True), masks], axis=-1)


def _one_hot(classes, num_classes):
    return ops.one_hot(ops.cast(ops.reshape(classes, (-1,)), "int32"), num_classes, dtype="float32")
