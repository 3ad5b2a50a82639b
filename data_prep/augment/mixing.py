"""Mixing: an example takes parts of its partner in the batch, image and label alike.

All functions work on whole batches and return a value for every example; who is mixed at all is
up to the caller. `image` is float32 `(batch, channels, depth, height, width)`. `label` is
`(batch, depth, height, width)`, class indices of any integer dtype, or float32
`(batch, depth, height, width, classes)`, class probabilities, as `mixup` leaves it.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from segkit.errors import ConfigError

Mixing = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def mixup(draws, space, *, alpha: float = 0.4):
    """Blends each example with its partner; labels become class probabilities.

    Such labels take `4 * num_classes` bytes per voxel.

    Args:
        draws: `Draws`.
        space: `Space`.
        alpha: 0 or more. The example keeps a share `lambda ~ Beta(alpha, alpha)` of itself:
            below 1 mostly near 0 or 1, at 1 uniform, above 1 mostly near 1/2. 0 is the identity.

    Raises:
        ConfigError: `alpha` is negative.

    Reference:
        Zhang et al., "mixup", ICLR 2018, arXiv:1710.09412, figure 1a. There the batch shares one
        lambda and partners are drawn; here each example draws its own lambda, and its partner
        is its neighbour, examples being in random order already.
    """
    weight = 1.0 - symmetric_beta(draws, alpha)
    return lambda image, label: blend(image, label, weight, space.num_classes)


def blend(image, label, weight, num_classes):
    """Moves image and label a share of the way towards the partner's.

    Args:
        image: As above.
        label: As above.
        weight: float32, shape `(batch,)`, in [0, 1]: share of the partner; 0 is the identity.
        num_classes: Number of classes, background included.

    Returns:
        `(image, label)`, the label as class probabilities.
    """
    label, weight = soften(label, num_classes), tf.reshape(weight, (-1, 1, 1, 1, 1))
    return tuple(x + weight * (partner(x) - x) for x in (image, label))


def cutmix(draws, space, *, alpha: float = 1.0):
    """Replaces a box of each example, image and label, by the same box of its partner.

    The box has the proportions of the patch and any place inside; of a slice, the whole depth.

    Args:
        draws: `Draws`.
        space: `Space`.
        alpha: 0 or more. The box holds a share `1 - lambda` of the voxels, up to whole voxels,
            with `lambda ~ Beta(alpha, alpha)`; 1 draws it uniformly, 0 is the identity.

    Raises:
        ConfigError: `alpha` is negative.

    Reference:
        Yun et al., "CutMix", ICCV 2019, arXiv:1905.04899, section 3.1. There the box is centred
        anywhere and cut off at the border, so it holds less than its share, and labels, being
        of whole images, are blended.
    """
    sides = np.array(space.patch, np.float32)
    whole = sides == 1
    share = (1.0 - symmetric_beta(draws, alpha)) ** (1.0 / np.count_nonzero(~whole))
    size = tf.where(whole, sides, tf.round(share[:, None] * sides))
    start = draws.note("start", tf.floor(draws.uniform("start", 0.0, sides - size + 1.0, 3)))
    return lambda image, label: swap_box(image, label, start, size)


def swap_box(image, label, start, size):
    """Replaces the voxels of a box by the partner's.

    Args:
        image: As above.
        label: As above; its kind and dtype are kept.
        start: float32, shape `(batch, 3)`: first voxel of the box.
        size: float32, shape `(batch, 3)`: sides of the box in voxels; 0 is the identity.

    Returns:
        `(image, label)`.
    """
    inside = _box(label.shape[1:4], start, start + size)
    return _replace(inside, (partner(image), partner(label)), (image, label))


def copy_paste(draws, space, *, classes: list[int], shift: float = 0.1):
    """Pastes the partner's voxels of some classes, such as lesions, image and label.

    Args:
        draws: `Draws`.
        space: `Space`.
        classes: Indices of the classes to paste, all foreground. An example whose partner has
            none of them stays as it is.
        shift: Largest random displacement of what is pasted, in [0, 1]: share of each side of
            the patch, in whole voxels, none along thin axes. What leaves the patch is lost.

    Raises:
        ConfigError: `classes` is empty or holds the background or an unknown class, or `shift`
            is outside [0, 1].

    Reference:
        Ghiasi et al., "Simple Copy-Paste", CVPR 2021, arXiv:2012.07177, section 3. There some of
        the objects are pasted, after a jitter of scale; here all voxels of `classes`, and any
        geometry has come before. Edges are hard: they found blending them to change little.
        On lesions: Zhang et al., "CarveMix", MICCAI 2021, arXiv:2108.06883.
    """
    if not classes or not all(0 < c < space.num_classes for c in classes):
        raise ConfigError(
            f"augment.copy_paste.classes needs class indices from 1 to {space.num_classes - 1} "
            f"(0 is the background), got {list(classes)}."
        )
    if not 0 <= shift <= 1:
        raise ConfigError(f"augment.copy_paste.shift must be between 0 and 1, got {shift!r}.")
    limit = np.floor(shift * np.array(space.patch)).astype(np.float32)
    steps = tf.floor(draws.uniform("shift", -limit, limit + 1.0, 3))
    steps = draws.note("shift", tf.cast(tf.where(space.thin, 0.0, steps), tf.int32))
    return lambda image, label: paste_classes(image, label, classes, steps)


def paste_classes(image, label, classes, shift):
    """Replaces voxels by those of the partner that have one of `classes`.

    Args:
        image: As above.
        label: As above; its kind and dtype are kept. A voxel of a soft one has its most
            probable class.
        classes: Class indices.
        shift: int32, shape `(batch, 3)`: voxels by which the partner is moved.

    Returns:
        `(image, label)`.
    """
    moved = _move(partner(image), shift, axis=2), _move(partner(label), shift, axis=1)
    indices = tf.argmax(moved[1], axis=-1) if _is_soft(label) else moved[1]
    chosen = functools.reduce(tf.logical_or, [indices == c for c in classes])
    sides = label.shape[1:4]
    return _replace(chosen & _box(sides, shift, shift + sides), moved, (image, label))


def partner(x):
    """Returns for each example what its partner has: 0 and 1 are partners, 2 and 3, and so on.

    The last one of an odd number is its own partner. A global batch that is split evenly over
    replicas has the same partners as a whole if each share is even.

    Args:
        x: Tensor `(batch, ...)`, the batch static.
    """
    batch = x.shape[0]
    return tf.gather(x, np.minimum(np.arange(batch) ^ 1, batch - 1))


def soften(label, num_classes):
    """Returns a label as class probabilities, float32 `(batch, depth, height, width, classes)`.

    Class indices become 0 and 1, those outside `[0, num_classes)` all 0; what is soft already
    is returned as it is.
    """
    return label if _is_soft(label) else tf.one_hot(tf.cast(label, tf.int32), num_classes)


def symmetric_beta(draws, alpha):
    """Draws from Beta(alpha, alpha), in closed form: a t-variate, mapped to [0, 1].

    Args:
        draws: `Draws`; two numbers are drawn.
        alpha: 0 or more; 0 gives 1, and many values round to 0 or 1 near it.

    Returns:
        float32, shape `(batch,)`.

    Raises:
        ConfigError: `alpha` is negative.

    Reference:
        Devroye, "Random variate generation in one line of code", WSC 1996, symmetric beta;
        Bailey, "Polar generation of random variates with the t-distribution", Mathematics of
        Computation 62, 1994.
    """
    if not alpha >= 0:
        raise ConfigError(f"augment: mixup and cutmix need an alpha of 0 or more, got {alpha!r}.")
    if alpha == 0:
        return tf.ones([draws.batch])
    power = draws.uniform("radius", 0.0, 1.0) ** (1.0 / alpha)
    cosine = tf.cos(draws.uniform("angle", 0.0, math.pi))
    sine = cosine * tf.sqrt((1.0 - power) / (power + (1.0 - power) * cosine**2))
    return draws.note("lambda", tf.clip_by_value(0.5 + 0.5 * sine, 0.0, 1.0))


def _is_soft(label):
    return label.shape.rank == 5


def _box(sides, start, stop):
    """Bool `(batch, *sides)`: the voxels from `start` up to `stop`, each `(batch, 3)`."""
    inside = []
    for axis, side in enumerate(sides):
        place = tf.range(side, dtype=start.dtype)
        along = (place >= start[:, axis, None]) & (place < stop[:, axis, None])
        inside.append(tf.reshape(along, [-1, *(side if n == axis else 1 for n in range(3))]))
    return inside[0] & inside[1] & inside[2]


def _move(x, shift, axis):
    """Moves along `axis` and the next two by whole voxels, `(batch, 3)`; the border is repeated."""
    for n in range(3):
        side = x.shape[axis + n]
        source = tf.clip_by_value(tf.range(side) - shift[:, n, None], 0, side - 1)
        # Brought to the front: gathering rows is ten times as fast as gathering single voxels.
        order = [0, axis + n, *(k for k in range(1, x.shape.rank) if k != axis + n)]
        moved = tf.gather(tf.transpose(x, order), source, axis=1, batch_dims=1)
        x = tf.transpose(moved, np.argsort(order))
    return x


def _replace(mask, source, target):
    """Takes the voxels of `mask` from the pair `source`, the others from the pair `target`."""
    label_mask = mask[..., None] if _is_soft(target[1]) else mask
    image = tf.where(mask[:, None], source[0], target[0])
    return image, tf.where(label_mask, source[1], target[1])
