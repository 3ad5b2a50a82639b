"""Restorer: whole images through a generator that gives images back, on their own grid.

The way there is that of `segkit.inference.prepare`, the way back ends in the intensities and the
data type of the source.
"""

import numpy as np
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.inference.intensities import scale_of
from segkit.inference.intensities import scale_of_look
from segkit.inference.prepare import nonzero_box
from segkit.inference.prepare import resample_axis
from segkit.inference.sliding_window import mirrored
from segkit.inference.sliding_window import sliding_window
from segkit.volume import Volume


class Restorer:
    """Fills holes, enhances or translates whole images.

    Attributes:
        takes_mask: Whether it fills holes: `restore` then needs a mask.
        num_channels: Channels of an image.
    """

    def __init__(self, model, preprocess, patch_size, *, look=None, overlap=0.5, mirror=False):
        """Wraps a trained generator.

        Args:
            model: `keras.Model` from a dict of `image` and, if it fills holes, `mask` to an image.
            preprocess: The manifest's `"preprocess"` entry.
            patch_size: Side lengths that it was trained on: two for slices, three for volumes.
            look: The normalization of the data set whose look a translator gives, a scheme per
                channel; `None`: that of `preprocess`.
            overlap: Share of a tile that the next one covers again, in [0, 1).
            mirror: Average over all flips of the spatial axes.

        Raises:
            ConfigError: If `overlap` is out of range, or the model makes images from something
                else.
            ShapeError: If model, patch size and preprocessing do not fit each other.
        """
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap must be at least 0 and below 1, got {overlap}.")
        names = set(model.input) if isinstance(model.input, dict) else {"image"}
        if not {"image"} <= names <= {"image", "mask"}:
            raise ConfigError(
                f"the network makes images from {', '.join(sorted(names))}, not from images. Use "
                "a run of the task inpainting, enhancement or style."
            )
        self.takes_mask = "mask" in names
        self.orientation, self._preprocess = preprocess["orientation"], preprocess
        self._schemes = preprocess["normalization"]
        self.num_channels = len(self._schemes)
        self._look = self._schemes if look is None else look
        self._patch_size, self._overlap = tuple(patch_size), overlap
        made = tuple(model.output.shape[1:])
        if made != (*self._patch_size, self.num_channels):
            raise ShapeError(
                f"the network makes images of {made}, which patches of {self._patch_size} with "
                f"{self.num_channels} channel(s) do not fit."
            )
        predict = _compiled(model, self._patch_size, self.num_channels, self.takes_mask)
        self._predict = mirrored(predict, len(self._patch_size)) if mirror else predict

    def restore(self, volume, mask=None, on_tile=None):
        """Returns what the network makes of a volume of any orientation, on its own grid.

        Args:
            volume: `Volume` with an array `(depth, height, width[, channels])` as read.
            mask: bool or integers, shape `(depth, height, width)` in the axes of `volume`: not 0
                in holes. For a network that fills holes only, which changes no other voxel.
            on_tile: `None`, or called as `on_tile(done, total)` after each tile.

        Returns:
            `Volume` with shape, affine and data type of `volume`. Its notes say what could not be
            given back as it was.

        Raises:
            ConfigError: If there is a mask and the network takes none, or the other way round.
            ShapeError: If the number of channels, or the shape of the mask, does not fit.
            DataError: If the image holds NaN or infinite values, the mask has no hole or nothing
                but holes, or a channel is 0 everywhere.
        """
        holes = self._check(volume, mask)
        grid = Volume(holes, volume.affine).oriented(self.orientation).array
        oriented = volume.oriented(self.orientation)
        image = np.ascontiguousarray(oriented.array, np.float32).reshape(*oriented.shape, -1)
        if not np.isfinite(image[~grid]).all():
            raise DataError("the image holds NaN or infinite values. Repair it first.")
        crop = self._crop(image, grid)
        values, notes = self._made(image[crop], grid[crop], oriented.spacing_mm, on_tile)
        result = image.copy()
        result[crop] = values
        result = result.reshape(oriented.array.shape)
        back = Volume(result, oriented.affine).oriented(volume.orientation).array
        array, rounded = _as_dtype(back, volume.array.dtype)
        if self.takes_mask:
            kept = ~holes.reshape(*holes.shape, *[1] * (volume.array.ndim - 3))
            array = np.where(kept, volume.array, array)
        notes = (*notes, *rounded)
        return Volume(np.ascontiguousarray(array), volume.affine, notes)

    def _check(self, volume, mask):
        """The holes as bool, after checks of both arguments of `restore`."""
        if volume.num_channels != self.num_channels:
            raise ShapeError(
                f"the network takes {self.num_channels} channel(s), the image has "
                f"{volume.num_channels}. Give one image per channel, in the data set's order."
            )
        if (mask is None) == self.takes_mask:
            needs = "fills holes and needs" if self.takes_mask else "fills no holes and takes no"
            mend = "Give the mask of the holes." if self.takes_mask else "Leave it out."
            raise ConfigError(f"the network {needs} mask. {mend}")
        if mask is None:
            return np.zeros(volume.shape, bool)
        holes = np.asarray(mask) != 0
        if holes.shape != volume.shape:
            raise ShapeError(
                f"the mask must have the shape of the image, {volume.shape}, got {holes.shape}."
            )
        if not holes.any():
            raise DataError("the mask is 0 everywhere: there is no hole to fill.")
        if holes.all():
            raise DataError("the mask covers the whole image: nothing is known to fill it from.")
        return holes

    def _crop(self, image, holes):
        """Slices of the box that the network sees: all that is not 0, and the holes."""
        if not self._preprocess["crop_to_nonzero"]:
            return (slice(None),) * 3
        there = holes[..., None] | ((image != 0) & ~holes[..., None])
        return tuple(slice(low, high) for low, high in nonzero_box(there).numpy())

    def _made(self, image, holes, spacing_mm, on_tile):
        """What the network makes of a cropped image, in units of the source; and notes."""
        channels, notes = np.moveaxis(image, -1, 0), []
        known = ~holes
        scales = [scale_of(c, known, s) for c, s in zip(channels, self._schemes, strict=True)]
        given = [s.normalise(c) for s, c in zip(scales, channels, strict=True)]
        given = tf.where(holes[..., None], 0.0, np.stack(given, axis=-1))
        # What is interpolated between a hole and its surroundings belongs to the hole.
        shape, size = self._prepared_shape(holes.shape, spacing_mm), holes.shape
        given, gone = _resampled(given, shape), _resampled(_as_map(holes), shape) > 0
        tiles = tf.where(gone, 0.0, given)
        if self.takes_mask:
            tiles = tf.concat([tiles, tf.cast(gone, tf.float32)], axis=-1)
        made = sliding_window(
            self._predict,
            tiles,
            self._patch_size,
            self.num_channels,
            overlap=self._overlap,
            on_tile=on_tile,
        )
        made = _resampled(made, size).numpy()
        looks = [scale_of_look(s, scheme) for s, scheme in zip(scales, self._look, strict=True)]
        values = [scale.undo(made[..., n]) for n, scale in enumerate(looks)]
        for n, scale in enumerate(scales):
            if scale.masked:
                outside = (channels[n] == 0) & known
                values[n] = np.where(outside, np.float32(0), values[n])
        if tuple(shape) != tuple(size):
            notes.append(_coarser(self._preprocess["spacing_mm"], spacing_mm))
        notes += self._notes(scales, channels, known)
        return np.stack(values, axis=-1), notes

    def _prepared_shape(self, size, spacing_mm):
        target = self._preprocess["spacing_mm"]
        if target is None:
            return tuple(size)
        # To nanometres, as in the conversion of the data set.
        pairs = zip(size, spacing_mm, target, strict=True)
        return tuple(1 if n == 1 else max(1, round(round(s, 6) / t * n)) for n, s, t in pairs)

    def _notes(self, scales, channels, known):
        cut = sum(s.cut_off(c[known]) for s, c in zip(scales, channels, strict=True))
        if cut and not self.takes_mask:
            low, high = next(s.clip for s in scales if s.clip)
            yield (
                f"{cut} voxels lie beyond the intensities that the network knows ({low:g} to "
                f"{high:g}): they were cut off there and cannot be given back."
            )
        if self._look is not self._schemes and any(s["scheme"] == "zscore" for s in self._look):
            yield (
                "The look was learnt in deviations from the mean of each image: mean and "
                "deviation of the input are kept, because its own units are not known."
            )


