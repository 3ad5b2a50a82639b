"""Small images of discs with objects, and a small network for them."""

import numpy as np

from segkit.models import build_model

CLASSES = 3
SMALL = {
    "filters": 8,
    "levels": [2, 3],
    "pyramid_filters": 8,
    "units": 16,
    "mask_convs": 1,
    "anchor_sides": [10.0, 20.0],
    "max_objects": 8,
    "anchor_samples": 32,
    "region_samples": 16,
    "candidates": 64,
    "proposals": 24,
    "detections": 10,
    "score_threshold": 0.0,
}


def discs(number, size, *, objects=5, seed=0):
    """Maps of bright discs (class 1) and dark ones (class 2) that do not touch.

    Returns:
        Dict of `image` float32 `(number, size, size, 1)`, `label` and `instance` int32
        `(number, size, size)`.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    instance = np.zeros((number, size, size), np.int32)
    label = np.zeros_like(instance)
    for image in range(number):
        for identity in range(1, objects + 1):
            radius = rng.uniform(5, 10)
            centre = rng.uniform(radius, size - radius, 2)
            distance = np.hypot(rows - centre[0], columns - centre[1])
            if not instance[image][distance < radius + 2].any():
                instance[image][distance < radius] = identity
                label[image][distance < radius] = 1 + identity % 2
    values = np.array([0.0, 1.0, -1.0])[label] + rng.normal(0, 0.1, label.shape)
    return {"image": values[..., None].astype(np.float32), "label": label, "instance": instance}


def small_network(**options):
    """Returns a small network for images of one channel and three classes."""
    return build_model("mask_rcnn", CLASSES, (None, None, 1), **{**SMALL, **options})
