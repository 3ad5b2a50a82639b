"""Runs a policy: on one stored chunk in `tf.data`, or on a batch of patches in a training step.

Both draw the same numbers from the same keys and use the same functions, so they make the same
patches. A step that changes no example of a batch costs next to nothing.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.augment import TRANSFORMS
from data_prep.augment.mixing import soften
from data_prep.augment.own import check_change
from data_prep.augment.random import Draws
from data_prep.augment.random import make_keys
from data_prep.augment.random import uniform
from data_prep.augment.space import make_space
from data_prep.augment.spatial import choose
from data_prep.augment.spatial import place
from data_prep.augment.spatial import read_batch
from data_prep.augment.spatial import read_record
from data_prep.augment.spatial import warps
from segkit.errors import ShapeError
from segkit.tables import is_own
from segkit.tables import load


class Keys(NamedTuple):
    """Keys of the random numbers of a batch, from `random.make_keys`.

    Attributes:
        example: uint32, shape `(batch, 2)`: each example's own.
        batch: uint32, shape `(batch, 2)`: the same for all examples of a global batch.
    """

    example: object
    batch: object


def augment_record(
    record, start, patch, keys, steps, *, num_classes, order=1, priors=0, keep_missing=False
):
    """Cuts an augmented patch out of a stored chunk, for `tf.data`. Mixing is left to `mix`.

    Args:
        record: As in `crop.crop`, with `spacing_mm`, shape `(3,)`.
        start: int32, shape `(3,)`: where a plain crop would start.
        patch: Side lengths of the patch, three ints; a slice has depth 1.
        keys: `Keys` of a batch of 1.
        steps: From `policy.parse_policy`.
        num_classes: Number of classes of the label, background included.
        order: Order of the image's interpolation, 0, 1 or 3.
        priors: Number of channels, the last ones, that no change of intensity touches: they are
            what a first stage found.
        keep_missing: Leave a channel that is 0 throughout the patch at 0.

    Returns:
        `(image, label)`: float32 `(*patch, c)`, and `(*patch,)` of the label's dtype.
    """
    channels = record["image"].shape[-1] - priors
    space = make_space(patch, record["spacing_mm"][None], channels, num_classes)
    draws = _draws(steps, keys, channels)
    placed = place(steps, draws, space)
    image, label = read_record(record, start, patch, placed, order=order, warping=warps(steps))
    return _change_intensity(image, steps, draws, space, keep_missing)[0], label[0]


def augment_batch(
    image,
    label,
    keys,
    steps,
    *,
    patch,
    spacing_mm,
    num_classes,
    order=1,
    priors=0,
    keep_missing=False,
    log=None,
):
    """Augments a batch of patches, mixing included, eagerly or inside a training step.

    Args:
        image: float32, shape `(batch, *sides, channels)` with two or three sides, all static.
            The patch is read around the middle; what the sides have more serves as margin.
        label: Integer, shape `(batch, *sides)`.
        keys: `Keys` of the batch.
        steps: From `policy.parse_policy`.
        patch: Side lengths of the patch, as many as `image` has.
        spacing_mm: Voxel size, shape `(batch, 3)`; a slice's depth counts for nothing.
        num_classes: Number of classes of the label, background included.
        order: Order of the image's interpolation, 0, 1 or 3.
        priors: As in `augment_record`.
        keep_missing: As in `augment_record`.
        log: Dict to which all draws are written, `"rotation.degrees"` and the like, or `None`.

    Returns:
        `(image, label)`: float32 `(batch, *patch, channels)`, and the label's dtype
        `(batch, *patch)`; float32 class probabilities `(batch, *patch, num_classes)` where the
        policy holds `mixup`.

    Raises:
        ShapeError: The patch does not fit into the sides.
    """
    sides = tuple(image.shape[1:-1])
    if len(patch) != len(sides) or any(p > s for p, s in zip(patch, sides, strict=True)):
        raise ShapeError(f"a patch of {tuple(patch)} cannot be cut out of images of {sides}.")
    as_volume = (1,) * (3 - len(patch)) + tuple(patch)
    if len(patch) == 2:
        image, label = image[:, None], label[:, None]
    space = make_space(as_volume, spacing_mm, image.shape[-1] - priors, num_classes)
    draws = _draws(steps, keys, space.channels, log)
    placed = place(steps, draws, space)
    image, label = read_batch(image, label, as_volume, placed, order=order, warping=warps(steps))
    image = _change_intensity(image, steps, draws, space, keep_missing)
    image, label = _mix(image, label, steps, draws, space)
    return (image[:, 0], label[:, 0]) if len(patch) == 2 else (image, label)


def mix(image, label, keys, steps, spacing_mm, num_classes, priors=0):
    """Does a policy's mixing alone, for batches from `augment_record`; else as `augment_batch`."""
    steps = [step for step in steps if step.kind == "mixing"]
    options = {"patch": image.shape[1:-1], "spacing_mm": spacing_mm, "num_classes": num_classes}
    options["priors"] = priors  # the numbers drawn depend on how many channels are left
    return augment_batch(image, label, keys, steps, **options) if steps else (image, label)


