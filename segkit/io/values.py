"""Rules on voxel values that every reader shares: finite images, integer labels, size caps."""

import numpy as np

from segkit.errors import DataError

ROUNDING_TOLERANCE = 1e-3
# Deflate cannot pack better than 1032:1, so a larger claim is damaged or forged.
MAX_COMPRESSION_RATIO = 1032
FREE_BYTES = 64 * 2**20


def check_expansion(name, declared_bytes, stored_bytes):
    """Refuses a file that declares far more voxels than it can hold, before allocation.

    Args:
        name: File, for the message.
        declared_bytes: Size of the array that the header announces.
        stored_bytes: Size of the compressed data.

    Raises:
        DataError: Above 64 MiB and `MAX_COMPRESSION_RATIO` times the stored size.
    """
    if declared_bytes > max(FREE_BYTES, MAX_COMPRESSION_RATIO * stored_bytes):
        raise DataError(
            f"{name} declares {declared_bytes / 2**20:.0f} MiB of voxels but holds only "
            f"{stored_bytes / 2**20:.2f} MiB: more than {MAX_COMPRESSION_RATIO}:1, so the file "
            "is damaged or forged. Export it again."
        )


def rescaled(stored, slope, intercept):
    """Returns `stored * slope + intercept`: `narrowed` integers if exact, else float32."""
    if slope == 1 and intercept == 0:
        return stored
    exact = stored.dtype.kind in "iub" and float(slope).is_integer()
    if exact and float(intercept).is_integer() and _fits_int64(stored, slope, intercept):
        return narrowed(stored.astype(np.int64) * int(slope) + int(intercept))
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _fits_int64(stored, slope, intercept):
    largest = max(abs(int(stored.max())), abs(int(stored.min()))) if stored.size else 0
    return largest * abs(slope) + abs(intercept) < 2**62


def narrowed(array):
    """Returns integers as int16 if they fit, else int32, else int64; floats as float32."""
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype, copy=False)
    return array.astype(np.int64)


def finite(array, name):
    """Replaces NaN and infinite voxels of an image by 0.

    Args:
        array: Image of any dtype.
        name: File, for the message.

    Returns:
        `(array, notes)`: the array and a tuple of notes that says how many were replaced.

    Raises:
        DataError: If no voxel is finite.
    """
    if array.dtype.kind != "f":
        return array, ()
    bad = ~np.isfinite(array)
    count = int(np.count_nonzero(bad))
    if count == 0:
        return array, ()
    if count == array.size:
        raise DataError(f"{name} holds no finite voxel: every value is NaN or infinite.")
    return np.where(bad, array.dtype.type(0), array), (
        f"{count} of {array.size} voxels were NaN or infinite and were set to 0.",
    )


def as_labels(array, name):
    """Turns an array as stored in a file into a label map.

    Args:
        array: Shape `(depth, height, width[, channels])`; channels must be equal.
        name: File, for the message.

    Returns:
        `(labels, notes)`: uint8, uint16 or int32 array `(depth, height, width)`.

    Raises:
        DataError: For NaN, fractions beyond `ROUNDING_TOLERANCE`, negative values, values
            beyond int32, or channels that differ.
    """
    notes = []
    if array.ndim == 4:
        if (array != array[..., :1]).any():
            raise DataError(
                f"{name} is not a label map: its {array.shape[3]} channels differ. Save one "
                "class index per voxel (one channel, or a palette image)."
            )
        array = array[..., 0]
        notes.append("The channels of the label map are equal; the first was taken.")
    if array.dtype.kind == "f":
        array, rounding = _rounded(array, name)
        notes += rounding
    array = array.astype(np.uint8) if array.dtype.kind == "b" else array
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high > np.iinfo(np.int32).max:
        raise DataError(
            f"{name} is not a label map: values range from {low} to {high}, labels must lie in "
            "0 to 2147483647. Give the label file, not the image."
        )
    dtype = np.uint8 if high < 256 else np.uint16 if high < 65536 else np.int32
    return array.astype(dtype), tuple(notes)


def _rounded(array, name):
    whole = np.rint(array)
    with np.errstate(invalid="ignore"):
        off = np.abs(array - whole)
    wrong = ~(off <= ROUNDING_TOLERANCE)
    if wrong.any():
        raise DataError(
            f"{name} is not a label map: {int(wrong.sum())} voxels are not integers, such as "
            f"{float(array[wrong][0]):g}. Give the label file, or save it without interpolation."
        )
    if np.abs(whole).max(initial=0) > np.iinfo(np.int32).max:
        raise DataError(f"{name} is not a label map: its values exceed 2147483647.")
    noise = float(off.max(initial=0))
    notes = [f"Labels stored as floats were rounded by up to {noise:.2g}."] if noise else []
    return whole.astype(np.int64), notes
