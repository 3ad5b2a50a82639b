"""Streaming overlap metrics, from counts summed over all batches seen."""

import keras
from keras import ops

from segkit.metrics.counts import class_counts
from segkit.metrics.ratios import accuracy_from_counts
from segkit.metrics.ratios import dice_from_counts
from segkit.metrics.ratios import iou_from_counts


class CountsMetric(keras.metrics.Metric):
    """Mean of a per-class score over the classes that occurred.

    Counts are summed first and scored last: all voxels seen form one big example, so the value
    depends neither on the batch size nor on the order. It is therefore not the mean of
    per-case scores that papers report. NaN when no class occurred.

    Args:
        num_classes: Number of classes, background included.
        name: Name of the metric.
        **kwargs: Passed to `keras.metrics.Metric`.
    """

    first_class = 1
    score = None

    def __init__(self, num_classes, name, **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.counts = self.add_variable((num_classes, 3), "zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds one batch.

        Args:
            y_true: Class indices, shape `(batch, *spatial)`.
            y_pred: Logits, shape `(batch, *spatial, num_classes)`.
            sample_weight: Must be `None`; Keras passes it.
        """
        if sample_weight is not None:
            raise ValueError(f"{self.name} counts voxels and takes no sample_weight.")
        self.update_counts(class_counts(y_true, y_pred, self.num_classes))

    def update_counts(self, counts):
        """Adds counts from `class_counts`, shape `(num_classes, 3)`."""
        self.counts.assign_add(counts)

    def per_class(self):
        """Returns the score of each class, shape `(num_classes,)`; NaN where undefined."""
        return type(self).score(ops.convert_to_tensor(self.counts))

    def result(self):
        """Returns the mean over the classes that occurred, a float32 scalar."""
        return ops.nanmean(self.per_class()[self.first_class :])

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_classes": self.num_classes}


@keras.saving.register_keras_serializable(package="segkit")
class Dice(CountsMetric):
    """Mean Dice coefficient over the foreground classes seen in labels or predictions."""

    score = staticmethod(dice_from_counts)

    def __init__(self, num_classes, name="dice", **kwargs):
        super().__init__(num_classes, name, **kwargs)


@keras.saving.register_keras_serializable(package="segkit")
class IoU(CountsMetric):
    """Mean intersection over union over the foreground classes seen in labels or predictions."""

    score = staticmethod(iou_from_counts)

    def __init__(self, num_classes, name="iou", **kwargs):
        super().__init__(num_classes, name, **kwargs)


@keras.saving.register_keras_serializable(package="segkit")
class MeanAccuracy(CountsMetric):
    """Mean over the classes of the labels, background included, of the share of voxels found."""

    first_class = 0
    score = staticmethod(accuracy_from_counts)

    def __init__(self, num_classes, name="mean_accuracy", **kwargs):
        super().__init__(num_classes, name, **kwargs)
