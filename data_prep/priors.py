"""The first stage of a cascade as channels of a data set: one per class that it can find.

Downstream they are channels like others: linearly resampled shares of a class, in [0, 1].
"""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np

from data_prep.preprocess import to_indices
from segkit import io
from segkit.errors import DataError
from segkit.priors import prior_names
from segkit.volume import same_grid


def with_priors(dataset, folder, classes):
    """Adds the segmentations of a first stage to the images of a data set.

    Args:
        dataset: `RawDataset`.
        folder: Folder with a label map per case, named by `prior_path`, on the image's grid.
        classes: Class name -> value in these files, background first; they need not be the data
            set's own.

    Returns:
        `RawDataset` with a channel `prior:CLASS` of 0 and 1 for each class but the background,
        behind the others. A case without a file cannot be read.
    """
    found = {"folder": str(folder), "classes": classes}
    return replace(
        dataset,
        channels=(*dataset.channels, *prior_names(classes)),
        read=partial(read_with_priors, read=dataset.read, **found),
        digest=partial(digest_with_priors, digest=dataset.digest, folder=str(folder)),
    )


def prior_path(folder, case_id):
    """Returns the label map of a case; an id that is no file name is quoted as in a URL."""
    return Path(folder) / f"{quote(case_id, safe=' ')}.nii.gz"


def read_with_priors(case, read, folder, classes):
    """Reads a case with its priors.

    Args:
        case: `RawCase`.
        read: `RawCase -> (image, label)` of the data set without priors, or with objects.
        folder: As in `with_priors`.
        classes: As in `with_priors`.

    Returns:
        What `read` returns; the array of the image has the dtype that `read` gave it.

    Raises:
        DataError: The label map is missing, on another grid, or holds an unknown value.
    """
    image, *others = read(case)
    path = _existing(folder, case)
    prior = io.read_label(path).oriented(image.orientation)
    if not same_grid(image, prior):
        raise DataError(f"{path} is not on the grid of its image. Delete it to have it made again.")
    try:
        indices = to_indices(prior.array, classes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    array = image.array if image.array.ndim == 4 else image.array[..., None]
    priors = indices[..., None] == np.arange(1, len(classes))
    array = np.concatenate([array, priors.astype(array.dtype)], axis=-1)
    return replace(image, array=array), *others


def digest_with_priors(case, digest, folder):
    """Returns the SHA-256 (hex) of all that `read_with_priors` reads; arguments as there."""
    content = _existing(folder, case).read_bytes()
    return hashlib.sha256(digest(case).encode() + hashlib.sha256(content).digest()).hexdigest()


def _existing(folder, case):
    path = prior_path(folder, case.id)
    if not path.is_file():
        raise DataError(f"{path} is missing: the first stage has not segmented this case.")
    return path
