"""COCO's run-length encoding of masks, made from a crop without the whole image."""

import numpy as np

from segkit.errors import ConfigError


def mask_module():
    """Returns `pycocotools.mask`.

    Raises:
        ConfigError: If pycocotools is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        raise ConfigError(
            'scores and files of COCO need pycocotools. Install it: pip install "segkit[maskrcnn]".'
        ) from None
    return mask


def run_lengths(mask, corner, shape):
    """Returns the runs of a mask in its image, column by column, the first one of zeros.

    Args:
        mask: bool, shape `(rows, columns)`: a crop that holds the whole object.
        corner: `(y, x)`, where the crop begins; it must lie within the image.
        shape: Height and width of the image.

    Returns:
        List of ints that sum to the number of pixels.
    """
    height, width = shape
    y, x = corner
    edges = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = (
        (column + x) * height + row + y
        for column, row in (np.nonzero(edges == 1), np.nonzero(edges == -1))
    )
    # A run to the foot of one column goes on at the head of the next.
    inner = np.stack([ends[:-1], starts[1:]], axis=-1)
    inner = inner[inner[:, 0] != inner[:, 1]].ravel()
    places = np.concatenate([starts[:1], inner, ends[-1:]])
    return np.diff(places, prepend=0, append=height * width).tolist()


def encode(mask, corner, shape):
    """Returns the compressed encoding of a mask, `{"size": [height, width], "counts": bytes}`.

    Arguments as `run_lengths`.
    """
    counts = run_lengths(mask, corner, shape)
    return mask_module().frPyObjects({"size": list(shape), "counts": counts}, *shape)
