"""U-Net with an encoder per modality, fused at every resolution, and covariates at the bottom."""

from functools import partial

import keras
from keras import layers
from keras import ops

from segkit.errors import ConfigError
from segkit.layers.film import FiLM
from segkit.layers.modality_dropout import ModalityDropout
from segkit.layers.modality_fusion import ModalityFusion
from segkit.layers.modality_presence import ModalityPresence
from segkit.layers.normalization import normalization as make_normalization
from segkit.models.checks import check_input
from segkit.models.checks import check_range

CONV = {2: layers.Conv2D, 3: layers.Conv3D}
CONV_TRANSPOSE = {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}
AVERAGE = {2: layers.GlobalAveragePooling2D, 3: layers.GlobalAveragePooling3D}
MAXIMUM = {2: layers.GlobalMaxPooling2D, 3: layers.GlobalMaxPooling3D}
HIDDEN = 64  # units between covariates and FiLM


def fusion_unet(
    num_classes,
    input_shape,
    *,
    modalities: list[int] | None = None,
    filters: int = 16,
    downsamplings: int = 3,
    convs_per_stage: int = 2,
    max_filters: int = 320,
    normalization: str = "instance",
    modality_dropout: float = 0.0,
    covariates: int = 0,
    case_classes: int = 0,
):
    """Builds the U-Net with mid fusion, for slices or volumes.

    Each modality, a group of channels, has an encoder of its own. At each resolution their
    features become one map by `ModalityFusion`, which goes to the decoder; the encoders do not
    see each other. A modality whose channels are 0 throughout is missing and has no part in the
    result, so a trained network takes cases that lack a series; `modality_dropout` trains it for
    them. With one modality there is nothing to fuse.

    Covariates act on the last fused features by `FiLM`, through one hidden layer of 64 units. A
    case is classified by the averages and maxima of these features.

    Departures from HeMIS: a U-Net instead of a fully convolutional network with one fusion;
    learned weights instead of mean and variance.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)` or `(depth, height, width, channels)`; sides are
            `None` or multiples of `2 ** downsamplings`.
        modalities: Number of channels of each modality, in the order of the channels: `[1, 3]`
            for a CT and three colours; `null`: each channel is a modality.
        filters: Filters of the first stage of each encoder and of the decoder's last; they double
            with each downsampling.
        downsamplings: How often the resolution is halved.
        convs_per_stage: Convolutions per stage, in the encoders and in the decoder.
        max_filters: Upper bound on the filters of a stage.
        normalization: As in `unet`.
        modality_dropout: Rate at which modalities are left out in training, see
            `ModalityDropout`; never all, so that one modality alone always stays.
        covariates: Length of the vector of covariates, see `segkit.covariates.entry_names`; 0: the
            network takes none.
        case_classes: Number of classes of the whole case; 0: it is not classified.

    Returns:
        `keras.Model` from `image`, with covariates from a dict of `image` and `covariates`
        `(batch, covariates)`, to float32 `logits` `(batch, *spatial, num_classes)`; with
        `case_classes` to a dict of these and `case_logits` `(batch, case_classes)`.

    Raises:
        ConfigError: Unknown normalization, a number out of range, modalities that do not add up
            to the channels, or fewer than two classes.
        ShapeError: If a side does not fit; names the size to pad to.

    Reference:
        Havaei et al., "HeMIS", MICCAI 2016, arXiv:1607.05194; Ronneberger et al., "U-Net", MICCAI
        2015, arXiv:1505.04597, in the form that `segkit.models.unet` lists; Perez et al., "FiLM",
        AAAI 2018, arXiv:1709.07871.
    """
    rank = 3 if len(input_shape) == 4 else 2
    check_input("fusion_unet", num_classes, input_shape, rank=rank, multiple=2**downsamplings)
    modalities = modalities or [1] * input_shape[-1]
    _check_options(
        modalities, input_shape[-1], filters, downsamplings, convs_per_stage, max_filters
    )
    _check_extras(modality_dropout, covariates, case_classes)
    widths = [min(filters * 2**level, max_filters) for level in range(downsamplings + 1)]
    stage = partial(_stage, rank=rank, convs=convs_per_stage, normalization=normalization)

    inputs = {"image": keras.Input(input_shape, name="image")}
    fused = _encode(inputs["image"], modalities, modality_dropout, widths, stage)
    x = fused.pop()
    if covariates:
        inputs["covariates"] = keras.Input((covariates,), name="covariates")
        hidden = layers.Dense(HIDDEN, kernel_initializer="he_normal", name="covariates_hidden")
        vector = layers.LeakyReLU(0.01, name="covariates_relu")(hidden(inputs["covariates"]))
        x = FiLM(name="film")([x, vector])

    outputs = {}
    if case_classes:
        pooled = [AVERAGE[rank](name="case_average")(x), MAXIMUM[rank](name="case_maximum")(x)]
        pooled = layers.Concatenate(name="case_features")(pooled)
        outputs["case_logits"] = layers.Dense(case_classes, dtype="float32", name="case_logits")(
            pooled
        )
    for level in reversed(range(downsamplings)):
        up = CONV_TRANSPOSE[rank](
            widths[level], 2, 2, kernel_initializer="he_normal", name=f"up{level}"
        )
        x = layers.Concatenate(name=f"skip{level}")([fused[level], up(x)])
        x = stage(x, widths[level], stride=1, name=f"decoder{level}")
    logits = CONV[rank](num_classes, 1, dtype="float32", name="logits")(x)
    outputs = {"logits": logits, **outputs} if outputs else logits
    inputs = inputs if covariates else inputs["image"]
    return keras.Model(inputs, outputs, name="fusion_unet")