def _compiled(model, patch_size, channels, takes_mask):
    """The network as a graph from tiles, whose last channel is the mask if it takes one."""

    def predict(tiles):
        inputs = {"image": tiles[..., :channels]}
        if takes_mask:
            inputs["mask"] = tiles[..., channels:]
        named = isinstance(model.input, dict)
        return model(inputs if named else inputs["image"], training=False)

    spec = tf.TensorSpec((None, *patch_size, channels + takes_mask), tf.float32)
    return tf.function(predict, input_signature=[spec])


def _as_map(holes):
    return tf.cast(holes[..., None], tf.float32)


def _resampled(array, shape):
    for axis, length in enumerate(shape):
        array = resample_axis(array, axis, length)
    return array


def _as_dtype(array, dtype):
    """Values in a data type of a source, rounded if it holds integers; and what to say of it."""
    if dtype.kind not in "iu":
        return array.astype(dtype), ()
    limits = np.iinfo(dtype)
    beyond = int(((array < limits.min - 0.5) | (array > limits.max + 0.5)).sum())
    whole = np.clip(np.rint(array.astype(np.float64)), limits.min, limits.max).astype(dtype)
    cut = f", and {beyond} of them cut off at its limits" if beyond else ""
    return whole, (f"New values were rounded to integers, {dtype} as in the input{cut}.",)


def _coarser(target, spacing_mm):
    wanted, given = (" x ".join(f"{s:g}" for s in lengths) for lengths in (target, spacing_mm))
    return (
        f"The network works at {wanted} mm and the image has {given} mm: new values were "
        "interpolated from there, and finer detail in them is lost."
    )


def restorer_of(run, *, overlap=None, mirror=None):
    """Returns the `Restorer` of a trained run.

    Args:
        run: What `segkit.training.run.load_run` returned.
        overlap: As for `Restorer`; `None` for the run's own setting.
        mirror: As for `Restorer`; `None` for the run's own setting.
    """
    settings, style = run.config.inference, run.manifest.get("style")
    return Restorer(
        run.model,
        run.manifest["preprocess"],
        run.config.data.patch_size,
        look=style["preprocess"]["normalization"] if style else None,
        overlap=settings.overlap if overlap is None else overlap,
        mirror=settings.mirror if mirror is None else mirror,
    )
