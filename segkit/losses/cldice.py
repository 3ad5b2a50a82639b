"""clDice: Dice of centre lines, for tubes such as vessels and airways."""

from keras import ops

from segkit.errors import ConfigError
from segkit.losses.overlap import check_foreground
from segkit.losses.shapes import class_probabilities
from segkit.losses.shapes import read_voxels
from segkit.losses.shapes import softmax


def cldice(
    y_true,
    y_pred,
    *,
    iterations: int = 3,
    smooth: float = 1.0,
    ignore_label: int | None = None,
):
    """Soft clDice loss, one value per example.

    With `t` the labels, one-hot or soft, `p` the softmax of the logits and `S` the
    `soft_skeleton`, for each foreground class with sums over the voxels of one example

        precision = (sum S(p) * t + smooth) / (sum S(p) + smooth)
        sensitivity = (sum S(t) * p + smooth) / (sum S(t) + smooth)
        loss_c = 1 - 2 * precision * sensitivity / (precision + sensitivity)

    and the result is the mean of `loss_c` over the classes. It asks for connected centre lines,
    not for the right thickness, so the paper adds it to Dice: `weighted_sum` of `dice` and
    `cldice`. A class that neither labels nor prediction hold costs 0; one that only the
    prediction holds costs `P / (P + 2 * smooth)`, with `P` the voxels of its skeleton.

    Args:
        y_true: As in `dice`, soft labels included.
        y_pred: Logits, shape `(batch, *spatial, classes)`.
        iterations: Steps of the skeleton; at least the largest radius in voxels of what is thin.
        smooth: Added to both sides of both fractions; in voxels.
        ignore_label: Voxels of this class index count as background that is rightly predicted.

    Returns:
        float32 tensor of shape `(batch,)`, values in [0, 1].

    Raises:
        ConfigError: `iterations` is below 1, or `ignore_label` with soft labels.
        ShapeError: If the shapes do not fit, or there is no foreground class.

    Reference:
        Shit et al., "clDice - a novel topology-preserving loss function for tubular structure
        segmentation", CVPR 2021, arXiv:2003.07311, equations 1 and 2, algorithms 1 and 2, there
        for one foreground class; `smooth` as in the authors' code.
    """
    if iterations < 1:
        raise ConfigError(f"cldice needs 1 or more iterations, got {iterations}.")
    check_foreground(y_pred.shape[-1])
    voxels = read_voxels(y_true, y_pred, ignore_label)
    truth, probs = class_probabilities(voxels)[..., 1:], softmax(voxels)[..., 1:]
    precision = _share(soft_skeleton(probs, iterations), truth, smooth)
    sensitivity = _share(soft_skeleton(truth, iterations), probs, smooth)
    harmonic = 2.0 * precision * sensitivity / (precision + sensitivity)
    return ops.mean(1.0 - harmonic, axis=-1)


def soft_skeleton(x, iterations):
    """Returns the soft skeleton: what opening removes from ever thinner erosions of `x`.

    Args:
        x: float32 `(batch, *spatial, channels)`, values in [0, 1].
        iterations: Number of erosions.

    Returns:
        Tensor as `x`; of a binary `x` a binary set about one voxel wide, within `x`.
    """
    skeleton = ops.relu(x - _open(x))
    for _ in range(iterations):
        x = _erode(x)
        lost = ops.relu(x - _open(x))
        skeleton = skeleton + ops.relu(lost - skeleton * lost)
    return skeleton


def _open(x):
    eroded = _erode(x)
    return _pool(eroded, (3,) * (len(x.shape) - 2))


def _erode(x):
    """Returns the least value among each voxel and its neighbours along the axes."""
    axes = range(len(x.shape) - 2)
    windows = [tuple(3 if axis == a else 1 for a in axes) for axis in axes]
    lowest = -_pool(-x, windows[0])
    for window in windows[1:]:
        lowest = ops.minimum(lowest, -_pool(-x, window))
    return lowest


def _pool(x, window):
    return ops.max_pool(x, window, strides=1, padding="same", data_format="channels_last")


def _share(skeleton, mask, smooth):
    spatial = tuple(range(1, len(mask.shape) - 1))
    hit = ops.sum(skeleton * mask, axis=spatial) + smooth
    return hit / (ops.sum(skeleton, axis=spatial) + smooth)
