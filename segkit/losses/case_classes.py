"""A loss of voxels, and beside it the cross-entropy of a class of the whole case."""

import keras
from keras import ops

from segkit.losses.loss import Loss


class WithCaseClasses(Loss):
    """Adds the term `case` to a loss: `weight` times `case_cross_entropy`.

    Its labels are a dict of `label`, those of the voxels, and `target`; its logits a dict of
    `case_logits` and, as the loss takes them, those of the voxels.
    """

    def __init__(self, loss, weight):
        """Takes a `Loss` and the factor of the term that is added."""
        super().__init__(loss.name, loss)
        self._loss, self._weight = loss, weight

    def parts(self, labels, logits):
        """Returns the terms of both, see `Loss.parts`."""
        of_voxels = {name: value for name, value in logits.items() if name != "case_logits"}
        if list(of_voxels) == ["logits"]:
            of_voxels = of_voxels["logits"]
        case = case_cross_entropy(labels["target"], logits["case_logits"])
        return {**self._loss.parts(labels["label"], of_voxels), "case": self._weight * case}


def case_cross_entropy(targets, logits):
    """Returns the cross-entropy of each case, float32 `(batch,)`; 0 where the class is not known.

    Args:
        targets: Class indices, int `(batch,)`; -1: not known.
        logits: Shape `(batch, classes)`.
    """
    logits = ops.cast(logits, "float32")
    known = ops.cast(targets >= 0, "float32")
    index = ops.maximum(targets, 0)
    return known * keras.losses.sparse_categorical_crossentropy(index, logits, from_logits=True)
