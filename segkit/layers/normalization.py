"""The normalization that a network's `normalization` option names."""

import keras

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.layers.batch_norm import BatchNormalization
from segkit.layers.instance_norm import InstanceNormalization

GROUPS = 8
EXAMPLES = 2  # that batch normalization sees together
EPSILON = 1e-5


def normalization(kind, channels, *, name, known=("instance", "group", "batch", "none")):
    """Returns a function from a feature map to a normalized feature map.

    No kind looks across more than two examples, so replicas that see parts of a batch agree.

    Args:
        kind: `"instance"`, `"group"` (8 groups of channels), `"batch"` (over groups of two
            examples) or `"none"` (identity).
        channels: Channels of the feature map; a multiple of 8 for `"group"`.
        name: Name of the layer.
        known: The kinds that the network accepts.

    Raises:
        ConfigError: If `kind` is not in `known`, or does not fit `channels`.
    """
    if kind not in known:
        raise ConfigError(f"unknown normalization {kind!r}. {nearest(kind, known)}")
    if kind == "instance":
        return InstanceNormalization(EPSILON, name=name)
    if kind == "batch":
        return BatchNormalization(EXAMPLES, epsilon=EPSILON, name=name)
    if kind == "group":
        if channels % GROUPS:
            raise ConfigError(
                f"group normalization needs filters that are a multiple of {GROUPS}, got "
                f"{channels}. Change the number of filters, or the normalization."
            )
        return keras.layers.GroupNormalization(GROUPS, epsilon=EPSILON, name=name)
    return lambda x: x
