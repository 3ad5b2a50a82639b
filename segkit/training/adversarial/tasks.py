"""Tasks by name: what a generator makes images from, and what its critic sees beside them.

A task makes an `Example` of a batch of patches, within the step and after augmentation; its random
numbers are drawn for each example by itself, as those of layers are. Noise and classes that a
generator takes are not its business: `Game` adds them.
"""

from typing import NamedTuple

import tensorflow as tf

from segkit.errors import ConfigError
from segkit.tables import check_options
from segkit.tables import load
from segkit.training import TASKS
from segkit.training.adversarial.game import Game


class Patches(NamedTuple):
    """What a task is given.

    Attributes:
        shape: `([depth,] height, width, channels)` of an image, all given.
        num_classes: Number of classes of the label maps, background included; 0: there are none.
        upright: Whether pictures keep the first row on top, see `segkit.training.overlay.panel`.
    """

    shape: tuple
    num_classes: int = 0
    upright: bool = False


class Example(NamedTuple):
    """A batch as the generator and the critic see it.

    Attributes:
        inputs: Dict of the generator's inputs, but for `noise` and `class`.
        real: Real images, float32 `(batch, *spatial, channels)`.
        condition: What the critic sees beside an image, float32 `(batch, *spatial, channels)`, or
            `None`.
        weight: Weight of each voxel in L1, float32 `(batch, *spatial, 1)`; `None`: 1.
        ids: Class of each example, int32 `(batch,)`, or `None`.
        compose: Function of what the generator made that returns the whole image; `None`: it is.
        shown: What the generator was given, for pictures: float32 `(batch, *spatial, 1)`, or
            `None`.
    """

    inputs: dict
    real: object
    condition: object = None
    weight: object = None
    ids: object = None
    compose: object = None
    shown: object = None


class Task:
    """What all tasks have; one of its own sets what differs.

    Attributes:
        patches: `Patches`.
        paired: Whether an image is made of something that belongs to the real one, voxel by voxel,
            so that the two can be compared.
        labelled: Whether it takes label maps, of class indices.
        styled: Whether it takes a second data set (`data.style`): its batches of images are dicts
            of `image` and `style`, and labels belong to the first.
        metric: What the run is judged by, see `segkit.training.adversarial.objective`: `psnr` where
            there is one right answer, else `realism`.
        gives: Names of the generator's inputs that an example holds.
        condition_channels: Channels that the critic sees beside an image.
    """

    paired = labelled = styled = False
    metric = "realism"
    gives = ()
    condition_channels = 0

    def __init__(self, patches):
        """Takes what is known of the patches.

        Raises:
            ConfigError: If it takes label maps and there are none.
        """
        if self.labelled and patches.num_classes < 2:
            name = type(self).__name__.lower()
            raise ConfigError(
                f"task {name!r} makes images from label maps, and the data set has none. Take one "
                "with labels, or the task noise."
            )
        self.patches = patches

    def game(self, loss, build_generator, build_critic):
        """Builds the networks; called in the scope of the strategy.

        Args:
            loss: `AdversarialLoss`.
            build_generator: Function without arguments that returns a new generator.
            build_critic: Function of the number of condition channels that returns a new critic.

        Returns:
            `Game`, or one with its methods.

        Raises:
            ConfigError: If networks, loss and task do not go together.
        """
        return Game(self, loss, build_generator(), build_critic(self.condition_channels))

    def example(self, images, labels):
        """Returns an `Example`.

        Args:
            images: float32 `(batch, *spatial, channels)`.
            labels: Class indices, int32 `(batch, *spatial)`, or a dict of them as `label` and the
                class of each example's case as `target`, int32 `(batch,)`.
        """
        return Example({}, images, ids=class_ids(labels))


class Noise(Task):
    """Images from noise alone, or from noise and the class of a case."""


class Labels(Task):
    """Images from label maps, which the critic sees too, one channel per class.

    Reference: Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR
    2019, arXiv:1903.07291.
    """

    paired = labelled = True
    gives = ("label",)

    def __init__(self, patches):
        super().__init__(patches)
        self.condition_channels = patches.num_classes

    def example(self, images, labels):
        """Returns an `Example`, see `Task.example`."""
        label = label_map(labels)
        shown = tf.cast(label, tf.float32)[..., None]
        condition = tf.one_hot(label, self.patches.num_classes)
        inputs = {"label": label}
        return Example(inputs, images, condition, ids=class_ids(labels), shown=shown)


def label_map(labels):
    """Returns the label maps of a batch, see `Task.example`."""
    return labels["label"] if isinstance(labels, dict) else labels


def class_ids(labels):
    """Returns the classes of a batch's cases, or `None`, see `Task.example`."""
    return labels.get("target") if isinstance(labels, dict) else None


def build_task(name, patches, **options):
    """Returns a task.

    Args:
        name: Key of `segkit.training.TASKS`.
        patches: `Patches`.
        **options: Keyword-only arguments of the task.

    Raises:
        ConfigError: Unknown name or option, a value of the wrong type or out of range, or patches
            without the labels that it takes.
    """
    check_options(TASKS, name, options, "task")
    return load(TASKS, name, "task")(patches, **options)
