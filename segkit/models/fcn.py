"""Fully convolutional networks on VGG-16: FCN-32s, FCN-16s and FCN-8s."""

from functools import partial

import keras
from keras import layers

from segkit.errors import ConfigError
from segkit.layers.bilinear import Bilinear
from segkit.layers.dropout import Dropout
from segkit.layers.normalization import GROUPS
from segkit.layers.normalization import normalization as make_normalization
from segkit.models.checks import check_input
from segkit.models.checks import check_range
from segkit.models.vgg16 import STAGES
from segkit.models.vgg16 import load_vgg16

FC_FILTERS = 4096
# Skips in the order of the decoder: pooled stage, its score layer, upsampling before the sum.
SKIPS = ((4, "score_pool4", "upscore2"), (3, "score_pool3", "upscore_pool4"))


def fcn32s(
    num_classes,
    input_shape,
    *,
    width: float = 1.0,
    dropout: float = 0.5,
    normalization: str = "none",
    fc_kernel: int = 7,
    weights: str | None = None,
):
    """Builds FCN-32s: VGG-16 scores at stride 32, upsampled at once. Otherwise as `fcn8s`."""
    return _build("fcn32s", 0, **locals())


def fcn16s(
    num_classes,
    input_shape,
    *,
    width: float = 1.0,
    dropout: float = 0.5,
    normalization: str = "none",
    fc_kernel: int = 7,
    weights: str | None = None,
):
    """Builds FCN-16s: one skip, from pool4. Otherwise as `fcn8s`."""
    return _build("fcn16s", 1, **locals())


def fcn8s(
    num_classes,
    input_shape,
    *,
    width: float = 1.0,
    dropout: float = 0.5,
    normalization: str = "none",
    fc_kernel: int = 7,
    weights: str | None = None,
):
    """Builds FCN-8s: VGG-16 features, with skips from pool4 and pool3.

    Departures from the paper: "same" padding instead of 100 pixels of padding and a crop; all
    layers are trained together (the paper goes stage by stage), from random weights (He normal)
    or from VGG-16's as in the paper; scores start from Glorot uniform weights (the paper's from
    zero); the last upsampling starts bilinear and is learned too. With 21 classes and 3 channels
    it has 134,489,759 weights, all of them trained.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)`; sides are `None` or multiples of 32.
        width: Factor on all filter counts of VGG-16; they are rounded to multiples of 8, at
            least 8.
        dropout: Rate after fc6 and fc7.
        normalization: `"none"` as in the paper, or `"group"`: 8 groups after every convolution
            of the trunk, which then has no bias. Without ImageNet weights choose `"group"`.
        fc_kernel: Kernel of fc6. The paper's 7 spans 224 pixels of the input; images smaller
            than that can do with 3.
        weights: Path of an `.h5` or `.keras` file of `keras.applications.VGG16`, or `"imagenet"`,
            which Keras fetches: VGG-16's ImageNet weights for conv1_1 to conv5_3, and with
            `fc_kernel` 7 its dense layers, if the file has them, for fc6 and fc7. Needs width 1.0
            and no normalization. Images are red, green and blue, or any number of channels, of
            mean 0 and standard deviation 1: VGG-16's order (blue first), means and scale are
            put into the first kernel, see `segkit.models.vgg16.load_vgg16`.

    Returns:
        `keras.Model` from `image` to float32 `logits` `(batch, height, width, num_classes)`.

    Raises:
        ConfigError: Unknown normalization, a number out of range, or fewer than two classes.
        ShapeError: If `input_shape` is not 2-D, or a side does not fit; names the size to pad to.
        DataError: If the file of `weights` is missing or holds something else.

    Reference:
        Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015,
        arXiv:1411.4038, figure 3 and section 4.
    """
    return _build("fcn8s", 2, **locals())


def _build(
    name,
    num_skips,
    *,
    num_classes,
    input_shape,
    width,
    dropout,
    normalization,
    fc_kernel,
    weights,
):
    check_input(name, num_classes, input_shape, rank=2, multiple=32)
    check_range(name, "width", width, low=0)
    check_range(name, "dropout", dropout, low=0, high=1)
    check_range(name, "fc_kernel", fc_kernel, low=1)
    if weights and (width != 1.0 or normalization != "none"):
        raise ConfigError(
            f"{name} needs width 1.0 and normalization none for VGG-16's weights, got {width} and "
            f"{normalization}. Leave both out, or leave out weights."
        )
    conv = partial(_conv, width=width, normalization=normalization)

    x = inputs = keras.Input(input_shape, name="image")
    pools = {}
    for stage, (convs, filters) in enumerate(STAGES, start=1):
        for i in range(1, convs + 1):
            x = conv(x, filters, 3, name=f"conv{stage}_{i}")
        x = pools[stage] = layers.MaxPool2D(name=f"pool{stage}")(x)
    x = Dropout(dropout, name="drop6")(conv(x, FC_FILTERS, fc_kernel, name="fc6"))
    x = Dropout(dropout, name="drop7")(conv(x, FC_FILTERS, 1, name="fc7"))

    x = layers.Conv2D(num_classes, 1, name="score_fr")(x)
    for stage, score, upscore in SKIPS[:num_skips]:
        x = _upsample(x, num_classes, factor=2, name=upscore)
        skip = layers.Conv2D(num_classes, 1, name=score)(pools[stage])
        x = layers.Add(name=f"fuse_pool{stage}")([x, skip])
    factor = 32 // 2**num_skips
    logits = _upsample(x, num_classes, factor=factor, name="logits", dtype="float32")
    model = keras.Model(inputs, logits, name=name)
    if weights:
        load_vgg16(model, weights)
    return model


def _conv(x, filters, kernel, *, width, normalization, name):
    filters = max(1, round(filters * width / GROUPS)) * GROUPS
    x = layers.Conv2D(
        filters,
        kernel,
        padding="same",
        use_bias=normalization == "none",
        kernel_initializer="he_normal",
        name=name,
    )(x)
    x = make_normalization(normalization, filters, name=f"{name}_norm", known=("group", "none"))(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _upsample(x, num_classes, *, factor, name, dtype=None):
    return layers.Conv2DTranspose(
        num_classes,
        2 * factor,
        factor,
        padding="same",
        use_bias=False,
        kernel_initializer=Bilinear(),
        dtype=dtype,
        name=name,
    )(x)
