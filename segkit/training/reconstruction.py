"""Pretext tasks that give back intensities: autoencoders, and blocks that are hidden.

The target is the patch itself with one more channel: 1 where the loss counts a voxel, else 0.
An autoencoder with skips could hand every voxel on as it is and learn nothing, and one that only
has to remove noise could do so within its first stage; so these have none. Of a hidden block the
skips know no more than its surroundings, so masked reconstruction keeps them, and pre-trains the
decoder of a U-Net with them.
"""

import math

import numpy as np
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.layers.per_example import uniform
from segkit.losses.loss import Loss
from segkit.models.dpn import reconstructor
from segkit.training.checks import check_share
from segkit.training.overlay import strip


class Reconstruction:
    """Objective: the share of the intensities' variance that is explained, R2.

    Attributes: as in `segkit.training.segmentation.Segmentation`, and:
        loss: Mean squared error over the voxels that count.
    """

    metric, label, pictures = "r2", "R2", "input_target_output"

    def __init__(self, patches, corrupt, *, skips):
        """Defines the task.

        Args:
            patches: `segkit.training.pretext.Patches`.
            corrupt: Function of images `(batch, *sides, channels)` that returns what the network
                is given, and the voxels that count, bool `(batch, *sides, 1)`.
            skips: Whether the network may have skips.
        """
        self._patches, self._corrupt, self._skips = patches, corrupt, skips
        self.loss = Loss("squared_error", squared_error)

    def network(self, **options):
        """Builds the network, with options of `dpn`."""
        return reconstructor(self._patches.shape, drop_skips=not self._skips, **options)

    def prepare(self, images):
        """Returns `(inputs, targets)` of images; drawn for each example by itself."""
        inputs, counted = self._corrupt(images)
        return inputs, tf.concat([images, tf.cast(counted, images.dtype)], axis=-1)

    def count(self, targets, outputs):
        """Returns `(channels, 4)`: voxels, sums of value, squared value and squared error."""
        truth, counted = targets[..., :-1], targets[..., -1:]
        error = tf.square(outputs - truth)
        values = tf.stack([tf.ones_like(truth), truth, tf.square(truth), error], axis=-1)
        rows = tf.reshape(values * counted[..., None], (-1, 4 * truth.shape[-1]))
        # TensorFlow adds up a last axis in pairs, others one by one, which loses digits.
        return tf.reshape(tf.reduce_sum(tf.transpose(rows), axis=-1), (-1, 4))

    def score(self, counts):
        """Returns `1 - squared error / squared distance from the mean of the channel`."""
        number, values, squares, errors = np.asarray(counts).T
        spread = (squares - values**2 / np.maximum(number, 1)).sum()
        return float(1 - errors.sum() / spread) if spread > 0 else 0.0

    def by_name(self, counts):
        """Returns nothing: all channels are scored as one."""
        return {}

    def panels(self, inputs, targets, outputs):
        """Returns pictures of input, target and output, uint8 `(height, 3 * width, 3)` each."""
        trios = zip(inputs.numpy(), targets.numpy()[..., :-1], outputs.numpy(), strict=True)
        return [strip(trio, scale=trio[1], upright=self._patches.upright) for trio in trios]


def squared_error(targets, outputs):
    """Returns the mean squared error of each example over the voxels that count, `(batch,)`."""
    truth, counted = targets[..., :-1], targets[..., -1:]
    axes = list(range(1, len(truth.shape)))
    errors = tf.reduce_sum(tf.square(outputs - truth) * counted, axis=axes)
    return errors / (truth.shape[-1] * tf.maximum(tf.reduce_sum(counted, axis=axes), 1.0))


def autoencoder(patches):
    """Gives the patch back through the coarsest stage of the network.

    Reference: Hinton and Salakhutdinov, Science 2006, doi:10.1126/science.1127647.
    """
    return Reconstruction(patches, lambda x: (x, tf.ones_like(x[..., :1], tf.bool)), skips=False)


def denoising(patches, *, sigma: float = 0.3, drop: float = 0.1):
    """Gives the clean patch back from a noisy one.

    Args:
        patches: `segkit.training.pretext.Patches`.
        sigma: Standard deviation of Gaussian noise, in units of the normalised intensity.
        drop: Share of the voxels that are set to 0 (masking noise), all channels together.

    Raises:
        ConfigError: If `sigma` or `drop` is out of range, or both are 0.

    Reference: Vincent et al., "Stacked Denoising Autoencoders", JMLR 11, 2010, section 3.
    """
    check_share("pretext", drop=drop)
    if sigma < 0 or not sigma + drop > 0:
        raise ConfigError(
            f"pretext denoising needs noise: sigma of 0 or more, and sigma or drop above 0, got "
            f"sigma {sigma} and drop {drop}."
        )

    def corrupt(images):
        batch, sides = tf.shape(images)[0], images.shape[1:-1]
        numbers = uniform("pretext", None, batch, (2, *images.shape[1:]))
        radius = tf.sqrt(-2.0 * tf.math.log(numbers[:, 0] + 2.0**-25))
        noise = radius * tf.cos(2.0 * math.pi * numbers[:, 1])  # Box and Muller
        kept = uniform("pretext drop", None, batch, (*sides, 1)) >= drop
        noisy = images + sigma * tf.cast(noise, images.dtype)
        return tf.where(kept, noisy, 0.0), tf.ones_like(kept)

    return Reconstruction(patches, corrupt, skips=False)


def masked(patches, *, block: int = 8, share: float = 0.6, hidden_only: bool = True):
    """Gives back what is hidden in blocks of a grid, which are 0 in the input.

    Args:
        patches: `segkit.training.pretext.Patches`.
        block: Side of a block in voxels; those at the far end of the patch may be cut off.
        share: Share of the blocks that are hidden, rounded to a whole number of them.
        hidden_only: Count the hidden voxels only in loss and score, or all.

    Raises:
        ConfigError: If no block is hidden, or all are.

    Reference:
        He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022,
        arXiv:2111.06377, section 3, there a transformer that is given the visible blocks only;
        of volumes: Chen et al., "Masked Image Modeling Advances 3D Medical Image Analysis", WACV
        2023, arXiv:2204.11716.
    """
    sides = patches.shape[:-1]
    grid = [-(-side // block) for side in sides] if block > 0 else [0]
    number = round(share * math.prod(grid))
    if not 0 < number < math.prod(grid):
        raise ConfigError(
            f"pretext masked hides {number} of {math.prod(grid)} blocks of side {block} in patches "
            f"of {list(sides)}; some must be hidden and some not. Change pretext.block or "
            "pretext.share."
        )

    def corrupt(images):
        draws = uniform("pretext", None, tf.shape(images)[0], (math.prod(grid),))
        place = tf.argsort(tf.argsort(draws, axis=-1), axis=-1)
        hidden = tf.reshape(place < number, (-1, *grid, 1))
        for axis in range(len(grid)):
            hidden = tf.repeat(hidden, block, axis=axis + 1)
        hidden = hidden[(slice(None), *(slice(side) for side in sides))]
        counted = hidden if hidden_only else tf.ones_like(hidden)
        return tf.where(hidden, 0.0, images), counted

    return Reconstruction(patches, corrupt, skips=True)
