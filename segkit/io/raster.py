"""PNG, TIFF, JPEG and BMP: 2-D images, and TIFF pages as depth. Spacing is 1 mm per pixel."""

import os
import warnings
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.io.values import as_labels
from segkit.io.values import check_expansion
from segkit.io.values import finite
from segkit.volume import Volume

_LOSSY_TIFF = {6, 7, 33003, 33004, 33005, 34712, 34892}


def read_raster(path, *, label: bool = False):
    """Reads a raster image.

    Args:
        path: `.png`, `.tif`, `.tiff`, `.jpg`, `.jpeg` or `.bmp`; 8 or 16 bit, float TIFF.
        label: Read as a label map: palette images give their indices, JPEG is refused.

    Returns:
        `Volume` with the default affine. Grey gives no channel axis, colour three channels.

    Raises:
        DataError: If the file is damaged, transparent, lossy for a label, a time series, or
            larger than Pillow's limit of 179 million pixels (not for TIFF).
    """
    path = Path(path)
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    if label and path.suffix.lower() in (".jpg", ".jpeg"):
        raise DataError(f"{path}: JPEG changes label values. Save labels as PNG, TIFF or NIfTI.")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            array, notes = (_read_tiff if is_tiff else _read_pillow)(path, label)
    except SegkitError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"{path} has more than 179 million pixels; cut it into tiles.") from None
    except Exception as error:
        raise DataError(
            f"{path} cannot be read: the image is damaged or of an unsupported kind "
            f"({type(error).__name__}). Save it again as PNG or TIFF."
        ) from None
    array, more = as_labels(array, path) if label else finite(array, path)
    doubts = dict.fromkeys(f"The decoder warns: {w.message}" for w in caught)
    return Volume(array, notes=notes + more + tuple(doubts))


def write_png(path, volume):
    """Writes a label map of one slice as PNG, atomically; its affine is lost.

    Args:
        path: The file; its folder must exist.
        volume: `Volume`, array `(1, height, width)`, uint8 or uint16.

    Raises:
        DataError: If there are several slices, or the values need more than 16 bits.
    """
    path = Path(path)
    if volume.shape[0] > 1 or volume.array.dtype.itemsize > 2:
        raise DataError(
            f"{path}: a PNG holds one slice and values up to 65535. Write .nii.gz instead."
        )
    image = Image.fromarray(volume.array[0])
    _write(path, lambda partial: image.save(partial, format="PNG"))


def write_tiff(path, volume):
    """Writes a label map as TIFF, a page per slice, atomically; its affine is lost.

    Args:
        path: The file; its folder must exist.
        volume: `Volume` of integers, array `(depth, height, width)`.
    """
    options = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}, "compression": "zlib"}
    _write(path, lambda partial: tifffile.imwrite(partial, volume.array, **options))


def _write(path, save):
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_pillow(path, label):
    with Image.open(path) as image:
        bands = len(image.getbands())
        check_expansion(path, image.width * image.height * bands, path.stat().st_size)
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{path} is an animation of {image.n_frames} frames, not an image.")
        array = _pixels(path, image, label)[None]
        turned = image.getexif().get(0x0112, 1) != 1
    note = "The EXIF rotation was not applied: pixels are taken as stored."
    return array, (note,) if turned else ()


def _pixels(path, image, label):
    """Returns one Pillow image as `(height, width[, 3])`."""
    if len(image.getbands()) > 1 and "16" in str([tile[3] for tile in image.tile]):
        raise DataError(
            f"{path} is a 16-bit colour image, which Pillow would cut to 8 bits. Save it as an "
            "uncompressed TIFF."
        )
    if image.mode == "P" and not label:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode not in ("L", "P", "I", "F", "RGB", "RGBA", "LA") and image.mode[:4] != "I;16":
        raise DataError(f"{path} has colour mode {image.mode}; save it as grey or RGB.")
    array = np.asarray(image)
    if image.mode in ("RGBA", "LA"):
        array = _without_alpha(path, array, 255)
    return array.astype(array.dtype.newbyteorder("="))


def _without_alpha(path, array, opaque):
    if (array[..., -1] != opaque).any():
        raise DataError(
            f"{path} has transparent pixels, whose values are undefined. Save it without alpha."
        )
    array = array[..., :-1]
    return array[..., 0] if array.shape[-1] == 1 else array


def _read_tiff(path, label):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        if label and int(page.compression) in _LOSSY_TIFF:
            raise DataError(f"{path} is JPEG-compressed, which changes label values. Save as PNG.")
        if len(tiff.series) != 1:
            raise DataError(
                f"{path} holds {len(tiff.series)} images of different size or kind. Save each as "
                "its own file."
            )
        series = tiff.series[0]
        check_expansion(path, series.nbytes, path.stat().st_size)
        axes, shape = series.axes, series.shape
        try:
            array = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _read_pillow_pages(path, label), ()
    array = _ordered(path, array.reshape(shape), axes)
    return _photometric(path, array, page, label)


def _read_pillow_pages(path, label):
    """Reads TIFF compressions that tifffile alone cannot decode, such as LZW and JPEG."""
    with Image.open(path) as image:
        pages = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            pages.append(_pixels(path, image, label))
    return np.stack(pages)


def _ordered(path, array, axes):
    """Returns a TIFF series as `(depth, height, width[, channels])` given its axis letters."""
    kept = [n for n, (a, size) in enumerate(zip(axes, array.shape, strict=True)) if size > 1]
    kept = [n for n, a in enumerate(axes) if n in kept or a in "YX"]
    array = array.reshape([array.shape[n] for n in kept])
    names = ["C" if axes[n] in "SC" else axes[n] for n in kept]
    depth = [a for a in names if a not in "YXC"]
    if len(depth) > 1 or len(set(names)) < len(names) or depth == ["T"]:
        raise DataError(
            f"{path} has the axes {axes} of sizes {array.shape}; at most depth, height, width and "
            "channels can be read. Save one file per time point."
        )
    order = [names.index(a) for a in [*depth, "Y", "X", *(["C"] if "C" in names else [])]]
    array = array.transpose(order)
    return array if depth else array[None]


def _photometric(path, array, page, label):
    """Applies what the first page says about palette, polarity and transparency."""
    notes = ()
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and not label:
        array = (page.colormap >> 8).astype(np.uint8).T[array]
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind in "ub":
        top = 2**page.bitspersample - 1
        array = (top - array.astype(np.int64)).astype(array.dtype if top > 1 else np.uint8)
        notes = ("White was stored as 0 (MINISWHITE); the grey values were inverted.",)
    if array.ndim == 4 and any(int(e) in (1, 2) for e in page.extrasamples):
        opaque = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1.0
        array = _without_alpha(path, array, opaque)
    array = array.astype(np.uint8) if array.dtype.kind == "b" else array
    if array.dtype.kind not in "iuf":
        raise DataError(f"{path} holds {array.dtype} pixels; only real numbers can be read.")
    return array.astype(array.dtype.newbyteorder("=")), notes
