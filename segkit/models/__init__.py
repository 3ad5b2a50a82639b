"""Segmentation networks, by name."""

from segkit.tables import check_options
from segkit.tables import load

MODELS = {
    "unet": "segkit.models.unet:unet",
    "unet3d": "segkit.models.unet:unet3d",
    "fcn32s": "segkit.models.fcn:fcn32s",
    "fcn16s": "segkit.models.fcn:fcn16s",
    "fcn8s": "segkit.models.fcn:fcn8s",
    "fusion_unet": "segkit.models.fusion_unet:fusion_unet",
}


def build_model(name, num_classes, input_shape, **options):
    """Builds a network with new weights.

    Args:
        name: Key of `MODELS`.
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; a side
            may be `None`.
        **options: Keyword-only arguments of the network's builder.

    Returns:
        Uncompiled `keras.Model` from `image` `(batch, *spatial, channels)` to float32 logits
        `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: Unknown name or option, or a value of the wrong type.
        ShapeError: If `input_shape` does not fit the network.
    """
    check_options(MODELS, name, options, "model")
    return load(MODELS, name, "model")(num_classes, tuple(input_shape), **options)
