"""Random noise, independent in every voxel and channel."""

import tensorflow as tf

from data_prep.augment.intensity import VOXELS
from data_prep.augment.intensity import over_voxels
from data_prep.augment.limits import check_range


def gaussian_noise(draws, space, *, std: list[float] = (0.0, 0.1)):
    """Adds Gaussian noise of mean 0.

    nnU-Net's `GaussianNoiseTransform`, whose `noise_variance` is used as a standard deviation
    (`batchgeneratorsv2` hands the number drawn to `normal_(std=...)`); hence the name here.

    Args:
        draws: `Draws`.
        space: `Space`.
        std: Range of the standard deviation, at least 0, in units of the normalised image; one
            draw for all channels. 0 is the identity.
    """
    drawn = draws.uniform("std", *check_range("gaussian_noise.std", std, least=0), 1)
    shape = (space.channels, *space.patch)
    return lambda image: add_gaussian_noise(image, drawn, draws.normals(*shape))


def add_gaussian_noise(image, std, noise):
    """Returns `image + std * noise`.

    Args:
        image: float32, shape `(batch, channels, d, h, w)`.
        std: float32, shape `(batch, channels)` or `(batch, 1)`; 0 is the identity.
        noise: Standard normal numbers, the shape of `image`.
    """
    return image + over_voxels(std) * noise


def rician_noise(draws, space, *, std: list[float] = (0.0, 0.1)):
    """Adds the noise of a magnitude image: Gaussian where there is signal, Rayleigh in air.

    It raises the mean of dark tissue, and of air by `std * sqrt(pi / 2)`. nnU-Net's
    `RicianNoiseTransform` gives mean and standard deviation of the image back, and so lowers
    the signal; this one does not.

    Args:
        draws: `Draws`.
        space: `Space`.
        std: Range of the standard deviation in the real and in the imaginary part, at least 0,
            in units of the normalised image; one draw for all channels. 0 is the identity.
    """
    drawn = draws.uniform("std", *check_range("rician_noise.std", std, least=0), 1)
    shape = (space.channels, *space.patch)
    return lambda image: add_rician_noise(
        image, drawn, *tf.unstack(draws.normals(2, *shape), axis=1)
    )


def add_rician_noise(image, std, real, imaginary):
    """Returns the magnitude of the signal with noise in its real and its imaginary part.

        zero + sqrt((image - zero + std * real) ** 2 + (std * imaginary) ** 2)

    A normalised image no longer knows where the magnitude is 0, so `zero` is the smallest value
    of the channel in the patch.

    Args:
        image: float32, shape `(batch, channels, d, h, w)`.
        std: float32, shape `(batch, channels)` or `(batch, 1)`; 0 is the identity.
        real: Standard normal numbers, the shape of `image`.
        imaginary: As `real`.

    Reference:
        Gudbjartsson and Patz, "The Rician Distribution of Noisy MRI Data", Magnetic Resonance
        in Medicine 34, 1995, doi:10.1002/mrm.1910340618, equation 1.
    """
    std, zero = over_voxels(std), tf.reduce_min(image, VOXELS, keepdims=True)
    power = tf.square(image - zero + std * real) + tf.square(std * imaginary)
    return tf.where(std == 0.0, image, zero + tf.sqrt(power))
