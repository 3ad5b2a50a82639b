"""Images whose regions are known: a bright ball in the dark, in mm, whatever the voxels are."""

from types import SimpleNamespace

import numpy as np
import pytest

from segkit.volume import Volume


@pytest.fixture
def ball():
    """Makes a ball image: `make(shape, spacing_mm, noise=0, levels=(0, 100))`.

    The result has `volume`, `truth` (bool) and `centre_mm`, RAS+. Axes are S, A, R.
    """

    def make(shape=(14, 26, 28), spacing_mm=(2.0, 1.0, 1.0), *, noise=0.0, levels=(0, 100)):
        affine = np.eye(4)[[2, 1, 0, 3]] * [*spacing_mm, 1]
        affine[:3, 3] = -40, 15, 7
        centre = (np.array(shape) - 1) / 2 + [0, 1, -2]
        centre[np.array(shape) == 1] = 0
        offset = (np.moveaxis(np.indices(shape), 0, -1) - centre) * spacing_mm
        truth = (offset**2).sum(axis=-1) < 8.3**2
        image = np.where(truth, levels[1], levels[0]).astype(np.float32)
        image += noise * np.random.default_rng(1).standard_normal(shape, np.float32)
        centre_mm = affine[:3, :3] @ np.rint(centre) + affine[:3, 3]
        return SimpleNamespace(
            volume=Volume(image, affine), truth=truth, centre_mm=centre_mm.tolist()
        )

    return make


@pytest.fixture
def dice():
    """The Dice coefficient of two masks."""

    def of(a, b):
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    return of
