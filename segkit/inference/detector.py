"""Objects in whole prepared cases, found by a trained Mask R-CNN: tiles, slices, volumes."""

import itertools

import numpy as np
import tensorflow as tf

from segkit.errors import ConfigError
from segkit.errors import ShapeError
from segkit.inference.detections import without_vanished
from segkit.inference.link_slices import link_slices
from segkit.inference.merge_tiles import merge_tiles
from segkit.inference.merge_tiles import tile_rectangles
from segkit.inference.paste_masks import paste_masks
from segkit.inference.prepare import prepare
from segkit.models.mask_rcnn import garden
from segkit.models.mask_rcnn.network import MaskRCNN
from segkit.volume import orientation_of

MIN_SCORE = 0.5
BATCH_PIXELS = 2**19  # of the tiles that go through the network at once
FOUND = ("boxes", "scores", "classes", "masks")


class Detector(tf.Module):
    """Finds objects in whole cases with a trained network of `segkit.models.mask_rcnn`.

    Attributes:
        orientation: Axis letters in which `serve` expects images.
        num_channels: Channels of images.
        tile: `(height, width)` of the tiles that larger slices are cut into, in pixels.
    """

    def __init__(self, model, preprocess, patch_size, *, overlap=0.5, tile=None):
        """Wraps a trained network.

        Args:
            model: `segkit.models.mask_rcnn.network.MaskRCNN`.
            preprocess: The manifest's `"preprocess"` entry.
            patch_size: `(height, width)` that it was trained on; smaller slices are centred in
                zeros of that size, as in training.
            overlap: Share of a tile that the next one covers again, in [0, 1).
            tile: Height and width of a tile; `None` for the patch size.

        Raises:
            ConfigError: If `overlap` or `tile` is out of range.
            ShapeError: If network and preprocessing do not fit each other.
        """
        super().__init__(name="detector")
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap must be at least 0 and below 1, got {overlap}.")
        if tile is not None and tile < 32:
            raise ConfigError(f"a tile must have 32 pixels or more along a side, got {tile}.")
        if model.channels != len(preprocess["normalization"]):
            raise ShapeError(
                f"the network takes {model.channels} channel(s), the data set has "
                f"{len(preprocess['normalization'])}. Use the data set that it was trained on."
            )
        self.orientation, self.num_channels = preprocess["orientation"], model.channels
        self.tile = tuple(patch_size) if tile is None else (tile, tile)
        self._overlap = int(overlap * min(self.tile))
        self._patch = tuple(patch_size)
        self._prepare = lambda image, spacing_mm: prepare(image, spacing_mm, preprocess)
        # Listed once and without the model, which would be saved with a second copy of each.
        self._weights = [variable.value for variable in model.variables]

        def network(images):
            outputs = model(images, training=False)
            return {name: outputs[name] for name in FOUND}

        tiles = tf.TensorSpec((None, None, None, model.channels), tf.float32)
        self._network = tf.function(network, input_signature=[tiles])

    def slices(self, prepared, on_tile=None):
        """Returns what is found in each slice of a prepared case.

        A slice larger than a tile is cut into tiles, whose detections are merged.

        Args:
            prepared: float32, shape `(d, h, w, channels)`, such as a record holds.
            on_tile: `None`, or called as `on_tile(done, total)` after each batch of tiles.

        Returns:
            List of `Detections`, one for each slice, in pixels of the prepared grid.

        Raises:
            ShapeError: If the number of channels is not the network's.
        """
        if prepared.ndim != 4 or prepared.shape[-1] != self.num_channels:
            raise ShapeError(
                f"the network takes (d, h, w, {self.num_channels}), got {prepared.shape}. Use the "
                "channels that it was trained on."
            )
        depth, *shape = prepared.shape[:3]
        around = self._around(shape)
        padded = np.pad(prepared, [(0, 0), *around, (0, 0)])
        tiles = tile_rectangles(padded.shape[1:3], self.tile, self._overlap)
        corner = np.array([before for before, _ in around] * 2)
        found = [[] for _ in range(depth)]
        jobs = list(itertools.product(range(depth), tiles))
        size = max(1, BATCH_PIXELS // int(np.prod(tiles[0, 2:] - tiles[0, :2])))
        for start in range(0, len(jobs), size):
            chosen = jobs[start : start + size]
            batch = np.stack([padded[k, y0:y1, x0:x1] for k, (y0, x0, y1, x1) in chosen])
            outputs = {n: v.numpy() for n, v in self._network(batch).items()}
            for n, (k, tile) in enumerate(chosen):
                one = {name: values[n] for name, values in outputs.items()}
                found[k].append(_pasted(one, (tile - corner)[:2], shape))
            if on_tile is not None:
                on_tile(start + len(chosen), len(jobs))
        places = np.clip(tiles - corner, 0, [*shape, *shape])
        if len(tiles) == 1:
            return [parts[0] for parts in found]
        return [merge_tiles(parts, places, shape) for parts in found]

    def find(self, prepared, case, undo, *, min_score=MIN_SCORE, on_tile=None):
        """Returns the objects of a prepared case on its source grid.

        Args:
            prepared: As for `slices`.
            case: The manifest's entry of the case, or what else `data_prep.preprocess.geometry`
                returned.
            undo: Function that takes a map from the prepared grid to the source grid.
            min_score: Detections in volumes with a lower score are left out; slices are linked
                without them.
            on_tile: As for `slices`.

        Returns:
            `Detections` of a picture that kept its grid; else `InstanceMap`, of a picture two-
            dimensional.
        """
        slices = self.slices(prepared, on_tile)
        if len(slices) == 1 and _kept_its_grid(case):
            return slices[0]
        return onto_source(link_slices(slices, min_score=min_score), undo)

    def serve(self, image, spacing_mm):
        """Returns what is found in an image as read, without tiles; runs in graphs too.

        Args:
            image: float32, shape `(depth, height, width, channels)`, intensities as read, axes in
                `orientation`.
            spacing_mm: float32, shape `(3,)`: voxel size per axis of `image`.

        Returns:
            Dict: for each of n prepared slices D places, the best object first and zeros behind
            the last: `boxes` float32 `(n, D, 4)`, `y0, x0, y1, x1` in pixels of `image`, half-open,
            that may reach beyond it; `scores` `(n, D)`; `classes` int32 `(n, D)`; `masks`
            `(n, D, side, side)`, probabilities in equal cells of the box; and `slices` `(n,)`:
            where each prepared slice lies along the depth of `image`, slice 0 at 0.
        """
        prepared, crop = self._prepare(image, spacing_mm)
        shape = tf.shape(prepared)[:3]
        missing = tf.maximum(self._patch - shape[1:], 0)
        before = missing // 2
        around = tf.stack([before, missing - before], axis=1)
        padded = tf.pad(prepared, tf.concat([[[0, 0]], around, [[0, 0]]], axis=0))
        padded = tf.ensure_shape(padded, (None, None, None, self.num_channels))

        def one_slice(plane):
            outputs = self._network(plane[None])
            return {name: outputs[name][0] for name in FOUND}

        kinds = dict.fromkeys(FOUND, tf.float32) | {"classes": tf.int32}
        found = tf.map_fn(one_slice, padded, fn_output_signature=kinds)
        low = tf.cast(crop[:, 0], tf.float32)
        factor = tf.cast(crop[:, 1] - crop[:, 0], tf.float32) / tf.cast(shape, tf.float32)
        corner = tf.tile(tf.cast(before, tf.float32), [2])
        boxes = (found["boxes"] - corner) * tf.tile(factor[1:], [2]) + tf.tile(low[1:], [2])
        found["boxes"] = tf.where(found["scores"][..., None] > 0, boxes, 0.0)
        places = tf.range(tf.cast(shape[0], tf.float32))
        return found | {"slices": (places + 0.5) * factor[0] - 0.5 + low[0]}

    def _around(self, shape):
        """Zeros before and after each axis of a slice that is smaller than a patch."""
        missing = [max(side - n, 0) for side, n in zip(self._patch, shape, strict=True)]
        return [(n // 2, n - n // 2) for n in missing]


def detector_of(run, *, overlap=None, tile=None):
    """Returns the `Detector` of a trained run.

    Args:
        run: What `segkit.training.run.load_run` returned.
        overlap: As for `Detector`; `None` for the run's own setting.
        tile: As for `Detector`.

    Raises:
        ConfigError: If the run is the second stage of a cascade, or what its network needs is not
            installed.
    """
    if isinstance(run.model, MaskRCNN):
        garden.require()  # within the network's graph the error would be another one
    if run.first is not None:
        raise ConfigError(
            f"{run.folder} takes what a first stage found as channels, which is not possible for a "
            "network that finds objects. Train it on the data set without priors."
        )
    settings = run.config
    return Detector(
        run.model,
        run.manifest["preprocess"],
        settings.data.patch_size,
        overlap=settings.inference.overlap if overlap is None else overlap,
        tile=tile,
    )


def onto_source(found, undo):
    """Returns a map of the prepared grid on the source grid, two-dimensional for a picture.

    Args:
        found: `InstanceMap`, `(d, h, w)`.
        undo: As for `Detector.find`. An object that vanishes there is left out.
    """
    found = without_vanished(found._replace(labels=undo(found.labels)))
    return found._replace(labels=found.labels[0]) if len(found.labels) == 1 else found


def _kept_its_grid(case):
    whole = [[0, side] for side in case["shape"]] == case["crop"]
    same = case["source_shape"] == case["shape"]
    turned = orientation_of(np.array(case["source_affine"])) != case["orientation"]
    return whole and same and not turned


def _pasted(outputs, corner, shape):
    """Detections of a tile, whose first pixel lies at `corner`, in pixels of the image."""
    boxes = outputs["boxes"] + np.tile(corner, 2).astype(np.float32)
    found = paste_masks(boxes, outputs["scores"], outputs["classes"], outputs["masks"], shape)
    found = found.take([n for n, mask in enumerate(found.masks) if mask.any()])
    return found._replace(boxes=np.clip(found.boxes, 0, [*shape, *shape]).astype(np.float32))
