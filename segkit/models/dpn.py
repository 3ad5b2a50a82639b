"""DPN, the deep pre-trained network: pre-trained without labels, then fine-tuned to segment.

One encoder-decoder with three heads: classes of voxels (`dpn`), intensities of voxels
(`reconstructor`) and classes of whole patches (`classifier`). Layers have the names of the U-Net
family, so weights found by pre-training fit any of its networks of the same widths.
"""

from functools import partial

import keras
from keras import layers

from segkit.layers.dropout import Dropout
from segkit.models.axes import rank_of
from segkit.models.blocks import CONV
from segkit.models.blocks import Style
from segkit.models.blocks import conv_stage
from segkit.models.checks import check_input
from segkit.models.checks import check_range
from segkit.models.encoder_decoder import decode
from segkit.models.encoder_decoder import encode
from segkit.models.stages import doubling

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
    stages = doubling(
        "dpn",
        rank_of("dpn", input_shape),
        filters=filters,
        max_filters=max_filters,
        downsamplings=downsamplings,
        convs_per_stage=convs_per_stage,
    )
    check_range("dpn", "dropout", dropout, low=0, high=1)
    check_input("dpn", num_classes, input_shape, rank=stages.rank, multiple=stages.multiples)
    stage = partial(conv_stage, style=Style(normalization))

    image = keras.Input(input_shape, name="image")
    maps = encode(image, stages, stage)
    if dropout:
        maps[-1] = Dropout(dropout, name="dropout")(maps[-1])
    return keras.Model(image, decode(maps, stages, stage, num_classes, skips=skips), name="dpn")


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