def _encode(image, modalities, modality_dropout, widths, stage):
    """Returns the fused features at each resolution, the finest first."""
    if len(modalities) == 1:
        streams = [image]
    else:
        if modality_dropout:
            image = ModalityDropout(modality_dropout, modalities, name="modality_dropout")(image)
        there = ModalityPresence(modalities, name="present")(image)
        stops = [sum(modalities[: n + 1]) for n in range(len(modalities) - 1)]
        streams = ops.split(image, stops, axis=-1)
    fused = []
    for level, width in enumerate(widths):
        stride = 2 if level else 1
        streams = [
            stage(x, width, stride=stride, name=f"encoder{level}_{n}")
            for n, x in enumerate(streams)
        ]
        alone = len(streams) == 1
        fuse = ModalityFusion(name=f"fusion{level}")
        fused.append(streams[0] if alone else fuse([*streams, there]))
    return fused


def _stage(x, filters, *, stride, rank, convs, normalization, name):
    for i in range(1, convs + 1):
        x = CONV[rank](
            filters,
            3,
            strides=stride if i == 1 else 1,
            padding="same",
            use_bias=normalization == "none",
            kernel_initializer="he_normal",
            name=f"{name}_conv{i}",
        )(x)
        x = make_normalization(normalization, filters, name=f"{name}_norm{i}")(x)
        x = layers.LeakyReLU(0.01, name=f"{name}_relu{i}")(x)
    return x


def _check_options(modalities, channels, filters, downsamplings, convs_per_stage, max_filters):
    check_range("fusion_unet", "filters", filters, low=1)
    check_range("fusion_unet", "downsamplings", downsamplings, low=0)
    check_range("fusion_unet", "convs_per_stage", convs_per_stage, low=1)
    check_range("fusion_unet", "max_filters", max_filters, low=1)
    if min(modalities) < 1 or sum(modalities) != channels:
        raise ConfigError(
            f"fusion_unet needs modalities that share out the {channels} channels of the image, "
            f"got {list(modalities)}. Their numbers must be above 0 and add up to {channels}."
        )


def _check_extras(modality_dropout, covariates, case_classes):
    check_range("fusion_unet", "modality_dropout", modality_dropout, low=0, high=1)
    check_range("fusion_unet", "covariates", covariates, low=0)
    if case_classes == 1 or case_classes < 0:
        raise ConfigError(
            f"fusion_unet needs case_classes to be 0 or at least 2, got {case_classes}."
        )
