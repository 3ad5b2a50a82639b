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
from segkit.models.axes import rank_of
from segkit.models.blocks import Style
from segkit.models.blocks import conv_stage
from segkit.models.checks import check_input
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import decode
from segkit.models.encoder_decoder import encode
from segkit.models.stages import doubling

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
    stages = doubling(
        "fusion_unet",
        rank_of("fusion_unet", input_shape),
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
        convs_per_stage=convs_per_stage,
    )
    rank, multiple = stages.rank, stages.multiples
    check_input("fusion_unet", num_classes, input_shape, rank=rank, multiple=multiple)
    modalities = modalities or [1] * input_shape[-1]
    _check_options(modalities, input_shape[-1], modality_dropout, covariates, case_classes)
    stage = partial(conv_stage, style=Style(normalization))

    inputs = {"image": keras.Input(input_shape, name="image")}
    maps = _encode(inputs["image"], modalities, modality_dropout, stages, stage)
    if covariates:
        inputs["covariates"] = keras.Input((covariates,), name="covariates")
        hidden = layers.Dense(HIDDEN, kernel_initializer="he_normal", name="covariates_hidden")
        vector = layers.LeakyReLU(0.01, name="covariates_relu")(hidden(inputs["covariates"]))
        maps[-1] = FiLM(name="film")([maps[-1], vector])

    outputs = {}
    if case_classes:
        pooled = [AVERAGE[rank](name="case_average"), MAXIMUM[rank](name="case_maximum")]
        pooled = layers.Concatenate(name="case_features")([pool(maps[-1]) for pool in pooled])
        head = layers.Dense(case_classes, dtype="float32", name="case_logits")
        outputs["case_logits"] = head(pooled)
    logits = decode(maps, stages, stage, num_classes)
    outputs = {"logits": logits, **outputs} if outputs else logits
    inputs = inputs if covariates else inputs["image"]
    return keras.Model(inputs, outputs, name="fusion_unet")


def _encode(image, modalities, modality_dropout, stages, stage):
    """Returns the fused features at each resolution, the finest first."""
    if len(modalities) == 1:
        return encode(image, stages, stage, suffix="_0")
    if modality_dropout:
        image = ModalityDropout(modality_dropout, modalities, name="modality_dropout")(image)
    there = ModalityPresence(modalities, name="present")(image)
    stops = [sum(modalities[: n + 1]) for n in range(len(modalities) - 1)]
    encoded = [
        encode(stream, stages, stage, suffix=f"_{n}")
        for n, stream in enumerate(ops.split(image, stops, axis=-1))
    ]
    return [
        ModalityFusion(name=f"fusion{level}")([*maps, there])
        for level, maps in enumerate(zip(*encoded, strict=True))
    ]


def _check_options(modalities, channels, modality_dropout, covariates, case_classes):
    if min(modalities) < 1 or sum(modalities) != channels:
        raise ConfigError(
            f"fusion_unet needs modalities that share out the {channels} channels of the image, "
            f"got {list(modalities)}. Their numbers must be above 0 and add up to {channels}."
        )
    check_range("fusion_unet", "modality_dropout", modality_dropout, low=0, high=1)
    check_range("fusion_unet", "covariates", covariates, low=0)
    if case_classes == 1 or case_classes < 0:
        raise ConfigError(
            f"fusion_unet needs case_classes to be 0 or at least 2, got {case_classes}."
        )
