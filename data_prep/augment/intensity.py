"""Random changes of intensity; each channel draws its own factor."""

import tensorflow as tf


def random_intensity(image, seed, augment):
    """Changes brightness, then contrast, each with its own draw.

    Args:
        image: float32, shape `(..., channels)`.
        seed: Integer tensor of shape `(2,)`.
        augment: Object with the attributes of `segkit.config.AugmentConfig`.

    Returns:
        float32, the shape of `image`; exactly `image` where both ranges are (1, 1).
    """
    seeds = tf.random.experimental.stateless_split(seed, 2)
    for change, limits, part in (
        (brightness, augment.brightness, seeds[0]),
        (contrast, augment.contrast, seeds[1]),
    ):
        if tuple(limits) != (1.0, 1.0) and augment.intensity_probability > 0:
            draws = tf.random.stateless_uniform([1 + image.shape[-1]], part)
            factor = limits[0] + (limits[1] - limits[0]) * draws[1:]
            image = tf.cond(
                draws[0] < augment.intensity_probability,
                lambda image=image, change=change, factor=factor: change(image, factor),
                lambda image=image: image,
            )
    return image


def brightness(image, factor):
    """Multiplies each channel by its factor, shape `(channels,)`."""
    return image * factor


def contrast(image, factor):
    """Stretches each channel about its mean, kept within the channel's own range as in nnU-Net.

    Args:
        image: float32, shape `(..., channels)`.
        factor: float32, shape `(channels,)`; 1 is the identity.
    """
    axes = list(range(image.shape.rank - 1))
    low, high = tf.reduce_min(image, axes), tf.reduce_max(image, axes)
    mean = tf.reduce_mean(image, axes)
    return tf.clip_by_value(image * factor + mean * (1.0 - factor), low, high)
