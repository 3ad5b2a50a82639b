"""Residual networks that give feature maps at several strides, for one to many channels."""

import keras
from keras import layers

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.layers.normalization import normalization as make_normalization

# Per backbone: blocks of the stages C2 to C5, whether they are bottlenecks, filters of C2.
RESNETS = {
    "small": ((1, 1, 1, 1), False, 32),
    "resnet18": ((2, 2, 2, 2), False, 64),
    "resnet34": ((3, 4, 6, 3), False, 64),
    "resnet50": ((3, 4, 6, 3), True, 64),
    "resnet101": ((3, 4, 23, 3), True, 64),
}
FIRST_LEVEL = 2
LAST_LEVEL = 5


def backbone(name, inputs, *, normalization, filters=None, last_level=LAST_LEVEL):
    """Returns the feature maps C2, C3, ... of an image, dict level -> tensor of stride `2**level`.

    `small` is made for CPUs: two convolutions of kernel 3, the first with a stride, in place of
    the stem's one of kernel 7, and one block per stage. The bottlenecks have their stride in the
    first convolution, and the layers the names, of `keras.applications`.

    Args:
        name: Key of `RESNETS`.
        inputs: Image, `(batch, height, width, channels)`.
        normalization: As in `segkit.layers.normalization`.
        filters: Filters of C2, which double from stage to stage (bottlenecks give four times as
            many); `None`: 32 of `small`, 64 of the others.
        last_level: The last stage to build, 2 to 5.

    Raises:
        ConfigError: Unknown name.

    Reference: He et al., "Deep Residual Learning", CVPR 2016, arXiv:1512.03385, table 1.
    """
    if name not in RESNETS:
        raise ConfigError(f"unknown backbone {name!r}. {nearest(name, RESNETS)}")
    blocks, bottleneck, usual = RESNETS[name]
    filters = filters or usual
    conv = _Convolution(normalization)
    x = _light_stem(conv, inputs, filters) if name == "small" else _stem(conv, inputs, filters)
    stages = {}
    for level in range(FIRST_LEVEL, last_level + 1):
        width = filters * 2 ** (level - FIRST_LEVEL)
        for number in range(1, blocks[level - FIRST_LEVEL] + 1):
            # The stem of the large ones has a pooling, which is the stride of C2.
            strided = number == 1 and (level > FIRST_LEVEL or name == "small")
            block = _bottleneck if bottleneck else _basic
            x = block(conv, x, width, f"conv{level}_block{number}", stride=2 if strided else 1)
        stages[level] = x
    return stages


def _stem(conv, x, filters):
    x = layers.ZeroPadding2D(3, name="conv1_pad")(x)
    x = conv.relu(x, filters, 7, "conv1", stride=2, padding="valid")
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    return layers.MaxPooling2D(3, 2, name="pool1_pool")(x)


def _light_stem(conv, x, filters):
    return conv.relu(x, max(8, filters // 2), 3, "conv1", stride=2)


def _basic(conv, x, filters, name, *, stride):
    y = conv.relu(x, filters, 3, f"{name}_1", stride=stride)
    y = conv(y, filters, 3, f"{name}_2")
    return _joined(conv, x, y, name, stride)


def _bottleneck(conv, x, filters, name, *, stride):
    y = conv.relu(x, filters, 1, f"{name}_1", stride=stride)
    y = conv.relu(y, filters, 3, f"{name}_2")
    y = conv(y, 4 * filters, 1, f"{name}_3")
    return _joined(conv, x, y, name, stride)


def _joined(conv, x, y, name, stride):
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        x = conv(x, y.shape[-1], 1, f"{name}_0", stride=stride)
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_out")(x)


class _Convolution:
    """Makes the convolutions of a network, which share their normalization."""

    def __init__(self, normalization):
        self._kind = normalization

    def __call__(self, x, filters, kernel, name, *, stride=1, padding="same"):
        """Returns a convolution and its normalization."""
        if kernel == 1 and stride > 1:
            # The same. TensorFlow 2.20's oneDNN gradient of a strided 1 x 1 convolution writes
            # outside of its memory on CPUs, with 4, 8 or 12 channels for instance.
            x, stride = x[:, ::stride, ::stride], 1
        x = layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding=padding,
            use_bias=self._kind == "none",
            kernel_initializer="he_normal",
            name=f"{name}_conv",
        )(x)
        return make_normalization(self._kind, filters, name=f"{name}_bn")(x)

    def relu(self, x, filters, kernel, name, **options):
        """Returns a convolution, its normalization and a ReLU."""
        return layers.ReLU(name=f"{name}_relu")(self(x, filters, kernel, name, **options))


def feature_network(name, channels, **options):
    """Returns `keras.Model` from images of any size to the list of feature maps, finest first."""
    inputs = keras.Input((None, None, channels), name="image")
    return keras.Model(inputs, list(backbone(name, inputs, **options).values()), name="backbone")
