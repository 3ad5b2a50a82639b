"""Augmentation of all that a critic sees, real and made alike, with gradients through it.

So a small data set is not learned by heart, and the generator does not learn to make augmented
images. Everything is drawn for each example by itself; a real and a made image of one example, and
what stands beside them, change alike.

Reference:
    Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020,
    arXiv:2006.10738, whose strengths these are; for volumes along all three axes.
"""

import tensorflow as tf

from segkit.layers.per_example import uniform

SHIFT = 1 / 8  # largest translation, of the side
HOLE = 1 / 2  # side of the box that is cut out, of the image's


def augmented(images, condition, kinds):
    """Returns images and condition as the critic sees them.

    - `color`: brightness by up to 0.5 either way, contrast by a factor of 0.5 to 1.5, and of
      images with three channels saturation by 0 to 2; the condition keeps its values.
    - `translation`: by whole voxels, up to an eighth of each side; 0 comes in.
    - `cutout`: a box of half of each side, anywhere, becomes 0.

    Args:
        images: float32 `(batch, *spatial, channels)`.
        condition: float32 `(batch, *spatial, channels)`, or `None`.
        kinds: Names of the above; empty: nothing changes.
    """
    if "color" in kinds:
        images = recoloured(images)
    channels = images.shape[-1]
    seen = images if condition is None else tf.concat([images, condition], axis=-1)
    if "translation" in kinds:
        seen = translated(seen)
    if "cutout" in kinds:
        seen = cut_out(seen)
    return seen[..., :channels], None if condition is None else seen[..., channels:]


def recoloured(images):
    """Returns images with another brightness, contrast and saturation."""
    axes = list(range(1, len(images.shape)))
    images = images + _drawn("brightness", images) - 0.5
    if images.shape[-1] == 3:
        grey = tf.reduce_mean(images, axis=-1, keepdims=True)
        images = grey + (images - grey) * 2.0 * _drawn("saturation", images)
    mean = tf.reduce_mean(images, axis=axes, keepdims=True)
    return mean + (images - mean) * (0.5 + _drawn("contrast", images))


def translated(images):
    """Returns images moved along each axis."""
    for axis, side in enumerate(images.shape[1:-1], start=1):
        most = int(side * SHIFT + 0.5)
        number = tf.floor(_drawn(f"shift{axis}", images) * (2 * most + 1))
        shift = tf.cast(tf.reshape(number, (-1, 1)), tf.int32) - most
        # A product with a shifted identity: its gradient is the same in any order of summation.
        matrix = tf.one_hot(tf.range(side)[None] - shift, side, dtype=images.dtype)
        letters = "zyx"[: len(images.shape) - 2]
        old = letters[axis - 1]
        new = letters.replace(old, "n")
        images = tf.einsum(f"bn{old},b{letters}c->b{new}c", matrix, images)
    return images


def cut_out(images):
    """Returns images with a box of zeros."""
    inside = tf.ones_like(images[..., :1], tf.bool)
    for axis, side in enumerate(images.shape[1:-1], start=1):
        length = int(side * HOLE + 0.5)
        # As in the authors' code the box may leave the image: its centre is anywhere in it.
        centre = tf.floor(_drawn(f"hole{axis}", images) * (side + 1 - length % 2))
        shape = [-1 if n == axis else 1 for n in range(len(images.shape))]
        distance = tf.reshape(tf.range(side, dtype=tf.float32), shape) - centre
        inside &= (distance >= -(length // 2)) & (distance < length - length // 2)
    return tf.where(inside, tf.zeros_like(images), images)


def _drawn(name, images):
    """Numbers in [0, 1), one per example, of the rank of the images."""
    ones = (1,) * (len(images.shape) - 1)
    return uniform(f"critic_{name}", None, tf.shape(images)[0], ones)
