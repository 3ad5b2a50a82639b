"""How many pixels each predicted object shares with each true one: what all other scores need."""

from typing import NamedTuple

import numpy as np
from scipy import sparse


class Overlaps(NamedTuple):
    """Sizes of objects in pixels, and of what they share.

    Pixels of ignored objects of the truth are of no other object: they are left out of the
    predicted objects that cover them, and counted as `void`.

    Attributes:
        true: int64, shape `(truths,)`: sizes of the true objects.
        predicted: int64, shape `(predictions,)`: sizes of the predicted objects, without `void`.
        void: int64, shape `(predictions,)`: pixels of them that lie on ignored objects.
        pairs: int64, shape `(pairs, 2)`: indices of truth and prediction, from 0, of all pairs that
            share a pixel.
        shared: int64, shape `(pairs,)`: pixels that they share.
    """

    true: np.ndarray
    predicted: np.ndarray
    void: np.ndarray
    pairs: np.ndarray
    shared: np.ndarray

    @property
    def iou(self):
        """Intersection over union of each pair, float64 in (0, 1]."""
        true, predicted = self.pairs.T
        return self.shared / (self.true[true] + self.predicted[predicted] - self.shared)

    @property
    def on_void(self):
        """Whether most of each lies on ignored objects, or it is empty; bool `(predictions,)`."""
        return (self.void > self.predicted) | (self.predicted == 0)

    @property
    def truths(self):
        """Number of true objects that have a pixel and are not ignored."""
        return int((self.true > 0).sum())

    def select(self, truths, predictions):
        """Returns the overlaps among the marked objects alone.

        Args:
            truths: bool, shape `(truths,)`.
            predictions: bool, shape `(predictions,)`.
        """
        true, predicted = self.pairs.T
        kept = truths[true] & predictions[predicted]
        indices = [np.cumsum(marks) - 1 for marks in (truths, predictions)]
        pairs = np.stack([indices[0][true[kept]], indices[1][predicted[kept]]], axis=-1)
        return Overlaps(
            self.true[truths],
            self.predicted[predictions],
            self.void[predictions],
            pairs,
            self.shared[kept],
        )


def map_overlaps(truth, prediction, ignored, predictions):
    """Counts the overlaps of two maps of objects.

    Args:
        truth: Ids of the true objects, 1 to `len(ignored)`, 0 where there is none; any shape.
        prediction: Ids of the predicted objects, 1 to `predictions`, same shape.
        ignored: bool, shape `(truths,)`: true objects that count for nothing. They keep their
            index, without pixels.
        predictions: Number of predicted objects.

    Returns:
        `Overlaps`.
    """
    ids = truth.ravel().astype(np.intp), prediction.ravel().astype(np.intp)
    shape = (len(ignored) + 1, predictions + 1)
    return _overlaps(sparse.coo_array((np.ones(truth.size, np.int64), ids), shape), ignored)


def mask_overlaps(truth, corners, masks, ignored):
    """Counts the overlaps of a map of true objects and of masks that may overlap each other.

    Args:
        truth: As in `map_overlaps`, shape `(height, width)`.
        corners: For each prediction `(y, x)`, ints: where its mask begins.
        masks: For each prediction a bool array, all of it within the map.
        ignored: As in `map_overlaps`.

    Returns:
        `Overlaps`.
    """
    hidden = [np.empty(0, np.intp)] + [
        truth[y : y + mask.shape[0], x : x + mask.shape[1]][mask]
        for (y, x), mask in zip(corners, masks, strict=True)
    ]
    sizes = [len(ids) for ids in hidden[1:]]
    columns = np.repeat(np.arange(1, len(masks) + 1), sizes)
    rows = np.concatenate(hidden).astype(np.intp)
    shape = (len(ignored) + 1, len(masks) + 1)
    table = sparse.coo_array((np.ones(len(rows), np.int64), (rows, columns)), shape)
    true = np.bincount(truth.ravel(), minlength=shape[0])[1:]
    return _overlaps(table, ignored)._replace(true=np.where(ignored, 0, true))


def _overlaps(table, ignored):
    """Takes sizes and pairs from a table of counts; row and column 0 are what is no object."""
    table = table.tocsr()
    rows = np.flatnonzero(ignored) + 1
    true, all_pixels = (np.asarray(table.sum(axis)).ravel() for axis in (1, 0))
    void = np.asarray(table[rows].sum(0)).ravel()
    pairs = table.tocoo()
    row, column = (np.asarray(c, np.int64) for c in pairs.coords)
    kept = (row > 0) & (column > 0) & ~np.isin(row, rows)
    return Overlaps(
        np.where(ignored, 0, true[1:]),
        (all_pixels - void)[1:],
        void[1:],
        np.stack([row[kept], column[kept]], axis=-1) - 1,
        pairs.data[kept],
    )
