"""U-Net for sequences of images, with a convolutional LSTM between encoder and decoder."""

from functools import partial

import keras
from keras import layers

from segkit.layers.conv_lstm import ConvLSTM
from segkit.layers.dropout import Dropout
from segkit.layers.normalization import normalization as make_normalization
from segkit.layers.per_frame import PerFrame
from segkit.models.checks import check_input
from segkit.models.checks import check_range
from segkit.models.stages import doubling


def convlstm_unet(
    num_classes,
    input_shape,
    *,
    filters: int = 32,
    downsamplings: int = 3,
    convs_per_stage: int = 2,
    max_filters: int = 512,
    normalization: str = "instance",
    bidirectional: bool = True,
    recurrent_stages: int = 1,
    dropout: float = 0.0,
):
    """Builds a recurrent U-Net for sequences of slices or of time frames.

    A sequence is the first axis of a volume. Encoder and decoder are those of `unet`, applied to
    every frame by itself; only the LSTMs look from frame to frame. Without `bidirectional` no
    frame depends on a later one, unless the normalization is `"batch"`.

    Departures from the papers: as `unet` (padded and strided convolutions, instance normalization,
    LeakyReLU); an LSTM follows the encoder's convolutions at its stage, where Arbelle and Raviv
    replace them by LSTMs at all stages and run forwards only; the two directions are
    concatenated; the states start from zero for every patch. For the departures of the LSTM itself
    see `segkit.layers.conv_lstm.ConvLSTM`.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(length, height, width, channels)`; the length is anything or `None`, the
            other sides are `None` or multiples of `2 ** downsamplings`.
        filters: Filters of the first stage; they double with each downsampling.
        downsamplings: How often the resolution of the frames is halved; the length never is.
        convs_per_stage: Convolutions per stage, in the encoder and in the decoder.
        max_filters: Upper bound on the filters of a stage.
        normalization: `"instance"` or `"group"` (8 groups; filters must be multiples of 8), of
            each frame; `"batch"` (over groups of two sequences) or `"none"`.
        bidirectional: Run a second LSTM from the last frame to the first.
        recurrent_stages: Stages with an LSTM, counted from the coarsest: 1 is the end of the
            contracting path alone, each further one is a skip connection; at most
            `downsamplings + 1`.
        dropout: Rate at the end of the contracting path, after the LSTM.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, length, height, width,
        num_classes)`: one mask per frame.

    Raises:
        ConfigError: Unknown normalization, a number out of range, or fewer than two classes.
        ShapeError: If `input_shape` is not 3-D, or a side does not fit; names the size to pad to.

    Reference:
        Shi et al., "Convolutional LSTM Network", NeurIPS 2015, arXiv:1506.04214; Arbelle and
        Raviv, "Microscopy Cell Segmentation via Convolutional LSTM Networks", ISBI 2019,
        arXiv:1805.11247, figure 1; both directions: Chen et al., "Combining Fully Convolutional
        and Recurrent Neural Networks for 3D Biomedical Image Segmentation", NeurIPS 2016,
        arXiv:1609.01006.
    """
    name = "convlstm_unet"
    widths = doubling(
        name,
        2,
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
        convs_per_stage=convs_per_stage,
    ).filters
    check_range(name, "recurrent_stages", recurrent_stages, low=1, high=downsamplings + 2)
    check_range(name, "dropout", dropout, low=0, high=1)
    _check_frames(name, num_classes, input_shape, 2**downsamplings)
    stage = partial(_stage, convs=convs_per_stage, normalization=normalization)

    x = inputs = keras.Input(input_shape, name="image")
    skips = []
    for level, width in enumerate(widths):
        x = stage(x, width, stride=2 if level else 1, name=f"encoder{level}")
        recurrent = level > downsamplings - recurrent_stages
        skips.append(_remember(x, width, bidirectional, f"lstm{level}") if recurrent else x)
    x = skips.pop()
    if dropout:
        x = Dropout(dropout, name="dropout")(x)

    for level in reversed(range(downsamplings)):
        up = layers.Conv2DTranspose(widths[level], 2, 2, kernel_initializer="he_normal")
        x = PerFrame(up, name=f"up{level}")(x)
        x = layers.Concatenate(name=f"skip{level}")([skips[level], x])
        x = stage(x, widths[level], stride=1, name=f"decoder{level}")
    head = layers.Conv2D(num_classes, 1, dtype="float32")
    return keras.Model(inputs, PerFrame(head, dtype="float32", name="logits")(x), name=name)


def _check_frames(name, num_classes, input_shape, multiple):
    """Checks the shape; the length need not be a multiple of anything."""
    length, *frame = input_shape
    known = (None, *frame) if len(frame) == 3 and (length is None or length > 0) else input_shape
    check_input(name, num_classes, known, rank=3, multiple=multiple)


def _stage(x, filters, *, stride, convs, normalization, name):
    for i in range(1, convs + 1):
        conv = layers.Conv2D(
            filters,
            3,
            strides=stride if i == 1 else 1,
            padding="same",
            use_bias=normalization == "none",
            kernel_initializer="he_normal",
        )
        x = PerFrame(conv, name=f"{name}_conv{i}")(x)
        x = _normalize(x, filters, normalization, f"{name}_norm{i}")
        x = layers.LeakyReLU(0.01, name=f"{name}_relu{i}")(x)
    return x


def _normalize(x, filters, normalization, name):
    per_frame = normalization in ("instance", "group")
    layer = make_normalization(normalization, filters, name=normalization if per_frame else name)
    return PerFrame(layer, name=name)(x) if per_frame else layer(x)


def _remember(x, filters, bidirectional, name):
    forward = ConvLSTM(filters, name=f"{name}_forward")(x)
    if not bidirectional:
        return forward
    backward = ConvLSTM(filters, reverse=True, name=f"{name}_backward")(x)
    return layers.Concatenate(name=name)([forward, backward])