def check(steps, patch, channels, num_classes):
    """Draws a policy once, so that options which make no sense are found before training.

    Args:
        steps: From `policy.parse_policy`.
        patch: Side lengths, two or three ints.
        channels: Number of channels of the image, without priors.
        num_classes: Number of classes of the label, background included.

    Raises:
        ConfigError: An option is out of range or does not fit such patches, or a transform of the
            user's own does not return what its kind must.
    """
    space, keys = _dummy(patch, (1.0, 1.0, 1.0), channels, num_classes, count=2)
    for step, random in zip(steps, _draws(steps, keys, channels), strict=True):
        random.chance("applied", step.probability)
        change = load(TRANSFORMS, step.name, "augmentation")(random, space, **step.options)
        if is_own(step.name):
            check_change(step, change, space)
    place(steps, _draws(steps, keys, channels), space)


def reach(steps, patch, spacing_mm, *, share):
    """Returns the sides of the box that a share of a policy's patches lies in.

    Args:
        steps: From `policy.parse_policy`.
        patch: Side lengths, two or three ints.
        spacing_mm: Voxel size, three floats.
        share: In (0, 1]; found from 2048 draws, along each axis apart.

    Returns:
        Tuple of ints, as many as `patch` has; each side is `patch`'s plus an even number.
    """
    space, keys = _dummy(patch, spacing_mm, channels=1, num_classes=2, count=2048)
    placed = place(steps, _draws(steps, keys, 1), space)
    half = (np.float32(space.patch) - 1) / 2
    field = placed.displacement
    bend = 0.0 if field is None else tf.reduce_max(tf.abs(field), axis=(1, 2, 3))
    far = tf.linalg.matvec(tf.abs(placed.matrix), half + bend) + tf.abs(placed.shift)
    extra = np.ceil(np.quantile(far, share, axis=0) - half - 1e-3).astype(int)
    extra[np.array(space.patch) == 1] = 0
    sides = (p + 2 * max(int(e), 0) for p, e in zip(space.patch, extra, strict=True))
    return tuple(sides)[-len(patch) :]


def _dummy(patch, spacing_mm, channels, num_classes, count):
    """A `Space` of `count` patches, and keys to draw for them."""
    volume = (1,) * (3 - len(patch)) + tuple(patch)
    spacing = tf.tile(tf.constant([spacing_mm], tf.float32), [count, 1])
    keys = Keys(make_keys(0, tf.range(count)), make_keys(1, tf.range(count)))
    return make_space(volume, spacing, channels, num_classes), keys


def _draws(steps, keys, channels, log=None):
    """One `Draws` per step, their numbers drawn at once."""
    if not steps:
        return []
    budget = 16 + 16 * channels
    numbers = uniform(keys.example, [2 * step.number for step in steps], budget)
    common = {"log": {} if log is None else log, "batch_keys": keys.batch}
    return [
        Draws(keys.example, s.number, budget, scope=s.label, numbers=numbers[:, n], **common)
        for n, s in enumerate(steps)
    ]


def _change_intensity(image, steps, draws, space, keep_missing):
    """Applies the steps of intensity to `(batch, d, h, w, c)`, priors apart.

    Inside, channels come first.
    """
    chosen = [(s, d) for s, d in zip(steps, draws, strict=True) if s.kind == "intensity"]
    if not chosen:
        return image
    image, priors = image[..., : space.channels], image[..., space.channels :]
    image = tf.transpose(image, (0, 4, 1, 2, 3))
    present = tf.reduce_any(image != 0, axis=(2, 3, 4), keepdims=True) if keep_missing else None
    for step, random in chosen:
        applied = random.chance("applied", step.probability)
        change = load(TRANSFORMS, step.name, "augmentation")(random, space, **step.options)
        image = tf.cond(
            tf.reduce_any(applied),
            lambda image=image, change=change, applied=applied: choose(
                applied, change(image), image
            ),
            lambda image=image: image,
        )
    if keep_missing:
        image = tf.where(present, image, 0.0)
    image = tf.transpose(image, (0, 2, 3, 4, 1))
    return tf.concat([image, priors], axis=-1) if priors.shape[-1] else image


def _mix(image, label, steps, draws, space):
    for step, random in zip(steps, draws, strict=True):
        if step.kind != "mixing":
            continue
        applied = random.chance("applied", step.probability)
        change = load(TRANSFORMS, step.name, "augmentation")(random, space, **step.options)
        mixed, mixed_label = change(tf.transpose(image, (0, 4, 1, 2, 3)), label)
        if mixed_label.dtype != label.dtype:
            label = soften(label, space.num_classes)
        image = choose(applied, tf.transpose(mixed, (0, 2, 3, 4, 1)), image)
        label = choose(applied, mixed_label, label)
    return image, label
