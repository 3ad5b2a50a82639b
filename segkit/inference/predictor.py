"""Predictor: preparation, network and restoration as one TensorFlow module."""

import numpy as np
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.inference.method import Method
from segkit.inference.prepare import prepare
from segkit.inference.prepare import restore
from segkit.inference.priors import append_priors
from segkit.inference.sliding_window import mirrored
from segkit.inference.sliding_window import sliding_window
from segkit.priors import planned_priors
from segkit.volume import Volume
from segkit.volume import orientation_of
from segkit.volume import reoriented_affine


class Predictor(tf.Module):
    """Segments whole images with a trained network.

    All methods run eagerly and inside `tf.function`; `on_tile` is for eager use only.

    Attributes:
        orientation: Axis letters in which images are expected.
        num_channels: Channels of images; behind them the network takes those of a first stage.
        num_classes: Channels of its logits: classes, background included, or regions.
        class_order: Class that each region paints; empty where channels are classes.
    """

    def __init__(
        self,
        model,
        preprocess,
        patch_size,
        *,
        first=None,
        class_order=(),
        overlap=0.5,
        mirror=False,
    ):
        """Wraps a trained model.

        Args:
            model: `keras.Model` from tiles to logits.
            preprocess: The manifest's `"preprocess"` entry.
            patch_size: Side lengths that the model was trained on: two for slices, three for
                volumes.
            first: `None`, or the first stage of a cascade: a `Predictor`, or a `tf.Module` with
                its `orientation`, `num_channels` and `segment`. What it finds in an image becomes
                its last channels, see `append_priors`.
            class_order: Class index that each region paints, for a model of regions, see
                `segkit.regions.class_map`.
            overlap: Share of a tile that the next one covers again, in [0, 1).
            mirror: Average the logits over all flips of the spatial axes.

        Raises:
            ConfigError: If `overlap` is out of range.
            ShapeError: If model, patch size, preprocessing and first stage do not fit each other.
        """
        super().__init__(name="predictor")
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap must be at least 0 and below 1, got {overlap}.")
        channels, patch_size = model.input_shape[-1], tuple(patch_size)
        if len(model.input_shape) != len(patch_size) + 2:
            raise ShapeError(
                f"the model takes {model.input_shape}, which a patch of {patch_size} does not fit."
            )
        if channels != len(preprocess["normalization"]):
            raise ShapeError(
                f"the model takes {channels} channel(s), the data set has "
                f"{len(preprocess['normalization'])}. Use the data set that it was trained on."
            )
        priors = planned_priors(preprocess["normalization"])
        if first is not None and first.num_channels != channels - priors:
            raise ShapeError(
                f"the first stage takes {first.num_channels} channel(s), and the data set has "
                f"{channels - priors} beside its priors. Use the first stage that made them."
            )
        self.orientation = preprocess["orientation"]
        self.num_channels = channels if first is None else first.num_channels
        self._network_channels = channels
        self._first = first  # so that its variables are tracked
        self.num_classes, self.class_order = model.output_shape[-1], tuple(class_order)
        # Listed once and without the model, which would be saved with a second copy of each.
        self._weights = [variable.value for variable in model.variables]
        self._network = tf.function(
            lambda tiles: model(tiles, training=False),
            input_signature=[tf.TensorSpec((None, *patch_size, channels), tf.float32)],
        )
        predict = mirrored(self._network, len(patch_size)) if mirror else self._network

        def prepare_image(image, spacing_mm, on_tile=None):
            if first is not None:
                image = append_priors(image, spacing_mm, first, self.orientation, priors, on_tile)
            return prepare(image, spacing_mm, preprocess)

        self._prepare = prepare_image
        self._slide = lambda image, on_tile: sliding_window(
            predict, image, patch_size, self.num_classes, overlap=overlap, on_tile=on_tile
        )

    def logits(self, prepared, on_tile=None):
        """Returns the logits of a prepared image.

        Args:
            prepared: float32, shape `(d, h, w, channels)`, such as a record holds: priors are
                among its channels.
            on_tile: `None`, or called as `on_tile(done, total)` after each tile.

        Returns:
            float32, shape `(d, h, w, num_classes)`.
        """
        prepared = tf.convert_to_tensor(prepared, tf.float32)
        prepared = tf.ensure_shape(prepared, (None, None, None, self._network_channels))
        return self._slide(prepared, on_tile)

    def segment(self, image, spacing_mm, on_tile=None):
        """Returns the classes of an image.

        Args:
            image: float32, shape `(depth, height, width, channels)`, intensities as read, axes in
                `orientation`.
            spacing_mm: float32, shape `(3,)`: voxel size per axis of `image`.
            on_tile: `None`, or called as `on_tile(done, total)` after each tile.

        Returns:
            int32 class indices, shape `(depth, height, width)`.
        """
        return self._run(image, spacing_mm, on_tile, with_probabilities=False)

    def probabilities(self, image, spacing_mm, on_tile=None):
        """Returns the classes of an image and how sure the network is; arguments as `segment`.

        Returns:
            `(indices, probabilities)`: as `segment`, and float32 of shape `(depth, height, width,
            num_classes)`: the softmax of the resampled logits, summing to 1, or of regions the
            sigmoid.
        """
        mask, probabilities = self._run(image, spacing_mm, on_tile, with_probabilities=True)
        return mask, tf.ensure_shape(probabilities, (None, None, None, self.num_classes))

    def _run(self, image, spacing_mm, on_tile, with_probabilities):
        image = tf.convert_to_tensor(image, tf.float32)
        spacing_mm = tf.convert_to_tensor(spacing_mm, tf.float32)
        prepared, crop = self._prepare(image, spacing_mm, on_tile)
        logits = self.logits(prepared, on_tile)
        return self.restore(logits, crop, tf.shape(image)[:3], with_probabilities)

    def restore(self, logits, crop, shape, with_probabilities=False):
        """Brings logits back onto the oriented grid and decides there, as `prepare.restore`."""
        return restore(
            logits,
            crop,
            shape,
            class_order=self.class_order,
            with_probabilities=with_probabilities,
        )


