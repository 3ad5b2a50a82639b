"""Pictures for TensorBoard: truth and prediction, or images beside each other."""

import numpy as np

# Okabe and Ito's colours, told apart with any kind of colour vision; repeated past eight.
PALETTE = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (255, 255, 255),
    ],
    np.float32,
)


def panel(image, truth, prediction, *, upright=False, opacity=0.5):
    """Draws one slice three times: image, image with truth, image with prediction.

    Args:
        image: float array `([depth,] height, width, channels)`; the first channel is shown.
        truth: Class indices `([depth,] height, width)`, or soft labels with a last axis of
            classes, shown by the most probable one; of a volume, the slice with the most
            foreground is shown.
        prediction: Class indices `([depth,] height, width)`.
        upright: Keep the first row on top; otherwise rows are turned so that anterior is up.
        opacity: Opacity of the class colours, in [0, 1].

    Returns:
        uint8 array `(height, 3 * width, 3)`.
    """
    if truth.ndim > prediction.ndim:
        truth = truth.argmax(axis=-1)
    if truth.ndim == 3:
        depth = int((truth > 0).sum(axis=(1, 2)).argmax())
        image, truth, prediction = image[depth], truth[depth], prediction[depth]
    grey = to_grey(image[..., 0])
    views = [grey, painted(grey, truth, opacity), painted(grey, prediction, opacity)]
    picture = np.concatenate(views, axis=1).round().astype(np.uint8)
    return picture if upright else picture[::-1]


def strip(images, *, scale, upright=False):
    """Draws the middle slices of several images beside each other, on one grey scale.

    Args:
        images: float arrays `([depth,] height, width, channels)`; the first channel is shown.
        scale: The image whose slice has the grey scale.
        upright: As in `panel`.

    Returns:
        uint8 array `(height, len(images) * width, 3)`.
    """
    limits = np.percentile(_middle(scale), (0.5, 99.5))
    greys = [to_grey(_middle(image), limits) for image in images]
    picture = np.concatenate(greys, axis=1).round().astype(np.uint8)
    return picture if upright else picture[::-1]


def _middle(image):
    first = image[..., 0]
    return first[len(first) // 2] if first.ndim == 3 else first


def to_grey(slice_, limits=None):
    """Returns a slice as float32 grey values `(height, width, 3)` from 0 to 255.

    Args:
        slice_: float array `(height, width)`.
        limits: Values that become black and white; `None`: its percentiles 0.5 and 99.5.
    """
    low, high = np.percentile(slice_, (0.5, 99.5)) if limits is None else limits
    scaled = np.clip((slice_ - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.repeat(scaled[..., None], 3, axis=-1).astype(np.float32)


def painted(grey, labels, opacity):
    """Returns grey values, see `to_grey`, with the colours of labels mixed in, see `panel`."""
    labels = np.asarray(labels)
    colours = PALETTE[(labels - 1) % len(PALETTE)]
    mixed = (1 - opacity) * grey + opacity * colours
    return np.where(labels[..., None] > 0, mixed, grey)
