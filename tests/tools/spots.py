"""Runs without training whose network finds bright spots by hand-made rules, exactly."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from segkit.io.nifti import write_nifti
from segkit.volume import Volume

RADIUS = 7  # of the box around a spot's brightest pixel
CELLS = 28
PLACES = 64


@keras.saving.register_keras_serializable(package="tests")
class SpotNetwork(keras.Model):
    """Finds Gaussian spots, as `segkit.models.mask_rcnn` gives its detections.

    A spot is a pixel of the first channel above 0.25 that is the brightest within `RADIUS`; its box
    is cut off at the border of the image. It is of class 2 above 0.75, else of class 1. Its score
    is the share of the box that lies in the image, times 0.9. The mask is what exceeds a third of
    the brightest pixel.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")
        self.built = True

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}

    def call(self, images, training=False):
        image = images[..., :1] * self.gain
        side = 2 * RADIUS + 1
        # Of two equal pixels next to each other the first is taken.
        order = tf.cast(tf.range(tf.size(image)), tf.float32) * 1e-6
        ranked = image - tf.reshape(order, tf.shape(image))
        tops = tf.nn.max_pool2d(ranked, side, 1, "SAME") == ranked
        height, width = tf.shape(image)[1], tf.shape(image)[2]
        peaks = tf.reshape(tf.where(tops & (image > 0.25), image, 0.0), (-1, height * width))
        values, places = tf.math.top_k(peaks, tf.minimum(PLACES, height * width))
        centres = tf.stack([places // width, places % width], axis=-1)
        centres = tf.cast(tf.concat([centres, centres], axis=-1), tf.float32)
        whole = centres + tf.constant([-RADIUS, -RADIUS, RADIUS + 1, RADIUS + 1], tf.float32)
        ends = tf.cast(tf.stack([height, width, height, width]), tf.float32)
        boxes = tf.clip_by_value(whole, 0.0, ends)
        sides = boxes[..., 2:] - boxes[..., :2]
        scores = 0.9 * tf.reduce_prod(sides, axis=-1) / side**2
        there = values > 0
        return {
            "boxes": tf.where(there[..., None], boxes, 0.0),
            "scores": tf.where(there, scores, 0.0),
            "classes": tf.where(there, tf.where(values > 0.75, 2, 1), 0),
            "masks": tf.where(there[..., None, None], _masks(image, boxes, values), 0.0),
        }


def _masks(image, boxes, values):
    """Probabilities at the centres of the cells of each box."""
    batch, number = tf.shape(boxes)[0], tf.shape(boxes)[1]
    last = tf.cast(tf.tile(tf.shape(image)[1:3], [2]), tf.float32) - 1.0
    half = (boxes[..., 2:] - boxes[..., :2]) * (0.5 / CELLS)
    points = tf.concat([boxes[..., :2] + half, boxes[..., 2:] - half], axis=-1) - 0.5
    cut = tf.image.crop_and_resize(
        image,
        tf.reshape(points / last, (-1, 4)),
        tf.repeat(tf.range(batch), number),
        (CELLS, CELLS),
    )
    cut = tf.reshape(cut, (batch, number, CELLS, CELLS))
    return tf.sigmoid(20.0 * (cut - values[..., None, None] / 3))


def spots(shape, centres, heights=None):
    """Returns a picture of Gaussian spots, and the ids and classes that are true.

    Args:
        shape: Of the picture.
        centres: For each spot a pixel.
        heights: For each spot 0.5 (class 1) or 1 (class 2); `None` for 0.5 throughout.
    """
    heights = [0.5] * len(centres) if heights is None else heights
    grid = np.stack(np.indices(shape), axis=-1)
    image, ids, label = np.zeros(shape), np.zeros(shape, np.uint16), np.zeros(shape, np.uint8)
    for number, (centre, height) in enumerate(zip(centres, heights, strict=True), start=1):
        spot = np.exp(-((grid - centre) ** 2).sum(axis=-1) / (2 * 3.0**2))
        image += height * spot
        ids[spot > 1 / 3], label[spot > 1 / 3] = number, 1 + (height > 0.75)
    return image, ids, label


def mosaic(shape, seed=0):
    """Returns centres of spots on a shaken grid, at least 16 pixels apart and 8 from the border."""
    rng = np.random.default_rng(seed)
    places = [np.arange(9, side - 9, 18) for side in shape]
    grid = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2)
    return grid + rng.integers(-1, 2, size=grid.shape)


SHAPES = {"a": (150, 110), "b": (40, 50), "c": (64, 64), "d": (70, 64)}
EMPTY, STAINED = "c", "d"


def write_nuclei(root):
    """Writes pictures of DSB2018's kind: one larger than a patch, one smaller, one empty."""
    for name, shape in SHAPES.items():
        centres = [] if name == EMPTY else mosaic(shape)
        image, ids, _ = spots(shape, centres)
        image = np.repeat((image * 250).astype(np.uint8)[..., None], 3, axis=-1)
        if name == STAINED:
            image[..., 1:] = 200  # the spots are in the red channel
        folder = root / name
        (folder / "masks").mkdir(parents=True)
        (folder / "images").mkdir()
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        for number in range(1, ids.max() + 1):
            mask = Image.fromarray(np.where(ids == number, 255, 0).astype(np.uint8))
            mask.save(folder / "masks" / f"{number}.png")
    return root


# (k, j, i) to RAS+ mm: slices to Inferior, rows to Posterior, columns to Left.
AFFINE = np.array([[0, 0, -0.9, 40], [0, -1.1, 0, 30], [-2.5, 0, 0, 20], [0, 0, 0, 1.0]])
VOLUME = (7, 60, 70)
CYLINDERS = {  # centre of a spot -> height, first and last slice
    (15, 20): (0.5, 1, 4),
    (15, 50): (1.0, 0, 3),
    (45, 22): (1.0, 2, 6),
    (44, 52): (0.5, 5, 7),
}


def cylinders():
    """Returns spots that go on through some slices, and the ids and classes that are true."""
    image, ids, label = np.zeros(VOLUME), np.zeros(VOLUME, np.uint16), np.zeros(VOLUME, np.uint8)
    for number, (centre, (height, first, last)) in enumerate(CYLINDERS.items(), start=1):
        flat, inside, kind = spots(VOLUME[1:], [centre], [height])
        image[first:last] += flat
        ids[first:last][:, inside > 0] = number
        label[first:last] += kind
    return image, ids, label


def write_volumes(root):
    """Writes four equal volumes as nnU-Net's layout has them."""
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    image, _, label = cylinders()
    for number in range(4):
        array = Volume((image * 250).astype(np.int16), AFFINE)
        write_nifti(root / "imagesTr" / f"v{number}_0000.nii.gz", array)
        write_nifti(root / "labelsTr" / f"v{number}.nii.gz", Volume(label, AFFINE))
    description = {
        "channel_names": {"0": "red"},
        "labels": {"background": 0, "dim": 1, "bright": 2},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def make_run(root, source, layout, *, channels, **options):
    """Converts a raw data set with objects and makes a run of `SpotNetwork` on it."""
    from data_prep.convert import Options
    from data_prep.convert import convert
    from data_prep.layouts import scan_source
    from segkit.config import config_from_dict
    from segkit.training.run import create_run

    options = Options(layout=layout, folds=2, **options)
    dataset = scan_source(layout, str(source))
    manifest, _ = convert(dataset, root / "data", source=str(source), options=options)
    config = {
        "model": {"name": "mask_rcnn"},
        "data": {"path": str(root / "data"), "patch_size": [64, 64]},
        "loss": {"name": "mask_rcnn"},
        "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2},
    }
    create_run(root / "run", config_from_dict(config), manifest)
    SpotNetwork(channels).save(root / "run" / "model.keras")
    return SimpleNamespace(folder=root / "run", data=root / "data", source=source)
