"""VGG-16's ImageNet weights, as `keras.applications` has them, for networks made from it."""

from pathlib import Path

import h5py
import keras
import numpy as np

from segkit.errors import DataError

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # (convolutions, filters)
FLAT = 7 * 7 * 512  # inputs of fc1: the last pooled features of an image of 224 pixels
# Standard deviations of ImageNet's red, green and blue, on the scale 0 to 255 that VGG-16 takes.
STANDARD_DEVIATION = 255 * np.array([0.229, 0.224, 0.225], "float32")


def load_vgg16(model, weights):
    """Sets conv1_1 to conv5_3 of a network to VGG-16's, and fc6 and fc7 where they are to be had.

    VGG-16 takes blue, green and red from 0 to 255 less their means over ImageNet. The first
    kernel is reordered and multiplied by ImageNet's standard deviations, so that the network takes
    red, green and blue of mean 0 and standard deviation 1. With another number of channels it is
    summed over the colours and divided by the number: `n` equal channels give what a grey image
    does.

    Args:
        model: Network with layers `conv1_1`, ... `conv5_3`, `fc6`, `fc7`, each with a bias. The
            dense layers fit where fc6 has kernel 7; otherwise fc6 and fc7 are left as they are.
        weights: Path of an `.h5` or `.keras` file of `keras.applications.VGG16`, with its dense
            layers or without; or `"imagenet"`, which `keras.applications` fetches.

    Raises:
        DataError: If the file is missing or is none of VGG-16, or cannot be fetched.
    """
    dense = model.get_layer("fc6").kernel_size == (7, 7)
    found = {layer.name: layer.get_weights() for layer in _read(weights, dense).layers}
    names = {
        f"conv{stage}_{i}": f"block{stage}_conv{i}"
        for stage, (convs, _) in enumerate(STAGES, start=1)
        for i in range(1, convs + 1)
    }
    if dense and "fc1" in found:
        names |= {"fc6": "fc1", "fc7": "fc2"}
    for name, source in names.items():
        kernel, bias = found.get(source) or (None, None)
        if name == "conv1_1" and np.shape(kernel) == (3, 3, 3, 64):
            kernel = first_kernel(kernel, model.input_shape[-1])
        layer = model.get_layer(name)
        if kernel is None or kernel.size != np.prod(layer.kernel.shape):
            got = "no such layer" if kernel is None else f"{source} of shape {kernel.shape}"
            raise DataError(
                f"{weights} does not hold VGG-16: {name} needs {source} with a kernel of "
                f"{tuple(layer.kernel.shape)}, got {got}. Save keras.applications.VGG16 again."
            )
        layer.set_weights([kernel.reshape(layer.kernel.shape), bias])


def _read(weights, dense):
    """Returns the network that a file holds, or that is fetched."""
    fetched = weights == "imagenet"
    if not fetched and not Path(weights).is_file():
        raise DataError(
            f"no file {weights} with VGG-16's weights. Give the path of an .h5 or .keras file of "
            "keras.applications.VGG16, or 'imagenet' to fetch them."
        )
    try:
        if not fetched and weights.endswith(".keras"):
            return keras.saving.load_model(weights, safe_mode=True)
        top = dense if fetched else _has_dense_layers(weights)
        return keras.applications.VGG16(weights=weights, include_top=top)
    except Exception as error:  # Keras raises a bare one when it cannot fetch
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        what = "cannot fetch VGG-16's weights" if fetched else f"{weights} does not hold VGG-16"
        raise DataError(
            f"{what}: {reason}. Give the path of an .h5 or .keras file of keras.applications.VGG16."
        ) from error


def _has_dense_layers(path):
    shapes = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: shapes.append(getattr(item, "shape", ())))
    return any(shape[:1] == (FLAT,) for shape in shapes)


def first_kernel(kernel, channels):
    """Returns the first kernel of a network of `keras.applications` for images as above.

    Args:
        kernel: Its kernel `(rows, columns, 3, filters)`, of blue, green and red from 0 to 255.
        channels: Channels of the images.
    """
    kernel = kernel[:, :, ::-1] * STANDARD_DEVIATION[:, None]
    if channels == 3:
        return kernel
    return np.repeat(kernel.sum(axis=2, keepdims=True) / channels, channels, axis=2)
