"""NIfTI-1 and NIfTI-2, `.nii` and `.nii.gz`.

nibabel indexes `(i, j, k)`; segkit `(k, j, i)`: arrays are transposed and the affine's columns
permuted here and nowhere else. World coordinates of NIfTI are RAS+ mm, as in `Volume`.
"""

import gzip
import os
from pathlib import Path

import nibabel
import numpy as np

from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.io.values import as_labels
from segkit.io.values import check_expansion
from segkit.io.values import finite
from segkit.io.values import rescaled
from segkit.volume import Volume

# Largest sideways displacement across the volume, in voxels, that counts as float noise.
SHEAR_TOLERANCE = 0.25
_SWAP = [2, 1, 0, 3]


def read_nifti(path, *, label: bool = False):
    """Reads a NIfTI file.

    Args:
        path: `.nii` or `.nii.gz`, 2-D, 3-D or 4-D (the fourth axis holds channels).
        label: Read as a label map: integers, one channel.

    Returns:
        `Volume`. The sform is used, else the qform, else only the voxel size.

    Raises:
        DataError: If the file is damaged, has more than four axes, holds complex numbers, or
            its affine is sheared.
    """
    path = Path(path)
    try:
        image = _open(path)
        array = _array(path, image)
    except SegkitError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as NIfTI: the file is truncated or damaged "
            f"({type(error).__name__}). Copy or export it again."
        ) from None
    affine, notes = _placement(path, image.header, array.shape)
    array, more = as_labels(array, path) if label else finite(array, path)
    return Volume(array, affine, notes + more)


def write_nifti(path, volume):
    """Writes a volume as NIfTI-1, atomically, with sform and qform both set.

    Args:
        path: Ends in `.nii` or `.nii.gz`; the folder must exist.
        volume: `Volume`. The dtype is kept (bool becomes uint8, float16 becomes float32).

    Raises:
        DataError: If the suffix, the folder or the dtype is wrong or the affine is sheared.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise DataError(f"a NIfTI file ends in .nii or .nii.gz, got {path.name!r}.")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: the folder {path.parent} does not exist.")
    _check_shear(path, volume.affine, volume.shape)
    data = _image(path, volume).to_bytes()
    if path.name.lower().endswith(".gz"):
        data = gzip.compress(data, compresslevel=6, mtime=0)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _image(path, volume):
    kept = {"b": np.uint8}.get(volume.array.dtype.kind, volume.array.dtype)
    array = volume.array.astype(np.float32 if kept == np.float16 else kept, copy=False)
    array = array.transpose(2, 1, 0, *range(3, array.ndim))
    affine = volume.affine[:, _SWAP]
    try:
        image = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="scanner", strip_shears=True)
    except Exception as error:
        raise DataError(
            f"cannot write {path}: NIfTI does not hold an array of dtype {array.dtype} and shape "
            f"{volume.array.shape} ({type(error).__name__})."
        ) from None
    image.header.set_xyzt_units("mm")
    return image


def _open(path):
    """Opens the file after comparing the declared with the stored size."""
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Pair):
        raise DataError(f"{path} is not a NIfTI file but {type(image).__name__}.")
    header = image.header
    declared = (
        int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
    )
    stored = path.stat().st_size
    if path.name.lower().endswith(".gz"):
        check_expansion(path, declared, stored)
    elif declared + int(header["vox_offset"]) > stored:
        raise DataError(
            f"{path} is truncated: its header declares {declared} bytes of voxels, the file has "
            f"{stored}. Copy or export it again."
        )
    return image


def _array(path, image):
    """Returns the scaled voxels as `(k, j, i)` or `(k, j, i, channels)`."""
    array = np.asarray(image.dataobj.get_unscaled())
    if array.dtype.names:
        array = _colour(path, array)
    elif array.dtype.kind not in "iuf":
        raise DataError(f"{path} holds {array.dtype} voxels; only real numbers can be read.")
    elif array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    # nibabel moves the scaling from the header to the data object, where 0 and NaN become 1.
    array = rescaled(array, float(image.dataobj.slope), float(image.dataobj.inter))
    shape = array.shape
    channels = [n for n in shape[3:] if n > 1]
    if len(channels) > 1:
        raise DataError(
            f"{path} has {array.ndim} axes {shape}; at most three of space and one of channels "
            "can be read. Split it into one file per time point."
        )
    array = array.reshape(*shape[:3], *[1] * (3 - len(shape)), *channels)
    if 0 in array.shape:
        raise DataError(f"{path} holds no voxels: its shape is {shape}.")
    array = array.transpose(2, 1, 0, *range(3, array.ndim))
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _colour(path, array):
    """Turns the RGB and RGBA datatypes into a channel axis; alpha must be opaque."""
    names = array.dtype.names
    if "A" in names and (array["A"] != 255).any():
        raise DataError(f"{path} has a transparency channel that is not opaque; remove it.")
    return np.stack([array[name] for name in names if name != "A"], axis=-1)


def _placement(path, header, shape):
    """Returns the affine of the `(k, j, i)` array and the notes on it."""
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    zooms = np.array([*header.get_zooms()[:3], 1.0, 1.0][:3], dtype=np.float64)
    notes = []
    if sform:
        affine = header.get_sform()
    elif qform:
        affine = header.get_qform()
    else:
        affine = np.diag([*np.where(zooms > 0, zooms, 1.0), 1.0])
        notes.append(
            "The file has no spatial reference (sform and qform codes are 0): orientation RAS "
            "and origin 0 were assumed."
        )
    affine = affine[:, _SWAP].astype(np.float64)
    try:
        spacing = np.array(Volume(np.empty((1, 1, 1)), affine).spacing_mm)
    except SegkitError as error:
        raise DataError(f"{path}: {error}") from None
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise DataError(f"{path} has a degenerate affine: two of its axes are parallel.")
    _check_shear(path, affine, shape[:3])
    if sform and qform:
        off = _farthest(affine, header.get_qform()[:, _SWAP], shape)
        if off > 0.05 * spacing.min():
            notes.append(f"sform and qform disagree by up to {off:.3g} mm; the sform was used.")
    if np.abs(spacing - zooms[::-1]).max() > 0.01 * spacing.min():
        notes.append(
            f"The voxel size in the header, {_triple(zooms[::-1])} mm, disagrees with the "
            f"affine's, {_triple(spacing)} mm, which was used."
        )
    return affine, tuple(notes)


def _farthest(a, b, shape):
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape[:3]], indexing="ij"), -1)
    corners = np.c_[corners.reshape(-1, 3), np.ones(8)]
    return float(np.linalg.norm((corners @ (a - b).T)[:, :3], axis=1).max())


def _check_shear(path, affine, shape):
    """Refuses an affine whose axes are not at right angles, measured over the volume."""
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    cosines = affine[:3, :3] / spacing
    extent = spacing * (np.array(shape) - 1)
    drift = np.abs(cosines.T @ cosines - np.eye(3)) * np.minimum.outer(extent, extent)
    if drift.max() > SHEAR_TOLERANCE * spacing.min():
        raise DataError(
            f"{path} has a sheared affine: its axes are not at right angles ({drift.max():.3g} mm "
            "over the volume). Resample it to an orthogonal grid first."
        )


def _triple(values):
    return " x ".join(f"{v:.4g}" for v in values)
