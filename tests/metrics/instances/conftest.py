import numpy as np
import pytest


@pytest.fixture
def random_maps():
    """Function of a seed: truth and prediction, rectangles that half agree, numbered from 1."""

    def paint(rng, boxes):
        canvas = np.zeros((40, 50), int)
        for y, x, h, w in boxes:
            canvas[y : y + h, x : x + w] = canvas.max() + 1
        return np.unique(canvas, return_inverse=True)[1].reshape(canvas.shape)

    def make(seed):
        rng = np.random.default_rng(seed)
        boxes = np.concatenate([rng.integers(0, 40, (9, 2)), rng.integers(3, 12, (9, 2))], axis=1)
        moved = boxes[:7] + rng.integers(-1, 2, (7, 4))
        more = np.concatenate([rng.integers(0, 40, (3, 2)), rng.integers(3, 9, (3, 2))], axis=1)
        canvases = np.zeros((1, 1), int), np.zeros((1, 1), int)
        while min(c.max() for c in canvases) < 2:
            canvases = paint(rng, boxes), paint(rng, np.concatenate([moved.clip(0), more]))
        return canvases

    return make
