"""Binary cross-entropy and soft Dice of overlapping regions."""

from keras import ops

from segkit.errors import ShapeError
from segkit.losses.ce_dice import check_alpha
from segkit.losses.dice import dice_per_class
from segkit.losses.overlap import group_overlap
from segkit.losses.shapes import blank
from segkit.losses.shapes import check_indices
from segkit.losses.shapes import read_voxels
from segkit.losses.shapes import voxel_mean
from segkit.outputs import check_regions
from segkit.regions import encode_regions


def region_ce_dice(
    y_true,
    y_pred,
    *,
    regions: dict[str, list[int]],
    class_order: list[int] | None = None,
    alpha: float = 0.5,
    smooth: float = 1e-5,
    ignore_label: int | None = None,
    group_size: int = 1,
):
    """Weighted sum `alpha * binary cross-entropy + (1 - alpha) * dice` over regions, as two terms.

    Each channel of the logits decides by its sigmoid whether a voxel is in one region; regions
    may overlap, such as BraTS's whole tumour, tumour core and enhancing tumour. Both terms are
    means over all regions, there is no background among them; the cross-entropy, in nats, is
    also a mean over voxels. An absent region costs what an absent class costs in `dice`.

    Args:
        y_true: Class indices, any integer dtype, shape `(batch, *spatial)`.
        y_pred: Logits, shape `(batch, *spatial, regions)`.
        regions: For each channel a name and the class indices that make up its region, in order.
        class_order: The class that each region paints when a label map is made of a prediction,
            see `segkit.outputs`. It is checked here and does not change the loss.
        alpha: Weight of the cross-entropy, in [0, 1].
        smooth: As in `dice`.
        ignore_label: As in `dice` and `cross_entropy`.
        group_size: As in `dice`; the cross-entropy is that of each example.

    Returns:
        Dict of float32 tensors of shape `(batch,)`, values >= 0: `cross_entropy` and `dice`, with
        their weights.

    Raises:
        ConfigError: If `alpha` is outside [0, 1], labels are soft, or `regions`, `class_order` or
            `group_size` do not fit.
        ShapeError: If the shapes do not fit, or there is not one channel per region.

    Reference:
        Isensee et al., "nnU-Net for brain tumor segmentation", BrainLes 2020, arXiv:2011.00848,
        section 2.3. nnU-Net adds the two with weight 1, writes Dice as `-dice`, and with an ignore
        label sums its cross-entropy over regions where it else takes the mean.
    """
    check_alpha(alpha)
    check_regions(regions, class_order)
    check_indices(y_true, y_pred, "region_ce_dice")
    if y_pred.shape[-1] != len(regions):
        raise ShapeError(
            f"region_ce_dice needs logits of one channel for each of its {len(regions)} regions, "
            f"got {y_pred.shape[-1]}. Build the network with {len(regions)} classes."
        )
    voxels = read_voxels(y_true, y_pred, ignore_label)
    truth = blank(encode_regions(voxels.labels, list(regions.values())), voxels.valid)
    probs = blank(ops.sigmoid(voxels.logits), voxels.valid)
    sums = group_overlap(truth, probs, group_size)
    overlap_loss = ops.mean(dice_per_class(sums, smooth), axis=-1)
    nats = ops.mean(_binary_cross_entropy(truth, voxels.logits), axis=-1)
    return {
        "cross_entropy": alpha * voxel_mean(nats, voxels.valid),
        "dice": (1 - alpha) * overlap_loss,
    }


def _binary_cross_entropy(truth, logits):
    """`-t log s(x) - (1 - t) log(1 - s(x))` with `s` the sigmoid, without overflow."""
    return ops.relu(logits) - truth * logits + ops.log1p(ops.exp(-ops.abs(logits)))
