"""ImageNet weights of `keras.applications`' ResNets, for the same networks here."""

from pathlib import Path

import keras
import numpy as np

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.models.vgg16 import first_kernel

NETWORKS = {"resnet50": "ResNet50", "resnet101": "ResNet101"}
EPSILON = 1.001e-5  # of the batch normalization of keras.applications


def load_resnet(model, name, weights, normalization):
    """Sets the convolutions of a backbone to those of a ResNet of `keras.applications`.

    With normalization `batch` its statistics are taken over, and with `none` they are made part of
    the convolutions: both compute what the original does. With `group` and `instance` only the
    kernels are taken over. The image is expected as in `segkit.models.vgg16`: red, green and blue
    of mean 0 and standard deviation 1; another number of channels shares the sum over the colours.

    Args:
        model: Network with the layers of `backbones.backbone`.
        name: `resnet50` or `resnet101`.
        weights: `imagenet`, which `keras.applications` fetches, or the path of an `.h5` or `.keras`
            file of that network, with its dense layer or without.
        normalization: That of the network.

    Raises:
        ConfigError: If `keras.applications` has no such network.
        DataError: If the file is missing or another network's, or cannot be fetched.
    """
    if name not in NETWORKS:
        raise ConfigError(
            f"mask_rcnn has weights for the backbones {', '.join(NETWORKS)} only, got {name}. "
            "Leave out model.weights."
        )
    source = _read(NETWORKS[name], weights)
    found = {layer.name: layer.get_weights() for layer in source.layers}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Conv2D) or not layer.name.endswith("_conv"):
            continue
        norm = layer.name.removesuffix("conv") + "bn"
        if layer.name not in found or norm not in found:
            raise DataError(f"{weights} does not hold {NETWORKS[name]}: it has no {layer.name}.")
        kernel, bias = found[layer.name]
        if layer.name == "conv1_conv":
            kernel = first_kernel(kernel, layer.kernel.shape[2])
        if kernel.shape != tuple(layer.kernel.shape):
            raise DataError(
                f"{weights} does not fit: {layer.name} has a kernel of {kernel.shape} there and of "
                f"{tuple(layer.kernel.shape)} here. Leave out model.filters."
            )
        _set(model, layer, norm, kernel, bias, found[norm], normalization)


def _set(model, layer, norm, kernel, bias, statistics, normalization):
    gamma, beta, mean, variance = statistics
    if normalization == "none":
        scale = gamma / np.sqrt(variance + EPSILON)
        layer.set_weights([kernel * scale, (bias - mean) * scale + beta])
        return
    layer.set_weights([kernel])
    if normalization == "batch":
        model.get_layer(norm).set_weights([gamma, beta, mean - bias, variance])


def _read(network, weights):
    if weights != "imagenet" and not Path(weights).is_file():
        raise DataError(
            f"no file {weights} with the weights of {network}. Give the path of an .h5 or .keras "
            f"file of keras.applications.{network}, or 'imagenet' to fetch them."
        )
    try:
        if weights.endswith(".keras"):
            return keras.saving.load_model(weights, safe_mode=True)
        return getattr(keras.applications, network)(weights=weights, include_top=False)
    except Exception as error:  # Keras raises a bare one when it cannot fetch
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"cannot read the weights of {network} from {weights}: {reason}. Give the path of an "
            f".h5 or .keras file of keras.applications.{network}."
        ) from error
