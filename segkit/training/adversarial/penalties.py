"""Penalties on the gradient of a critic with respect to the images that it sees.

The critic's value of an image is the mean over the positions of its logits, as in its loss; so of a
critic of patches the gradient is smaller, and the weights of the penalties larger, than of one with
a single logit.
"""

import tensorflow as tf

from segkit.layers.per_example import uniform

_TINY = 1e-12  # below the root, which has no derivative at 0


def r1(value, real):
    """Returns half the squared norm of the gradient at real images, float32 `(batch,)`.

    Args:
        value: Function of images `(batch, *spatial, channels)` that gives `(batch,)`.
        real: Real images.

    Reference:
        Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018,
        arXiv:1801.04406, equation 9; gamma is the weight of the term.
    """
    return squared_norm(value, real) / 2.0


def gradient_penalty(value, real, fake):
    """Returns the squared distance of the gradient's norm from 1, float32 `(batch,)`.

    It is taken at a point drawn on the line between a real and a made image, for each example by
    itself.

    Args:
        value: As in `r1`.
        real: Real images.
        fake: Made images.

    Reference:
        Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, arXiv:1704.00028,
        equation 3; lambda is the weight of the term.
    """
    ones = (1,) * (len(real.shape) - 1)
    share = uniform("gradient_penalty", None, tf.shape(real)[0], ones)
    between = share * real + (1.0 - share) * fake
    return tf.square(tf.sqrt(squared_norm(value, between) + _TINY) - 1.0)


def squared_norm(value, images):
    """Returns the squared norm of the gradient of `value` at each image, float32 `(batch,)`."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(value(images))
    gradient = tf.cast(tape.gradient(total, images), tf.float32)
    return tf.reduce_sum(tf.square(gradient), axis=list(range(1, len(images.shape))))
