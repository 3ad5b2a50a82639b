"""Fixtures that build small DICOM series and edit them file by file."""

import numpy as np
import pydicom
import pytest

from segkit.io.dicom import write_series
from segkit.volume import Volume


@pytest.fixture
def volume():
    """Ten slices of 12 x 8, spacing 2.5, 0.8, 0.6 mm, orientation SAR."""
    array = np.random.default_rng(0).integers(-1000, 2000, (10, 12, 8)).astype(np.int16)
    affine = np.array([[0, 0, 0.6, -20], [0, 0.8, 0, 30], [2.5, 0, 0, 5], [0, 0, 0, 1.0]])
    return Volume(array, affine)


@pytest.fixture
def series(tmp_path, volume):
    """Folder with `volume` as CT series, and its files in slice order."""
    folder = tmp_path / "series"
    return folder, write_series(folder, volume, modality="CT")


@pytest.fixture
def edit():
    """Function that changes attributes of one DICOM file in place; `None` deletes one."""

    def change(path, **attributes):
        dataset = pydicom.dcmread(path)
        for keyword, value in attributes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(path)
        return dataset

    return change
