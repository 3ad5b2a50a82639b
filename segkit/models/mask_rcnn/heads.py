"""The networks that look at one region: which class, where exactly, and which of its pixels."""

import keras
from keras import layers

from segkit.layers.normalization import normalization as make_normalization


def box_head(num_classes, filters, *, size, units, name):
    """Builds the network that tells a region's class and moves its box.

    Departure from the papers: one set of offsets, whatever the class.

    Args:
        num_classes: Number of classes, background included.
        filters: Channels of the pyramid.
        size: Side of a region's features.
        units: Units of the two dense layers.
        name: Name of the network.

    Returns:
        `keras.Model` from `(regions, size, size, filters)` to `[logits, offsets]`, float32
        `(regions, num_classes)` and `(regions, 4)`.

    Reference: Lin et al., arXiv:1612.03144, section 4.2.
    """
    x = features = keras.Input((size, size, filters), name="features")
    x = layers.Flatten(name="box_flat")(x)
    for number in (1, 2):
        x = layers.Dense(units, "relu", kernel_initializer="he_normal", name=f"box_dense{number}")(
            x
        )
    logits = _last(num_classes, 0.01, "class_logits")(x)
    return keras.Model(features, [logits, _last(4, 0.001, "box_offsets")(x)], name=name)


def mask_head(num_masks, filters, *, size, convs, normalization):
    """Builds the network that draws the mask of a region.

    Args:
        num_masks: 1, or the number of classes without the background.
        filters: Channels of the pyramid and of each convolution.
        size: Side of a region's features; that of the masks is twice as large.
        convs: Number of convolutions of kernel 3.
        normalization: As in `segkit.layers.normalization`.

    Returns:
        `keras.Model` from `(regions, size, size, filters)` to float32 logits `(regions, 2 * size,
        2 * size, num_masks)`.

    Reference: He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870, figure 4 (right).
    """
    x = features = keras.Input((size, size, filters), name="features")
    for number in range(1, convs + 1):
        x = layers.Conv2D(
            filters, 3, padding="same", kernel_initializer="he_normal", name=f"mask_conv{number}"
        )(x)
        x = make_normalization(normalization, filters, name=f"mask_norm{number}")(x)
        x = layers.ReLU(name=f"mask_relu{number}")(x)
    x = layers.Conv2DTranspose(
        filters, 2, 2, activation="relu", kernel_initializer="he_normal", name="mask_upsample"
    )(x)
    logits = layers.Conv2D(num_masks, 1, dtype="float32", name="mask_logits")(x)
    return keras.Model(features, logits, name="mask_head")


def _last(units, deviation, name):
    initial = keras.initializers.RandomNormal(stddev=deviation)
    return layers.Dense(units, kernel_initializer=initial, dtype="float32", name=name)
