"""From a source image to a prepared one, and back: orient, crop, normalise, resample.

`geometry` alone decides where the voxels of the prepared grid lie; `prepare` follows it and
`undo` inverts it. The order (normalise before resampling) is nnU-Net's: Isensee et al., Nature
Methods 2021, doi:10.1038/s41592-020-01008-z; here both images and labels are resampled linearly.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.priors import SCHEME
from segkit.volume import axis_moves
from segkit.volume import orientation_of
from segkit.volume import reoriented_affine


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network sees it.

    Attributes:
        image: float32, shape `(depth, height, width, channels)`, normalised.
        label: uint8 or uint16 class indices, shape `(depth, height, width)`, or `None`.
        affine: Voxel index of the prepared grid to RAS+ mm, shape `(4, 4)`.
        geometry: What `geometry` returned for the case; the way back for `undo`.
    """

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    geometry: dict


def prepare(image, label, plan):
    """Brings one case onto its prepared grid.

    Args:
        image: `Volume` with an array `(d, h, w[, c])`, as read.
        label: `Volume` of class indices on the image's grid, or `None`.
        plan: `data_prep.plan.Plan`.

    Returns:
        `Prepared`.

    Raises:
        ShapeError: The label's shape, or the number of channels, does not fit.
        DataError: The image holds NaN or infinite values.
    """
    if image.num_channels != len(plan.normalization):
        raise ShapeError(
            f"the plan is for {len(plan.normalization)} channel(s), the image has "
            f"{image.num_channels}. Give one image per channel, in the data set's order."
        )
    if label is not None and label.shape != image.shape:
        raise ShapeError(
            f"image and label must have one shape, got {image.shape} and {label.shape}."
        )
    case = geometry(image.shape, image.affine, source_box(image.array, plan), plan)
    crop = tuple(slice(low, high) for low, high in case["crop"])
    array = image.oriented(plan.orientation).array[crop].astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError("the image holds NaN or infinite values. Repair or remove it.")
    array = array.reshape(*array.shape[:3], -1)
    for channel, scheme in enumerate(plan.normalization):
        array[..., channel] = normalise(array[..., channel], scheme)
    array = resample_linear(array, case["shape"])
    if label is not None:
        label = label.oriented(plan.orientation).array[crop]
        label = np.ascontiguousarray(resample_labels(label, case["shape"]))
    return Prepared(np.ascontiguousarray(array), label, prepared_affine(case), case)


def geometry(shape, affine, box, plan):
    """Works out the prepared grid of one case from its header and its nonzero box.

    Args:
        shape: Source shape `(d, h, w)`.
        affine: Source affine, `(4, 4)`.
        box: `source_box` of the source array; used if the plan crops.
        plan: `data_prep.plan.Plan`.

    Returns:
        Dict of plain lists, the manifest's entry of the case: `source_shape`, `source_affine`,
        `orientation` and `oriented_shape` of the reoriented source, `crop` in that
        (`[[low, high]] * 3`), `shape` of the prepared grid, and `spacing_mm`, its actual voxel
        size: the target's, but for the rounding of `shape`.
    """
    affine = np.asarray(affine, dtype=np.float64)
    order, flips = axis_moves(orientation_of(affine), plan.orientation)
    oriented = [int(shape[axis]) for axis in order]
    crop = [[0, n] for n in oriented]
    if plan.crop_to_nonzero or plan.roi_margin_mm is not None:
        moved = [box[axis] for axis in order]
        crop = [
            [n - high, n - low] if flip else [low, high]
            for n, flip, (low, high) in zip(oriented, flips, moved, strict=True)
        ]
    if plan.roi_margin_mm is not None:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[list(order)]
        crop = widened(crop, oriented, spacing, plan.roi_margin_mm)
    case = {
        "source_shape": [int(n) for n in shape],
        "source_affine": affine.tolist(),
        "orientation": plan.orientation,
        "oriented_shape": oriented,
        "crop": crop,
        "shape": [high - low for low, high in crop],
    }
    if plan.spacing_mm is not None:
        spacing = np.linalg.norm(prepared_affine(case)[:3, :3], axis=0)
        case["shape"] = new_shape(case["shape"], spacing, plan.spacing_mm)
    spacing = np.linalg.norm(prepared_affine(case)[:3, :3], axis=0)
    return case | {"spacing_mm": [round(float(s), 9) for s in spacing]}


def prepared_affine(case):
    """Returns the affine of a case's prepared grid, shape `(4, 4)`.

    Resampling keeps the outer faces of the box, so index `n` of the new grid is
    `(n + 1/2) * f - 1/2` of the old one, where `f` is the ratio of their lengths.

    Args:
        case: Dict of `geometry`.
    """
    affine = np.array(case["source_affine"])
    affine = reoriented_affine(affine, case["source_shape"], case["orientation"])
    step = np.eye(4)
    for axis, ((low, high), new) in enumerate(zip(case["crop"], case["shape"], strict=True)):
        factor = (high - low) / new
        step[axis, axis] = factor
        step[axis, 3] = low + 0.5 * factor - 0.5
    return affine @ step


