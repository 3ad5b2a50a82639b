"""Predictor: preparation, network and restoration as one TensorFlow module."""

import numpy as np
import tensorflow as tf

from segkit.covariates import encode
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.inference.method import Method
from segkit.inference.prepare import prepare
from segkit.inference.prepare import restore
from segkit.inference.priors import append_priors
from segkit.inference.sliding_window import covering_tiles
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
        num_covariates: Length of the vector of covariates that it takes; 0: it takes none.
        num_case_classes: Classes of the whole case that it tells apart; 0: none.
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
            model: `keras.Model` from tiles, or a dict of `image` and `covariates`, to logits, or to
                a dict of `logits` and `case_logits`.
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
        taken, given = _shapes(model.input, "image"), _shapes(model.output, "logits")
        channels, patch_size = taken["image"][-1], tuple(patch_size)
        if len(taken["image"]) != len(patch_size) + 2:
            raise ShapeError(
                f"the model takes {taken['image']}, which a patch of {patch_size} does not fit."
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
        self.num_covariates = taken.get("covariates", (0,))[-1]
        self.num_case_classes = given.get("case_logits", (0,))[-1]
        self.num_classes, self.class_order = given["logits"][-1], tuple(class_order)
        # Listed once and without the model, which would be saved with a second copy of each.
        self._weights = [variable.value for variable in model.variables]
        self._network = _compiled(model, patch_size, channels, self.num_covariates)

        def prepare_image(image, spacing_mm, on_tile=None):
            if first is not None:
                image = append_priors(image, spacing_mm, first, self.orientation, priors, on_tile)
            return prepare(image, spacing_mm, preprocess)

        def slide(image, covariates, on_tile):
            predict = self._with(covariates, "logits")
            predict = mirrored(predict, len(patch_size)) if mirror else predict
            return sliding_window(
                predict, image, patch_size, self.num_classes, overlap=overlap, on_tile=on_tile
            )

        self._prepare, self._slide = prepare_image, slide
        self._tiles = lambda image: covering_tiles(image, patch_size)

    def logits(self, prepared, on_tile=None, covariates=None):
        """Returns the logits of a prepared image.

        Args:
            prepared: float32, shape `(d, h, w, channels)`, such as a record holds: priors are
                among its channels.
            on_tile: `None`, or called as `on_tile(done, total)` after each tile.
            covariates: float32, shape `(num_covariates,)`, encoded; `None` where the network
                takes none.

        Returns:
            float32, shape `(d, h, w, num_classes)`.

        Raises:
            ShapeError: If the covariates are not those that the network takes.
        """
        prepared = tf.convert_to_tensor(prepared, tf.float32)
        prepared = tf.ensure_shape(prepared, (None, None, None, self._network_channels))
        return self._slide(prepared, covariates, on_tile)

    def segment(self, image, spacing_mm, on_tile=None, covariates=None):
        """Returns the classes of an image.

        Args:
            image: float32, shape `(depth, height, width, channels)`, intensities as read, axes in
                `orientation`.
            spacing_mm: float32, shape `(3,)`: voxel size per axis of `image`.
            on_tile: `None`, or called as `on_tile(done, total)` after each tile.
            covariates: As for `logits`.

        Returns:
            int32 class indices, shape `(depth, height, width)`.
        """
        return self._run(image, spacing_mm, on_tile, covariates, with_probabilities=False)

    def probabilities(self, image, spacing_mm, on_tile=None, covariates=None):
        """Returns the classes of an image and how sure the network is; arguments as `segment`.

        Returns:
            `(indices, probabilities)`: as `segment`, and float32 of shape `(depth, height, width,
            num_classes)`: the softmax of the resampled logits, summing to 1, or of regions the
            sigmoid.
        """
        mask, probabilities = self._run(
            image, spacing_mm, on_tile, covariates, with_probabilities=True
        )
        return mask, tf.ensure_shape(probabilities, (None, None, None, self.num_classes))

    def case_probabilities(self, prepared, covariates=None):
        """Returns the probability of each class of the whole case.

        It is the mean over tiles that cover the image once, as far as they can.

        Args:
            prepared: As for `logits`.
            covariates: As for `logits`.

        Returns:
            float32, shape `(num_case_classes,)`.
        """
        predict = self._with(covariates, "case_logits")
        found = [tf.nn.softmax(predict(tiles)) for tiles in self._tiles(prepared)]
        return tf.reduce_mean(tf.concat(found, axis=0), axis=0)

    def classify(self, image, spacing_mm, covariates=None):
        """Returns `case_probabilities` of an image; arguments as `segment`."""
        image = tf.convert_to_tensor(image, tf.float32)
        spacing_mm = tf.convert_to_tensor(spacing_mm, tf.float32)
        return self.case_probabilities(self._prepare(image, spacing_mm)[0], covariates)

    def _with(self, covariates, output):
        """The network with the covariates of one image: from tiles to one of its outputs."""
        expected = (self.num_covariates,) if self.num_covariates else ()
        given = () if covariates is None else tuple(covariates.shape)
        if given != expected:
            raise ShapeError(
                f"the network takes covariates of shape {expected}, got {given}. Encode those of "
                "the image with segkit.covariates.encode."
            )
        if covariates is None:
            return lambda tiles: self._network(tiles)[output]
        row = tf.cast(covariates, tf.float32)[None]

        def predict(tiles):
            return self._network(tiles, tf.repeat(row, tf.shape(tiles)[0], axis=0))[output]

        return predict

    def _run(self, image, spacing_mm, on_tile, covariates, with_probabilities):
        image = tf.convert_to_tensor(image, tf.float32)
        spacing_mm = tf.convert_to_tensor(spacing_mm, tf.float32)
        prepared, crop = self._prepare(image, spacing_mm, on_tile)
        logits = self.logits(prepared, on_tile, covariates)
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


def _shapes(tensors, name):
    """Shapes by name; `name` is that of a single tensor."""
    named = tensors if isinstance(tensors, dict) else {name: tensors}
    return {key: tuple(tensor.shape) for key, tensor in named.items()}


def _compiled(model, patch_size, channels, num_covariates):
    """The network as a graph from tiles, and covariates if it takes them, to a dict of outputs."""

    def named(outputs):
        return outputs if isinstance(outputs, dict) else {"logits": outputs}

    tiles = tf.TensorSpec((None, *patch_size, channels), tf.float32)
    if not num_covariates:
        return tf.function(lambda x: named(model(x, training=False)), input_signature=[tiles])
    return tf.function(
        lambda x, known: named(model({"image": x, "covariates": known}, training=False)),
        input_signature=[tiles, tf.TensorSpec((None, num_covariates), tf.float32)],
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


def predict_volume(predictor, volume, *, with_probabilities=False, on_tile=None, covariates=None):
    """Segments a volume of any orientation on its own grid.

    Args:
        predictor: `Predictor`.
        volume: `Volume` with an array `(depth, height, width[, channels])`, intensities as read.
        with_probabilities: Whether to return the probabilities as well.
        on_tile: `None`, or called as `on_tile(done, total)` after each tile.
        covariates: As for `Predictor.logits`.

    Returns:
        `Volume` of class indices (uint8, or uint16 above 256 classes) with the shape and affine
        of `volume`; or that and a `Volume` of float32 probabilities
        `(..., num_classes)`.

    Raises:
        ShapeError: If the number of channels is not the network's.
        DataError: If the image holds NaN or infinite values.
    """
    oriented = _oriented(predictor, volume)
    image = oriented.array

    def on_source_grid(array):
        back = Volume(array, oriented.affine).oriented(volume.orientation)
        return Volume(np.ascontiguousarray(back.array), volume.affine)

    highest = max(predictor.class_order or [predictor.num_classes - 1])
    dtype = np.uint8 if highest < 256 else np.uint16
    if not with_probabilities:
        mask = predictor.segment(image, oriented.spacing_mm, on_tile, covariates)
        return on_source_grid(mask.numpy().astype(dtype))
    mask, probabilities = predictor.probabilities(image, oriented.spacing_mm, on_tile, covariates)
    return on_source_grid(mask.numpy().astype(dtype)), on_source_grid(probabilities.numpy())


def classify_volume(predictor, volume, covariates=None):
    """Returns the probability of each class of the whole case, float32 `(num_case_classes,)`.

    Arguments and errors as of `predict_volume`.
    """
    oriented = _oriented(predictor, volume)
    return predictor.classify(oriented.array, oriented.spacing_mm, covariates).numpy()


def encode_covariates(predictor, manifest, values):
    """Returns the covariates of a case as a predictor takes them; `None` where it takes none.

    Args:
        predictor: `Predictor`.
        manifest: Manifest of the data set that it was trained on.
        values: As for `segkit.covariates.encode`, which see for errors.
    """
    return encode(manifest["covariates"], values) if predictor.num_covariates else None


def _oriented(predictor, volume):
    """A volume of float32 `(d, h, w, channels)` in the orientation of the network, checked."""
    if volume.num_channels != predictor.num_channels:
        raise ShapeError(
            f"the network takes {predictor.num_channels} channel(s), the image has "
            f"{volume.num_channels}. Give one image per channel, in the data set's order."
        )
    oriented = volume.oriented(predictor.orientation)
    image = np.ascontiguousarray(oriented.array, dtype=np.float32)
    if not np.isfinite(image).all():
        raise DataError("the image holds NaN or infinite values. Repair it first.")
    return Volume(image.reshape(*oriented.shape, predictor.num_channels), oriented.affine)
