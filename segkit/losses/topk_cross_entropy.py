"""Cross-entropy of the hardest voxels."""

from keras import ops

from segkit.errors import ConfigError
from segkit.losses.cross_entropy import voxel_cross_entropy
from segkit.losses.shapes import read_voxels


def topk_cross_entropy(
    y_true,
    y_pred,
    *,
    percent: float = 10.0,
    class_weights: list[float] | None = None,
    ignore_label: int | None = None,
):
    """Mean cross-entropy in nats of the hardest `percent` % of the voxels of each example.

    Of `n` voxels that count, `floor(n * percent / 100)` enter the mean, but at least one. With
    `percent` 100 it is `cross_entropy`.

    Args:
        y_true: As in `cross_entropy`, soft labels included.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        percent: Share of the voxels, above 0 and up to 100.
        class_weights: As in `cross_entropy`; voxels are ranked by the weighted values.
        ignore_label: Voxels of this class index neither enter the mean nor count for `percent`;
            an example that holds no others costs 0.

    Returns:
        float32 tensor of shape `(batch,)`, values >= 0.

    Raises:
        ConfigError: `percent` or `class_weights` do not fit, or `ignore_label` with soft labels.
        ShapeError: If the shapes do not fit.

    Reference:
        Wu et al., "Bridging category-level and instance-level semantic image segmentation",
        2016, arXiv:1605.06885 ("online bootstrapping"), there with a fixed number of pixels. The
        10 % are nnU-Net's, which ranks the voxels of the whole batch together.
    """
    if not 0 < percent <= 100:
        raise ConfigError(f"topk_cross_entropy needs a percent above 0 up to 100, got {percent}.")
    voxels = read_voxels(y_true, y_pred, ignore_label)
    nats = voxel_cross_entropy(voxels, class_weights)
    valid = ops.ones_like(nats) if voxels.valid is None else voxels.valid

    # Ignored voxels get 0, the least value, and so rank behind all that count.
    ranked = ops.flip(ops.sort(_flat(nats * valid), axis=1), axis=1)
    count = ops.sum(_flat(valid), axis=1)
    hardest = ops.maximum(ops.floor(count * percent / 100.0), 1.0)
    rank = ops.arange(ops.shape(ranked)[1])
    chosen = ops.cast(rank, "float32") < ops.expand_dims(hardest, 1)
    return ops.sum(ops.where(chosen, ranked, 0.0), axis=1) / hardest


def _flat(per_voxel):
    return ops.reshape(per_voxel, (ops.shape(per_voxel)[0], -1))