def undo(array, case, *, linear=False):
    """Puts a map of the prepared grid back onto the source grid.

    Args:
        array: Class indices or ids of objects, shape `case["shape"]`; or an image, see `linear`.
        case: Dict of `geometry`.
        linear: Interpolate, for an image `(*case["shape"], channels)`; its values stay normalised.

    Returns:
        Array of shape `case["source_shape"]`, 0 outside the crop; exact if nothing was resampled.

    Raises:
        ShapeError: If `array` is not on the prepared grid.
    """
    if list(array.shape[:3]) != list(case["shape"]):
        raise ShapeError(f"the prepared grid is {case['shape']}, got an array of {array.shape}.")
    oriented = np.zeros([*case["oriented_shape"], *array.shape[3:]], dtype=array.dtype)
    crop = tuple(slice(low, high) for low, high in case["crop"])
    resample = resample_linear if linear else resample_labels
    oriented[crop] = resample(array, [high - low for low, high in case["crop"]])
    source = orientation_of(np.array(case["source_affine"]))
    order, flips = axis_moves(case["orientation"], source)
    oriented = np.moveaxis(oriented, order, (0, 1, 2))
    return np.ascontiguousarray(oriented[tuple(slice(None, None, -1 if f else 1) for f in flips)])


def source_box(array, plan):
    """Returns the box that `geometry` crops to: of all channels, or of the priors alone.

    Args:
        array: Source array `(d, h, w[, c])`.
        plan: `data_prep.plan.Plan`.

    Returns:
        `nonzero_box` of all channels; where the plan has a region of interest, of the priors.
    """
    return nonzero_box(array if plan.roi_margin_mm is None else array[..., -plan.num_priors :])


def widened(box, shape, spacing_mm, margin_mm):
    """Returns a box with a margin on every side, in whole voxels, as far as the image goes.

    Spacings are rounded to nanometres, as in `new_shape`.

    Args:
        box: `[[low, high]] * 3`.
        shape: Voxels of the image per axis.
        spacing_mm: Their size, in mm.
        margin_mm: Least margin, in mm.
    """
    steps = [math.ceil(round(margin_mm / round(float(s), 6), 6)) for s in spacing_mm]
    return [
        [max(low - step, 0), min(high + step, n)]
        for (low, high), n, step in zip(box, shape, steps, strict=True)
    ]


def nonzero_box(array):
    """Returns `[[low, high]] * 3` around all voxels of `(d, h, w[, c])` not 0 in any channel.

    An array of zeros keeps its whole extent.
    """
    nonzero = array.any(axis=-1) if array.ndim == 4 else array != 0
    box = []
    for axis in range(3):
        hit = np.flatnonzero(nonzero.any(axis=tuple(a for a in range(3) if a != axis)))
        if not hit.size:
            return [[0, n] for n in array.shape[:3]]
        box.append([int(hit[0]), int(hit[-1]) + 1])
    return box


def normalise(channel, scheme):
    """Returns one channel with normalised intensities, float32.

    Args:
        channel: float32 array `(d, h, w)`.
        scheme: `{"scheme": "zscore", "masked": bool}`: mean 0 and deviation 1 over the array, or
            over its nonzero voxels while the others become 0; `{"scheme": "ct", "clip": [low,
            high], "mean", "std"}`: clipped, then in deviations from the data set's mean;
            `{"scheme": "rescale", "low", "high"}`: that range to [0, 1]; `{"scheme": "prior"}`:
            as it is. Deviations are floored at 1e-8. A channel of zeros, as a missing one is,
            stays 0 in each scheme.
    """
    if not channel.any():
        channel = np.zeros_like(channel)
    elif scheme["scheme"] == "ct":
        low, high = scheme["clip"]
        channel = (np.clip(channel, low, high) - scheme["mean"]) / max(scheme["std"], 1e-8)
    elif scheme["scheme"] == "rescale":
        channel = (channel - scheme["low"]) / (scheme["high"] - scheme["low"])
    elif scheme["scheme"] == SCHEME:
        return channel
    else:
        inside = channel[channel != 0] if scheme["masked"] else channel
        mean, std = (inside.mean(dtype=float), inside.std(dtype=float)) if inside.size else (0, 1)
        normalised = (channel - float(mean)) / max(float(std), 1e-8)
        channel = np.where(channel != 0, normalised, 0.0) if scheme["masked"] else normalised
    return channel.astype(np.float32)


def denormalise(image, normalization):
    """Returns a prepared image in units of its source, as far as the plan knows them.

    Args:
        image: float32 array `(d, h, w, c)`.
        normalization: The plan's dict per channel, as `normalise` takes it.

    Returns:
        float32 array of that shape: `ct` and `rescale` inverted, values that were clipped remain
        so; `zscore` stays in deviations from the mean of the case, which are not kept. A channel
        of zeros, as a missing one is, stays 0.
    """
    image = image.copy()
    for channel, scheme in enumerate(normalization):
        if not image[..., channel].any():
            continue
        if scheme["scheme"] == "ct":
            image[..., channel] *= max(scheme["std"], 1e-8)
            image[..., channel] += scheme["mean"]
        elif scheme["scheme"] == "rescale":
            image[..., channel] *= scheme["high"] - scheme["low"]
            image[..., channel] += scheme["low"]
    return image


