"""DPN, the deep pre-trained network: pre-trained without labels, then fine-tuned to segment.

One encoder-decoder with three heads: classes of voxels (`dpn`), intensities of voxels
(`reconstructor`) and classes of whole patches (`classifier`). Layers have the names of the U-Net
family, so weights found by pre-training fit any of its networks of the same widths.
"""

from functools import partial

import keras
from keras import layers

from segkit.layers.dropout import Dropout
from segkit.layers.normalization import normalization as make_normalization
from segkit.models.checks import check_input
from segkit.models.checks import check_range

CONV = {2: layers.Conv2D, 3: layers.Conv3D}
CONV_TRANSPOSE = {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}
POOL = {2: layers.AveragePooling2D, 3: layers.AveragePooling3D}
POOLED = 4  # least length that a side of the encoder's result is pooled to


def dpn(
    num_classes,
    input_shape,
    *,
    filters: int = 32,
    downsamplings: int = 3,
    convs_per_stage: int = 2,
    max_filters: int = 320,
    normalization: str = "instance",
    dropout: float = 0.0,
    skips: bool = True,
):
    """Builds the network for fine-tuning: encoder, decoder and a classification layer.

    It is 2-D or 3-D, as `input_shape` is. Layers, names and defaults are those of `unet3d`.

    Departures from the paper: convolutional stages instead of restricted Boltzmann machines that
    are trained one by one, all layers at once, a decoder with skips, and 3 classes or more.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `([depth,] height, width, channels)`; sides are `None` or multiples of
            `2 ** downsamplings`.
        filters: Filters of the first stage; they double with each downsampling.
        downsamplings: How often the resolution is halved.
        convs_per_stage: Convolutions per stage, in the encoder and in the decoder.
        max_filters: Upper bound on the filters of a stage.
        normalization: `"instance"`, `"group"` (8 groups; filters must be multiples of 8),
            `"batch"` (over groups of two examples) or `"none"`.
        dropout: Rate at the end of the encoder.
        skips: Hand the encoder's stages on to the decoder, as U-Net does. Without them all that
            is known of the image passes through the coarsest stage.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, *spatial, num_classes)`.

    Raises:
        ConfigError: Unknown normalization, a number out of range, or fewer than two classes.
        ShapeError: If `input_shape` is neither 2-D nor 3-D, or a side does not fit.

    Reference:
        Pre-training by reconstruction, then fine-tuning with a classification layer: Hinton and
        Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 2006,
        doi:10.1126/science.1127647, figure 1. Encoder and decoder: Isensee et al., "nnU-Net",
        Nature Methods 2021, doi:10.1038/s41592-020-01008-z.
    """
    rank = 2 if len(input_shape) == 3 else 3
    check_range("dpn", "filters", filters, low=1)
    check_range("dpn", "downsamplings", downsamplings, low=0)
    check_range("dpn", "convs_per_stage", convs_per_stage, low=1)
    check_range("dpn", "max_filters", max_filters, low=1)
    check_range("dpn", "dropout", dropout, low=0, high=1)
    check_input("dpn", num_classes, input_shape, rank=rank, multiple=2**downsamplings)
    widths = [min(filters * 2**level, max_filters) for level in range(downsamplings + 1)]
    stage = partial(_stage, rank=rank, convs=convs_per_stage, normalization=normalization)

    x = inputs = keras.Input(input_shape, name="image")
    encoded = []
    for level, width in enumerate(widths):
        x = stage(x, width, stride=2 if level else 1, name=f"encoder{level}")
        encoded.append(x)
    if dropout:
        x = Dropout(dropout, name="dropout")(x)
    for level in reversed(range(downsamplings)):
        up = CONV_TRANSPOSE[rank](
            widths[level], 2, 2, kernel_initializer="he_normal", name=f"up{level}"
        )
        x = up(x)
        if skips:
            x = layers.Concatenate(name=f"skip{level}")([encoded[level], x])
        x = stage(x, widths[level], stride=1, name=f"decoder{level}")
    logits = CONV[rank](num_classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="dpn")


def reconstructor(input_shape, *, drop_skips=False, **options):
    """Builds `dpn` with a layer that gives intensities in place of classes.

    Args:
        input_shape: As in `dpn`.
        drop_skips: Leave the skips out, whatever the options say.
        **options: Options of `dpn`.

    Returns:
        `keras.Model` from `image` to float32 `reconstruction`, of the image's shape.
    """
    trunk = dpn(2, input_shape, **options | ({"skips": False} if drop_skips else {}))
    features = trunk.get_layer("logits").input
    head = CONV[len(input_shape) - 1](input_shape[-1], 1, dtype="float32", name="reconstruction")
    return keras.Model(trunk.input, head(features), name="dpn_reconstruction")


def classifier(input_shape, *, questions, classes, **options):
    """Builds the encoder of `dpn` with a layer that answers questions about the whole patch.

    The encoder's result is averaged over boxes, so that each side keeps 4 to 7 values where it
    has as many, and one dense layer sees all of them.

    Args:
        input_shape: As in `dpn`; all sides are given.
        questions: Number of questions.
        classes: Number of possible answers, the same for all.
        **options: Options of `dpn`.

    Returns:
        `keras.Model` from `image` to float32 `answers`, logits `(batch, questions, classes)`.
    """
    trunk = dpn(2, input_shape, **options)
    x = [layer.output for layer in trunk.layers if layer.name.startswith("encoder")][-1]
    size = [max(1, side // POOLED) for side in x.shape[1:-1]]
    x = layers.Flatten(name="features")(POOL[len(size)](size, name="pool")(x))
    x = layers.Dense(questions * classes, dtype="float32", name="head")(x)
    answers = layers.Reshape((questions, classes), dtype="float32", name="answers")(x)
    return keras.Model(trunk.input, answers, name="dpn_classifier")


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
