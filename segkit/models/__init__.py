"""Networks, by name: segmentation, and the generators and critics of adversarial training."""

from segkit.tables import check_options
from segkit.tables import is_own
from segkit.tables import load

MODELS = {
    "unet": "segkit.models.unet:unet",
    "unet3d": "segkit.models.unet:unet3d",
    "unet2015": "segkit.models.unet2015:unet2015",
    "plain_unet": "segkit.models.plain_unet:plain_unet",
    "resenc_unet": "segkit.models.resenc_unet:resenc_unet",
    "attention_unet": "segkit.models.attention_unet:attention_unet",
    "unet_plus_plus": "segkit.models.unet_plus_plus:unet_plus_plus",
    "vnet": "segkit.models.vnet:vnet",
    "mednext": "segkit.models.mednext:mednext",
    "deeplabv3plus": "segkit.models.deeplabv3plus:deeplabv3plus",
    "dpn": "segkit.models.dpn:dpn",
    "fcn32s": "segkit.models.fcn:fcn32s",
    "fcn16s": "segkit.models.fcn:fcn16s",
    "fcn8s": "segkit.models.fcn:fcn8s",
    "convlstm_unet": "segkit.models.convlstm_unet:convlstm_unet",
    "fusion_unet": "segkit.models.fusion_unet:fusion_unet",
    "mask_rcnn": "segkit.models.mask_rcnn.builder:mask_rcnn",
}

GENERATORS = {  # make images
    "spade": "segkit.models.gan.spade:spade",
    "dcgan": "segkit.models.gan.dcgan:dcgan",
    "style": "segkit.models.gan.style:style",
    "inpainter": "segkit.models.gan.inpainter:inpainter",
    "restorer": "segkit.models.gan.restorer:restorer",
    "translator": "segkit.models.gan.translator:translator",
}

CRITICS = {  # judge images
    "patch": "segkit.models.gan.patch:patch",
    "global": "segkit.models.gan.global_critic:global_critic",
}

DETECTORS = ("mask_rcnn",)  # find objects one by one, and learn from a data set with objects


def build_model(name, num_classes, input_shape, **options):
    """Builds a network with new weights.

    Args:
        name: Key of `MODELS` or `GENERATORS`, or `module:function`.
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; a side
            may be `None`. Of a generator: shape of the image that it makes.
        **options: Keyword-only arguments of the network's builder.

    Returns:
        Uncompiled `keras.Model` from `image` `(batch, *spatial, channels)` to float32 logits
        `(batch, *spatial, num_classes)`; `mask_rcnn` gives a dict of boxes, classes and masks. A
        generator takes a dict of inputs and gives a float32 image `(batch, *spatial, channels)`.

    Raises:
        ConfigError: Unknown name or option, or a value of the wrong type.
        ShapeError: If `input_shape` does not fit the network, or the output of a network of the
            user's own is not as above.
    """
    table = MODELS | GENERATORS
    check_options(table, name, options, "model")
    model = load(table, name, "model")(num_classes, tuple(input_shape), **options)
    if is_own(name):
        from segkit.models.checks import check_network

        check_network(name, model, num_classes, tuple(input_shape))
    return model


def build_critic(name, input_shape, condition_channels, **options):
    """Builds a network that judges images, with new weights.

    Args:
        name: Key of `CRITICS`, or `module:function`.
        input_shape: Shape of the image, `(height, width, channels)` or `(depth, height, width,
            channels)`.
        condition_channels: Channels of what the critic sees beside the image, or 0.
        **options: Keyword-only arguments of the critic's builder.

    Returns:
        Uncompiled `keras.Model` from a dict of `image`, and `condition` where that has channels,
        both `(batch, *spatial, channels)`, to a dict of float32: `logits_0`, `logits_1`, ...
        `(batch, *positions, 1)`, one per scale, the finest first, and `features_S_L`
        `(batch, *positions, channels)` of scale `S` and layer `L`.

    Raises:
        ConfigError: Unknown name or option, or a value of the wrong type.
        ShapeError: If `input_shape` does not fit the critic.
    """
    check_options(CRITICS, name, options, "critic")
    builder = load(CRITICS, name, "critic")
    return builder(tuple(input_shape), condition_channels, **options)