def new_shape(shape, spacing_mm, target_mm):
    """Returns the lengths that give `shape` the target spacing, as a list of int.

    An axis of length 1 stays: there is nothing to interpolate between. Spacings are rounded to
    nanometres, so that one that passed through float32 gives the same lengths.

    Args:
        shape: Voxels per axis.
        spacing_mm: Their size, in mm.
        target_mm: Size wanted, in mm.
    """
    return [
        1 if n == 1 else max(1, round(round(float(s), 6) / float(t) * n))
        for n, s, t in zip(shape, spacing_mm, target_mm, strict=True)
    ]


def resample_linear(array, shape):
    """Interpolates linearly between voxel centres, clamped at the edges, without smoothing.

    Equal to `skimage.transform.resize(order=1, mode="edge", anti_aliasing=False)`.

    Args:
        array: float32, `(d, h, w)` or `(d, h, w, c)`.
        shape: New `(d, h, w)`.

    Returns:
        float32 array of that shape and the same channels.
    """
    return _interpolate(array, [_taps(n, m) for n, m in zip(array.shape, shape, strict=False)])


def resample_labels(label, shape):
    """Resamples each class's mask linearly and takes the largest; a tie goes to the lower class.

    Args:
        label: Class indices, `(d, h, w)`.
        shape: New `(d, h, w)`.

    Returns:
        Array of that shape and the label's dtype.
    """
    if list(label.shape) == list(shape):
        return label
    result = np.zeros(shape, dtype=label.dtype)
    best = resample_linear((label == 0).astype(np.float32), shape)
    for index, window, share in shares(label, shape):
        wins = share > best[window]
        best[window][wins] = share[wins]
        result[window][wins] = index
    return result


def shares(label, shape):
    """Resamples the mask of each value linearly, only where it reaches: many small ones are cheap.

    Args:
        label: Integers, `(d, h, w)`.
        shape: New `(d, h, w)`.

    Yields:
        `(value, window, share)` for each value above 0: slices of the new grid, and float32
        shares of that window in [0, 1].
    """
    taps = [_taps(n, m) for n, m in zip(label.shape, shape, strict=True)]
    for index, box in enumerate(ndimage.find_objects(label), start=1):
        if box is None:
            continue
        window = tuple(_touching(t, b) for t, b in zip(taps, box, strict=True))
        near = [tuple(part[w] for part in t) for t, w in zip(taps, window, strict=True)]
        yield index, window, _interpolate(label == index, near)


def _taps(length, new_length):
    """Two source indices per new voxel and the weight of the second, float32."""
    where = (np.arange(new_length) + 0.5) * (length / new_length) - 0.5
    where = np.clip(where, 0, length - 1)
    low = np.floor(where).astype(np.intp)
    return low, np.minimum(low + 1, length - 1), (where - low).astype(np.float32)


def _touching(taps, box):
    hit = np.flatnonzero((taps[1] >= box.start) & (taps[0] < box.stop))
    return slice(hit[0], hit[-1] + 1) if hit.size else slice(0, 0)


def _interpolate(array, taps):
    # The axis that shrinks most comes first: what follows is smaller.
    for axis in sorted(range(3), key=lambda a: len(taps[a][0]) / array.shape[a]):
        low, high, weight = taps[axis]
        if np.array_equal(low, np.arange(array.shape[axis])) and not weight.any():
            continue
        weight = weight.reshape(-1, *[1] * (array.ndim - axis - 1))
        first = np.take(array, low, axis=axis).astype(np.float32, copy=False)
        array = np.take(array, high, axis=axis) - first
        array *= weight
        array += first
    return array


def to_indices(label, classes):
    """Returns class indices for source values, uint8 (uint16 for over 256 classes).

    Args:
        label: Integer array of source values.
        classes: Class name -> source value, in order of class index.

    Raises:
        DataError: A value is no class; names the values and the map.
    """
    values = np.array(list(classes.values()), dtype=np.int64)
    inside = (label >= 0) & (label <= values.max())
    table = np.full(values.max() + 1, -1, dtype=np.int32)
    table[values] = np.arange(len(values))
    indices = table[np.where(inside, label, 0)]
    unknown = ~inside | (indices < 0)
    if unknown.any():
        found = np.unique(label[unknown])
        shown = ", ".join(str(v) for v in found[:5]) + (", ..." if len(found) > 5 else "")
        raise DataError(
            f"label value {shown} is not in the class map {classes} ({unknown.sum()} voxels). "
            "Add it to the map or mend the label."
        )
    return indices.astype(np.uint8 if len(values) <= 256 else np.uint16)


def to_values(indices, classes):
    """Returns the source values of class indices, in the smallest unsigned dtype; the inverse.

    Args:
        indices: Integer array of class indices.
        classes: Class name -> source value, in order of class index.
    """
    values = np.array(list(classes.values()), dtype=np.int64)
    return values.astype(np.min_scalar_type(values.max()))[indices]
