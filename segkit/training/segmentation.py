"""What a segmentation is judged by while it trains: Dice, and pictures of truth and prediction."""

import math

import numpy as np
from keras import ops

from segkit.metrics.counts import counter
from segkit.metrics.ratios import dice_from_counts
from segkit.outputs import read_outputs
from segkit.regions import class_map
from segkit.training.overlay import panel
from segkit.training.step import full_resolution


class Segmentation:
    """The objective of `fit` where nothing else is said: Dice of foreground classes or regions.

    Those of pre-training (`segkit.training.reconstruction`, `segkit.training.puzzles`) have the
    same attributes and methods. Covariates beside the images, and classes of whole cases beside
    the labels of voxels, do not count.

    Attributes:
        metric: Name of the score in records; the higher the better.
        label: Its name for people.
        pictures: What `panels` shows, for TensorBoard.
    """

    metric, label, pictures = "dice", "Dice", "image_truth_prediction"

    def __init__(self, manifest, loss):
        """Reads what is told apart.

        Args:
            manifest: Manifest of the data set: its classes, or the regions of the loss, are scored
                by name, and photographs (no spacing) are drawn with the first row on top.
            loss: Options of the loss.
        """
        self._outputs = read_outputs(manifest["classes"], loss)
        self._upright = manifest["preprocess"]["spacing_mm"] is None
        self._count = counter(self._outputs)

    def count(self, labels, logits):
        """Returns a float32 array, whose sum over batches and replicas `score` takes.

        Args:
            labels: Class indices, or a dict with them as `label`.
            logits: Logits, or a dict of them, full resolution first.
        """
        return self._count(_among(labels, "label"), full_resolution(logits))

    def score(self, counts):
        """Returns the mean over the foreground classes that occurred; 0 when none did."""
        found = [value for value in self.by_name(counts).values() if not math.isnan(value)]
        return float(np.mean(found)) if found else 0.0

    def by_name(self, counts):
        """Returns a dict name -> score; NaN for a class or region that did not occur."""
        dice = dice_from_counts(np.asarray(counts))
        names = self._outputs.names
        return {name: float(value) for name, value in zip(names[1:], dice[1:], strict=True)}

    def panels(self, inputs, labels, logits):
        """Returns a picture, uint8 `(height, width, 3)`, of each example."""
        images, labels = _among(inputs, "image"), _among(labels, "label")
        classes = class_map(full_resolution(logits), self._outputs.class_order)
        predictions = ops.convert_to_numpy(classes)
        examples = zip(images.numpy(), labels.numpy(), predictions, strict=True)
        return [panel(*example, upright=self._upright) for example in examples]


def _among(tensors, name):
    """The tensor of that name among several, or the only one."""
    return tensors[name] if isinstance(tensors, dict) else tensors
