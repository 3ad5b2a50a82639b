"""Regions: sets of classes that may overlap, such as BraTS's whole tumour, core and enhancing."""

from keras import ops


def encode_regions(labels, regions):
    """Returns which regions each voxel belongs to.

    Args:
        labels: Class indices, any integer dtype, shape `(batch, *spatial)`.
        regions: For each region the class indices that make it up, one or more.

    Returns:
        float32 tensor of zeros and ones, shape `(batch, *spatial, regions)`. A voxel is in as many
        regions as list its class: none, one or several.
    """
    labels = ops.cast(labels, "int32")
    masks = [_any(labels, region) for region in regions]
    return ops.cast(ops.stack(masks, axis=-1), "float32")


def class_map(logits, class_order=()):
    """Returns the class of each voxel.

    Args:
        logits: Shape `(..., channels)`.
        class_order: Class index that each channel paints where its logit is above 0, its sigmoid
            above 1/2; later channels paint over earlier ones, and where none does is background.
            Empty: channels are classes, and the largest logit decides, the first one on a tie.

    Returns:
        int32 tensor, shape `(...)`.

    Reference:
        Isensee et al., "nnU-Net for brain tumor segmentation", BrainLes 2020, arXiv:2011.00848,
        section 2.3; nnU-Net's `regions_class_order`.
    """
    logits = ops.convert_to_tensor(logits)
    if not class_order:
        return ops.cast(ops.argmax(logits, axis=-1), "int32")
    painted = ops.zeros_like(logits[..., 0], dtype="int32")
    for channel, index in enumerate(class_order):
        painted = ops.where(logits[..., channel] > 0, index, painted)
    return painted


def _any(labels, region):
    found = ops.equal(labels, region[0])
    for index in region[1:]:
        found = ops.logical_or(found, ops.equal(labels, index))
    return found
