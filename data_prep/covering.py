"""Patches that cover whole prepared cases, each place once as far as it can be."""

import itertools

import numpy as np

from data_prep.whole_cases import read_cases


def count_covering(manifest, splits, patch_size, repeats=None):
    """Returns the number of patches that `covering_patches` yields."""
    shapes = [
        entry["shape"]
        for case, entry in manifest["cases"].items()
        if entry["split"] in splits and _belongs(case, repeats)
    ]
    return sum(len(list(_starts(shape[:3], _box(patch_size)))) for shape in shapes)


def covering_patches(folder, manifest, splits, patch_size, repeats=None):
    """Yields all patches of some splits.

    Along each axis they lie at equal distances, none overhangs a case that is larger, and one is
    centred on an axis that is shorter than a patch; what is outside is 0. Of two sides every slice
    is taken.

    Args:
        folder: Data set folder.
        manifest: Its manifest.
        splits: Names of the splits.
        patch_size: `(height, width)` or `(depth, height, width)`.
        repeats: As of `data_prep.pipeline.build_dataset`; cases of which it says 0 are left out.

    Yields:
        `(case, image)`: id, and float32 `(*patch_size, channels)`.
    """
    box = _box(patch_size)
    for split in splits:
        for case in read_cases(folder, manifest, split):
            if not _belongs(case.id, repeats):
                continue
            for start in _starts(case.image.shape[:3], box):
                image = _cut(case.image, start, box)
                yield case.id, image if len(patch_size) == 3 else image[0]


def _belongs(case, repeats):
    return (repeats or {}).get(case, 1) > 0


def _box(patch_size):
    return (1,) * (3 - len(patch_size)) + tuple(patch_size)


def _starts(shape, box):
    """First voxels of the patches along each axis; negative where a patch overhangs."""
    along = []
    for side, length in zip(shape, box, strict=True):
        number = -(-side // length)
        if number == 1:
            along.append([(side - length) // 2])
        else:
            along.append(np.linspace(0, side - length, number).round().astype(int).tolist())
    return itertools.product(*along)


def _cut(image, start, box):
    patch = np.zeros((*box, image.shape[-1]), np.float32)
    there, here = [], []
    for first, length, side in zip(start, box, image.shape, strict=False):
        low, high = max(first, 0), min(first + length, side)
        there.append(slice(low - first, high - first))
        here.append(slice(low, high))
    patch[tuple(there)] = image[tuple(here)]
    return patch
