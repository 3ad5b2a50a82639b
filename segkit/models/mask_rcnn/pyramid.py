"""The feature pyramid, and the network that proposes boxes on each of its levels."""

import keras
from keras import layers

from segkit.layers.normalization import normalization as make_normalization
from segkit.models.mask_rcnn.backbones import LAST_LEVEL
from segkit.models.mask_rcnn.backbones import backbone


def pyramid_network(name, channels, *, levels, filters, normalization, backbone_filters=None):
    """Builds the backbone and its pyramid.

    Departure from the paper: each level is normalized after its last convolution, as in He et al.,
    "Rethinking ImageNet Pre-training", arXiv:1811.08883, section 3.1.

    Args:
        name: Key of `backbones.RESNETS`.
        channels: Channels of the image.
        levels: Consecutive levels from 2 to 6 or more; those above 5 are P5, strided.
        filters: Channels of each level.
        normalization: As in `segkit.layers.normalization`.
        backbone_filters: `filters` of `backbone`.

    Returns:
        `keras.Model` from images, whose sides are multiples of `2**min(5, levels[-1])`, to a list
        of feature maps `(batch, rows, columns, filters)`, finest first.

    Reference:
        Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144,
        section 3 and footnote 2.
    """
    inputs = keras.Input((None, None, channels), name="image")
    top = min(levels[-1], LAST_LEVEL)
    stages = backbone(
        name,
        inputs,
        normalization=normalization,
        filters=backbone_filters,
        last_level=top,
    )
    merged, found = None, {}
    for level in range(top, levels[0] - 1, -1):
        lateral = layers.Conv2D(filters, 1, name=f"lateral{level}")(stages[level])
        if merged is not None:
            coarse = layers.UpSampling2D(2, name=f"upsample{level}")(merged)
            lateral = layers.Add(name=f"merge{level}")([lateral, coarse])
        merged = lateral
        x = layers.Conv2D(filters, 3, padding="same", name=f"pyramid{level}")(merged)
        found[level] = make_normalization(normalization, filters, name=f"pyramid{level}_norm")(x)
    for level in range(top + 1, levels[-1] + 1):
        found[level] = found[level - 1][:, ::2, ::2]
    return keras.Model(inputs, [found[level] for level in levels], name="pyramid")


def proposal_network(filters, anchors):
    """Builds the network that scores the anchors of one level and moves them; levels share it.

    Args:
        filters: Channels of the pyramid.
        anchors: Anchors per cell.

    Returns:
        `keras.Model` from a feature map to `[logits, offsets]`, float32 `(batch, rows, columns,
        anchors)` and `(batch, rows, columns, 4 * anchors)`.

    Reference:
        Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv:1506.01497, section 3.1, with one score per
        anchor instead of two.
    """
    features = keras.Input((None, None, filters), name="features")
    x = layers.Conv2D(filters, 3, padding="same", name="proposal_conv")(features)
    x = layers.ReLU(name="proposal_relu")(x)
    small = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.01)}
    logits = layers.Conv2D(anchors, 1, dtype="float32", name="proposal_logits", **small)(x)
    offsets = layers.Conv2D(4 * anchors, 1, dtype="float32", name="proposal_offsets", **small)(x)
    return keras.Model(features, [logits, offsets], name="proposal")
