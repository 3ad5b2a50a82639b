"""Label maps to make images of: patches of real ones, drawn as for training and deformed."""

from itertools import count

import numpy as np

from data_prep.pipeline import Augmentation
from data_prep.pipeline import build_dataset
from data_prep.synthesis import deformation


def draw_label_maps(folder, manifest, splits, *, first, deform, batch_size, **options):
    """Yields label maps in batches, each a function of the seed and its number alone.

    Args:
        folder: Data set folder.
        manifest: Its manifest.
        splits: Names of the splits to draw from.
        first: Number of a label map; the first batch is the one that holds it.
        deform: Strength, see `synthesis.deformation`.
        batch_size: Label maps in a batch.
        **options: `patch_size`, `seed`, `repeats`, `foreground_fraction` and `memory_bytes` of
            `pipeline.build_dataset`.

    Yields:
        `(numbers, cases, labels)`: ints `(batch,)`, the id of each map's case, and class indices,
        int32 `(batch, *patch_size)`.
    """
    first -= first % batch_size
    stream = build_dataset(
        folder,
        manifest,
        splits,
        batch_size=batch_size,
        augment=Augmentation(deformation(deform)),
        start_index=first,
        with_cases=True,
        **options,
    )
    for start, (cases, _, labels) in zip(count(first, batch_size), stream, strict=False):
        ids = [case.decode() for case in cases.numpy()]
        yield start + np.arange(batch_size), ids, labels.numpy()
