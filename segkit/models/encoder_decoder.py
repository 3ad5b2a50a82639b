"""Encoder, decoder and scores over a description by stages (`segkit.models.stages`).

The name of a layer says where it is: `encoder{stage}_...`, `decoder{stage}_...`, with stage 0 the
finest. All layers of the encoder, and no others, have a name that begins with `encoder`, in every
network of the family; so weights can be handed from one encoder to another by name.
"""

from keras import layers

from segkit.models.blocks import CONV
from segkit.models.blocks import CONV_TRANSPOSE


def encode(x, stages, stage, *, suffix=""):
    """Returns the feature maps of an encoder, the finest first.

    Args:
        x: Image or feature map, `(batch, *spatial, channels)`.
        stages: A `Stages`.
        stage: Function `(x, filters, *, kernel, stride, convs, name)` that returns the feature map
            of one stage, such as `conv_stage` with a style.
        suffix: Layers are called `encoder{stage}{suffix}_...`, to tell several encoders apart.
    """
    maps = []
    for level, filters in enumerate(stages.filters):
        x = stage(
            x,
            filters,
            kernel=stages.kernels[level],
            stride=stages.strides[level],
            convs=stages.convs[level],
            name=f"encoder{level}{suffix}",
        )
        maps.append(x)
    return maps


def decode(maps, stages, stage, num_classes, *, deep_supervision=False, skips=True, gate=None):
    """Returns the logits of a decoder: upsample, join with the map of the encoder, convolve.

    Args:
        maps: Feature maps of the encoder, the finest first.
        stages: The `Stages` of that encoder.
        stage: As in `encode`.
        num_classes: Number of classes.
        deep_supervision: Whether to score every stage.
        skips: Whether the maps of the encoder are joined, other than the coarsest.
        gate: Function `(map, coarser, level)` that returns what is joined in place of the
            encoder's map; `coarser` is the decoder's map before it is upsampled.

    Returns:
        float32 logits `(batch, *spatial, num_classes)`; with `deep_supervision` a dict of
        `logits`, `logits_1` (of the stage after the finest), ...
    """
    x, outputs = maps[-1], {}
    for level in reversed(range(len(maps) - 1)):
        skip = gate(maps[level], x, level) if gate else maps[level]
        x = join([skip] if skips else [], x, stages, level, stage, suffix=str(level))
        if deep_supervision and level:
            name = f"logits_{level}"
            outputs[name] = score(x, num_classes, name=name)
    logits = score(x, num_classes, name="logits")
    return {"logits": logits, **dict(reversed(outputs.items()))} if outputs else logits


def join(skips, coarser, stages, level, stage, *, suffix):
    """Returns the decoder's map of one stage, from maps of that stage and one that is coarser.

    Args:
        skips: Feature maps of the stage, or none.
        coarser: Feature map of the next stage.
        stages: A `Stages`.
        level: Number of the stage.
        stage: As in `encode`.
        suffix: Layers are called `up{suffix}`, `skip{suffix}` and `decoder{suffix}_...`
    """
    # Kernel = stride: no checkerboard, and several times faster than a wider kernel.
    x = CONV_TRANSPOSE[stages.rank](
        stages.filters[level],
        stages.strides[level + 1],
        stages.strides[level + 1],
        kernel_initializer="he_normal",
        name=f"up{suffix}",
    )(coarser)
    if skips:
        x = layers.Concatenate(name=f"skip{suffix}")([*skips, x])
    return stage(
        x,
        stages.filters[level],
        kernel=stages.kernels[level],
        stride=1,
        convs=stages.decoder_convs[level],
        name=f"decoder{suffix}",
    )


def score(x, num_classes, *, name):
    """Returns float32 logits of a feature map, by a convolution with kernel 1."""
    return CONV[len(x.shape) - 2](num_classes, 1, dtype="float32", name=name)(x)
