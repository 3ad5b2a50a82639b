"""Regions: sets of classes that may overlap, such as BraTS's whole tumour, core and enhancing."""

from keras import ops

from segkit.errors import ConfigError


def encode_regions(labels, regions):
    """Returns which regions each voxel belongs to.

    Args:
        labels: Class indices, any integer dtype, shape `(batch, *spatial)`.
        regions: For each region the list of the class indices that make it up.

    Returns:
        float32 tensor of zeros and ones, shape `(batch, *spatial, regions)`. A voxel is in as many
        regions as list its class: none, one or several.

    Raises:
        ConfigError: If there is no region, a region has no class, or a class index is negative.
    """
    if not regions or any(not region or min(region) < 0 for region in regions):
        raise ConfigError(
            "regions must be lists of class indices, such as [[1, 2, 3], [2, 3], [3]], "
            f"got {regions}."
        )
    labels = ops.cast(labels, "int32")
    masks = [_any(labels, region) for region in regions]
    return ops.cast(ops.stack(masks, axis=-1), "float32")


def _any(labels, region):
    found = ops.equal(labels, region[0])
    for index in region[1:]:
        found = ops.logical_or(found, ops.equal(labels, index))
    return found
