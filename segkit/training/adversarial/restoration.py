"""Tasks that give an image back: holes filled, and what a worse scanner would have taken."""

import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.training.adversarial.degrade import HOLES
from segkit.training.adversarial.degrade import add_gaussian_noise
from segkit.training.adversarial.degrade import add_rician_noise
from segkit.training.adversarial.degrade import between
from segkit.training.adversarial.degrade import draw_holes
from segkit.training.adversarial.degrade import lower_contrast
from segkit.training.adversarial.degrade import lower_resolution
from segkit.training.adversarial.tasks import Example
from segkit.training.adversarial.tasks import Task


class Inpainting(Task):
    """Fills random holes; what is known stays as it is, to the bit.

    The critic sees the mask beside the image, and L1 counts the voxels in holes only.

    Reference:
        Yu et al., "Free-Form Image Inpainting with Gated Convolution", ICCV 2019,
        arXiv:1806.03589.
    """

    paired = True
    metric = "psnr"
    gives = ("image", "mask")
    condition_channels = 1

    def __init__(
        self,
        patches,
        *,
        share: list[float] = (0.1, 0.4),
        kinds: list[str] = ("box", "stroke", "band"),
    ):
        """Takes what holes are drawn.

        Args:
            patches: `segkit.training.adversarial.tasks.Patches`.
            share: Range of the share of voxels in holes, within (0, 1).
            kinds: Which holes are drawn, each as often as the others: `box` up to three boxes,
                `stroke` up to three free-form strokes, `band` up to three bands of whole rows of a
                slice, or of whole slices of a volume.

        Raises:
            ConfigError: If the share is out of range, or a kind is unknown.
        """
        super().__init__(patches)
        self._share = check_limits("share", share, least=0, most=1, inside=True)
        if not kinds:
            raise ConfigError(f"task.kinds is empty. {nearest('', HOLES)}")
        for kind in kinds:
            if kind not in HOLES:
                raise ConfigError(f"task.kinds holds {kind!r}. {nearest(kind, HOLES)}")
        self._kinds = tuple(kinds)

    def example(self, images, labels):
        """Returns an `Example`, see `Task.example`; the labels do not matter."""
        sides = tuple(images.shape[1:-1])
        mask = draw_holes(tf.shape(images)[0], sides, share=self._share, kinds=self._kinds)
        hidden = mask > 0
        known = tf.where(hidden, 0.0, images)

        def compose(made):
            return tf.where(hidden, made, images)

        return Example(
            {"image": known, "mask": mask},
            images,
            condition=mask,
            weight=mask,
            compose=compose,
            shown=known[..., :1],
        )


class Enhancement(Task):
    """Gives the image back from a worse one: coarser, of less contrast, noisy, in this order.

    Every example draws each amount from its range, so one network learns all of them; a range of
    one number twice is that number, and the defaults of all but Gaussian noise change nothing. The
    critic sees the worse image beside the other.
    """

    paired = True
    metric = "psnr"
    gives = ("image",)

    def __init__(
        self,
        patches,
        *,
        gaussian: list[float] = (0.0, 0.5),
        rician: list[float] = (0.0, 0.0),
        resolution: list[float] = (1.0, 1.0),
        contrast: list[float] = (1.0, 1.0),
    ):
        """Takes what makes images worse.

        Args:
            patches: `segkit.training.adversarial.tasks.Patches`.
            gaussian: Range of the standard deviation of Gaussian noise, 0 or more, in units of
                the normalised intensity.
            rician: The same of Rician noise, that of magnitude images.
            resolution: Range of the share of the voxels along each axis that are kept, in (0, 1]:
                blurred, subsampled and interpolated back.
            contrast: Range of the share of the contrast that is kept, in (0, 1].

        Raises:
            ConfigError: If a range is out of bounds, or nothing is made worse.
        """
        super().__init__(patches)
        self._gaussian = check_limits("gaussian", gaussian, least=0)
        self._rician = check_limits("rician", rician, least=0)
        self._resolution = check_share_kept("resolution", resolution)
        self._contrast = check_share_kept("contrast", contrast)
        noise = self._gaussian[1] + self._rician[1]
        if not noise and self._resolution[0] == self._contrast[0] == 1:
            raise ConfigError(
                "task enhancement makes nothing worse, so there is nothing to learn. Set one of "
                "task.gaussian, task.rician, task.resolution and task.contrast."
            )
        self.condition_channels = patches.shape[-1]

    def example(self, images, labels):
        """Returns an `Example`, see `Task.example`; the labels do not matter."""
        batch, worse = tf.shape(images)[0], images
        if self._resolution[0] < 1:
            worse = lower_resolution(worse, between("resolution", batch, self._resolution))
        if self._contrast[0] < 1:
            worse = lower_contrast(worse, between("contrast", batch, self._contrast))
        if self._rician[1] > 0:
            worse = add_rician_noise(worse, between("rician", batch, self._rician))
        if self._gaussian[1] > 0:
            worse = add_gaussian_noise(worse, between("gaussian", batch, self._gaussian))
        return Example({"image": worse}, images, condition=worse, shown=worse[..., :1])


def check_limits(name, limits, *, least, most=None, inside=False):
    """Returns the range of an option, checked.

    Args:
        name: Name of the option, for the message.
        limits: `[low, high]` as a config gives it.
        least: Smallest value allowed.
        most: Largest value allowed; `None`: there is none.
        inside: Whether `least` and `most` are not allowed themselves.

    Raises:
        ConfigError: If these are not two numbers in order within the bounds.
    """
    ordered = len(limits) == 2 and limits[0] <= limits[1]
    fits = ordered and limits[0] >= least and (most is None or limits[1] <= most)
    if not fits or (inside and (limits[0] == least or limits[1] == most)):
        between_ = f"{least} or more" if most is None else f"between {least} and {most}"
        raise ConfigError(
            f"task.{name} must be [low, high] {between_}{', both excluded' * inside}, got "
            f"{list(limits)}."
        )
    return tuple(float(x) for x in limits)


def check_share_kept(name, limits):
    """Returns the range of a share that is kept, above 0 and at most 1, as `check_limits`."""
    limits = check_limits(name, limits, least=0, most=1)
    if limits[0] <= 0:
        raise ConfigError(f"task.{name} must be [low, high] above 0, got {list(limits)}.")
    return limits