def onto_source(predictor, logits, case):
    """Returns the classes of a prepared case on its source grid, in the source's axes.

    Args:
        predictor: `Predictor`.
        logits: What its `logits` returned for the case.
        case: The manifest's entry of the case.

    Returns:
        int32 class indices, NumPy array of shape `case["source_shape"]`.
    """
    mask = predictor.restore(logits, tf.constant(case["crop"]), tf.constant(case["oriented_shape"]))
    return _in_source_axes(mask, predictor, case)


def probability_onto_source(predictor, logits, case, index):
    """Returns the probability of the class `index` on the source grid; arguments as `onto_source`.

    Returns:
        float32, NumPy array of shape `case["source_shape"]`.
    """
    _, probabilities = predictor.restore(
        logits,
        tf.constant(case["crop"]),
        tf.constant(case["oriented_shape"]),
        with_probabilities=True,
    )
    return _in_source_axes(probabilities[..., index], predictor, case)


def _in_source_axes(array, predictor, case):
    affine = np.array(case["source_affine"])
    oriented = reoriented_affine(affine, case["source_shape"], predictor.orientation)
    return Volume(array.numpy(), oriented).oriented(orientation_of(affine)).array


def predictor_of(run, *, overlap=None, mirror=None):
    """Returns the `Predictor` of a trained run.

    The first stage of a cascade keeps its own settings, those that it made the priors with.

    Args:
        run: What `segkit.training.run.load_run` returned.
        overlap: As for `Predictor`; `None` for the run's own setting.
        mirror: As for `Predictor`; `None` for the run's own setting.
    """
    settings, first = run.config.inference, run.first
    if isinstance(first, dict):
        first = Method(**first, num_channels=len(run.channels))
    elif first is not None:
        first = predictor_of(first)
    return Predictor(
        run.model,
        run.manifest["preprocess"],
        run.config.data.patch_size,
        first=first,
        class_order=run.outputs.class_order,
        overlap=settings.overlap if overlap is None else overlap,
        mirror=settings.mirror if mirror is None else mirror,
    )


def predict_volume(predictor, volume, *, with_probabilities=False, on_tile=None):
    """Segments a volume of any orientation on its own grid.

    Args:
        predictor: `Predictor`.
        volume: `Volume` with an array `(depth, height, width[, channels])`, intensities as read.
        with_probabilities: Whether to return the probabilities as well.
        on_tile: `None`, or called as `on_tile(done, total)` after each tile.

    Returns:
        `Volume` of class indices (uint8, or uint16 above 256 classes) with the shape and affine
        of `volume`; or that and a `Volume` of float32 probabilities
        `(..., num_classes)`.

    Raises:
        ShapeError: If the number of channels is not the network's.
        DataError: If the image holds NaN or infinite values.
    """
    if volume.num_channels != predictor.num_channels:
        raise ShapeError(
            f"the network takes {predictor.num_channels} channel(s), the image has "
            f"{volume.num_channels}. Give one image per channel, in the data set's order."
        )
    oriented = volume.oriented(predictor.orientation)
    image = np.ascontiguousarray(oriented.array, dtype=np.float32)
    if not np.isfinite(image).all():
        raise DataError("the image holds NaN or infinite values. Repair it first.")
    image = image.reshape(*oriented.shape, predictor.num_channels)

    def on_source_grid(array):
        back = Volume(array, oriented.affine).oriented(volume.orientation)
        return Volume(np.ascontiguousarray(back.array), volume.affine)

    highest = max(predictor.class_order or [predictor.num_classes - 1])
    dtype = np.uint8 if highest < 256 else np.uint16
    if not with_probabilities:
        mask = predictor.segment(image, oriented.spacing_mm, on_tile)
        return on_source_grid(mask.numpy().astype(dtype))
    mask, probabilities = predictor.probabilities(image, oriented.spacing_mm, on_tile)
    return on_source_grid(mask.numpy().astype(dtype)), on_source_grid(probabilities.numpy())
