"""Pretext tasks that ask what was done to a patch: rotation and jigsaw."""

import itertools
from functools import partial

import numpy as np
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.layers.per_example import uniform
from segkit.losses import build_loss
from segkit.metrics.counts import class_counts
from segkit.models.dpn import classifier
from segkit.training.overlay import strip


class Puzzle:
    """Objective: the share of right answers.

    Attributes: as in `segkit.training.segmentation.Segmentation`, and:
        loss: Cross-entropy, the mean over the questions about an example.
    """

    metric, label, pictures = "accuracy", "accuracy", "given_undone_guessed"

    def __init__(self, patches, *, draw, change, undo, questions, classes):
        """Defines the task.

        Args:
            patches: `segkit.training.pretext.Patches`.
            draw: Function of a batch size that returns the answers, int32 `(batch, questions)`.
            change: Function of images and answers that returns what the network is given.
            undo: Function of changed images and answers' logits that returns the images.
            questions: Number of questions about an example.
            classes: Number of possible answers.
        """
        self._patches, self._draw, self._change, self._undo = patches, draw, change, undo
        self._questions, self._classes = questions, classes
        self.loss = build_loss("cross_entropy")
        self.count = partial(class_counts, num_classes=classes)

    def network(self, **options):
        """Builds the network, with options of `dpn`."""
        size = {"questions": self._questions, "classes": self._classes}
        return classifier(self._patches.shape, **size, **options)

    def prepare(self, images):
        """Returns `(inputs, answers)` of images; drawn for each example by itself."""
        answers = self._draw(tf.shape(images)[0])
        return self._change(images, answers), answers

    def score(self, counts):
        """Returns the share of right answers."""
        hits, _, missed = np.asarray(counts).sum(axis=0)
        return float(hits / (hits + missed))

    def by_name(self, counts):
        """Returns nothing: all answers are scored as one."""
        return {}

    def panels(self, inputs, answers, logits):
        """Returns pictures of what was given, and of it undone rightly and as guessed."""
        right = self._undo(inputs, tf.one_hot(answers, self._classes))
        guessed = self._undo(inputs, logits)
        trios = zip(inputs.numpy(), right.numpy(), guessed.numpy(), strict=True)
        return [strip(trio, scale=trio[1], upright=self._patches.upright) for trio in trios]


def rotation(patches):
    """Asks by which rotation a patch was turned.

    They are all rotations by multiples of 90 degrees that keep the patch's shape: 24 of a cube, 8
    where two of three sides are equal, 4 (half turns) where none are; 4 of a square, 2 of a
    rectangle. The voxels stay what they are, so no interpolation gives the answer away.

    Reference:
        Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR
        2018, arXiv:1803.07728; of volumes: Taleb et al., "3D Self-Supervised Methods for Medical
        Imaging", NeurIPS 2020, arXiv:2006.03829, section 3.4, there 10 of the 24.
    """
    turns = rotations(patches.shape[:-1])
    inverse = tf.constant([_inverse(turn, turns) for turn in turns])

    def draw(batch):
        numbers = uniform("pretext", None, batch, (1,))
        return tf.cast(tf.floor(numbers * len(turns)), tf.int32)

    def change(images, answers):
        chosen = tf.reshape(answers, (-1, *[1] * (len(images.shape) - 1)))
        turned = images
        for number, turn in enumerate(turns):
            turned = tf.where(chosen == number, _turn(images, *turn), turned)
        return turned

    def undo(images, logits):
        return change(images, tf.gather(inverse, tf.argmax(logits, axis=-1)))

    size = {"questions": 1, "classes": len(turns)}
    return Puzzle(patches, draw=draw, change=change, undo=undo, **size)


def jigsaw(patches, *, grid: int = 2):
    """Asks for each place of a grid which of the patch's tiles is there, after they were mixed.

    Departures from the papers: any permutation is drawn, and its tiles are asked for one by one,
    instead of the number of one permutation in a list; and the network sees all tiles at once,
    instead of each by itself.

    Args:
        patches: `segkit.training.pretext.Patches`; their sides are multiples of `grid`.
        grid: Tiles along each side.

    Raises:
        ConfigError: If `grid` is below 2.
        ShapeError: If a side is not a multiple of it.

    Reference:
        Noroozi and Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw
        Puzzles", ECCV 2016, arXiv:1603.09246; of volumes: Taleb et al., as in `rotation`, section
        3.3; tile by tile: Chen et al., "Jigsaw-ViT", 2022, arXiv:2207.11971.
    """
    sides = patches.shape[:-1]
    if grid < 2:
        raise ConfigError(f"pretext.grid must be 2 or more, got {grid}.")
    if any(side % grid for side in sides):
        raise ShapeError(
            f"pretext jigsaw needs patches whose sides are multiples of its grid of {grid}, got "
            f"{list(sides)}. Change data.patch_size or pretext.grid."
        )
    tiles = grid ** len(sides)

    def draw(batch):
        return tf.argsort(uniform("pretext", None, batch, (tiles,)), axis=-1)

    def change(images, order):
        cut = _cut(images, grid)
        return _join(tf.gather(cut, order, batch_dims=1), grid, images.shape)

    def undo(images, logits):
        return change(images, tf.argmax(logits, axis=1, output_type=tf.int32))

    size = {"questions": tiles, "classes": tiles}
    return Puzzle(patches, draw=draw, change=change, undo=undo, **size)


def rotations(sides):
    """Returns all rotations by quarter turns that map a box of these sides onto itself.

    Returns:
        List of `(order, flipped)`, the first of which changes nothing: which axis comes to stand
        as each axis, and whether it is reversed then, tuples as long as `sides`.
    """
    axes = range(len(sides))
    orders = (o for o in itertools.permutations(axes) if all(sides[o[n]] == sides[n] for n in axes))
    flips = list(itertools.product((False, True), repeat=len(sides)))
    pairs = itertools.product(orders, flips)
    return [pair for pair in pairs if round(np.linalg.det(_matrix(*pair))) == 1]


def _matrix(order, flipped):
    matrix = np.zeros((len(order), len(order)))
    for axis, (source, reverse) in enumerate(zip(order, flipped, strict=True)):
        matrix[source, axis] = -1 if reverse else 1
    return matrix


def _inverse(turn, turns):
    """Number of the rotation that undoes `turn`."""
    wanted = _matrix(*turn).T
    return next(n for n, other in enumerate(turns) if np.array_equal(_matrix(*other), wanted))


def _turn(images, order, flipped):
    turned = tf.transpose(images, (0, *(axis + 1 for axis in order), len(order) + 1))
    reverse = [axis + 1 for axis, flip in enumerate(flipped) if flip]
    return tf.reverse(turned, reverse) if reverse else turned


def _cut(images, grid):
    """Tiles of images, `(batch, tiles, *sides of a tile, channels)`, in C order."""
    *sides, channels = images.shape[1:]
    parts = [n for side in sides for n in (grid, side // grid)]
    cut = tf.reshape(images, (-1, *parts, channels))
    rank = len(sides)
    cut = tf.transpose(cut, (0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1))
    return tf.reshape(cut, (-1, grid**rank, *(side // grid for side in sides), channels))


def _join(tiles, grid, shape):
    """Undoes `_cut`, to images of a shape."""
    *sides, channels = shape[1:]
    rank = len(sides)
    tiles = tf.reshape(tiles, (-1, *[grid] * rank, *(side // grid for side in sides), channels))
    order = [axis for n in range(1, rank + 1) for axis in (n, n + rank)]
    return tf.reshape(tf.transpose(tiles, (0, *order, 2 * rank + 1)), (-1, *sides, channels))
