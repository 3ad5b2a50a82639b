"""PNG, TIFF, JPEG and BMP, and the dispatch by name."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.errors import DataError
from segkit.io import read_image
from segkit.io import read_label
from segkit.io.raster import write_png
from segkit.io.raster import write_tiff
from segkit.volume import Volume


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 255, (6, 5)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_grey_images_are_volumes_of_depth_one(tmp_path, grey, suffix):
    Image.fromarray(grey).save(tmp_path / f"a{suffix}")
    got = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(got.array, grey[None])
    assert got.array.dtype == np.uint8
    assert got.spacing_mm == (1, 1, 1)
    np.testing.assert_array_equal(read_label(tmp_path / f"a{suffix}").array, grey[None])


def test_sixteen_bits_are_kept(tmp_path, grey):
    deep = grey.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", deep)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name).array, deep[None])


def test_colour_gives_channels_and_opaque_alpha_is_dropped(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 255, (6, 5, 4)).astype(np.uint8)
    rgba[..., 3] = 255
    Image.fromarray(rgba[..., :3]).save(tmp_path / "a.png")
    Image.fromarray(rgba).save(tmp_path / "b.png")
    tifffile.imwrite(tmp_path / "c.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("a.png", "b.png", "c.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name).array, rgba[None, ..., :3])
    rgba[0, 0, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "d.png")
    tifffile.imwrite(tmp_path / "e.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("d.png", "e.tif"):
        with pytest.raises(DataError, match="transparent pixels"):
            read_image(tmp_path / name)


def test_a_palette_gives_colours_for_images_and_indices_for_labels(tmp_path):
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png")
    colormap = np.zeros((3, 256), np.uint16)
    colormap[0, 1], colormap[1, 2] = 65535, 65535
    tifffile.imwrite(tmp_path / "b.tif", indices, photometric="palette", colormap=colormap)
    for name in ("a.png", "b.tif"):
        np.testing.assert_array_equal(read_label(tmp_path / name).array[0], indices)
        got = read_image(tmp_path / name).array
        assert got[0].tolist() == [[[0, 0, 0], [255, 0, 0]], [[0, 255, 0], [255, 0, 0]]]


def test_pages_of_a_tiff_are_depth(tmp_path, grey):
    stack = np.stack([grey, grey + 1, grey + 2])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, stack)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(
        tmp_path / "b.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw"
    )
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif").array, stack)
    floats = stack[:, None].astype(np.float32)
    tifffile.imwrite(tmp_path / "c.tif", floats, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif").array, stack)


def test_channels_come_last_and_a_time_series_is_refused(tmp_path, grey):
    stack = np.stack([[grey, grey + 1], [grey + 2, grey + 3], [grey, grey]])
    meta = {"axes": "ZCYX"}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata=meta)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, np.moveaxis(stack, 1, -1))
    tifffile.imwrite(tmp_path / "b.tif", stack, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(DataError, match="One|one file per time point"):
        read_image(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", stack[:, 0], imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(DataError, match="one file per time point"):
        read_image(tmp_path / "c.tif")


def test_pages_of_different_size_are_refused(tmp_path, grey):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(grey, photometric="minisblack")
        writer.write(grey[:3], photometric="minisblack")
    with pytest.raises(DataError, match="2 images of different size"):
        read_image(tmp_path / "a.tif")


def test_white_as_zero_is_inverted(tmp_path, grey):
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="miniswhite")
    got = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(got.array[0], 255 - grey)
    assert "inverted" in got.notes[0]


def test_jpeg_is_an_image_but_no_label(tmp_path, grey):
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").array.shape == (1, 6, 5, 3)
    with pytest.raises(DataError, match="JPEG changes label values"):
        read_label(tmp_path / "a.jpg")
    Image.fromarray(grey).save(tmp_path / "b.tif", compression="jpeg")
    assert read_image(tmp_path / "b.tif").array.shape == (1, 6, 5)
    with pytest.raises(DataError, match="JPEG-compressed"):
        read_label(tmp_path / "b.tif")


def test_a_grey_label_saved_as_colour_is_accepted_with_a_note(tmp_path, grey):
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "a.png")
    got = read_label(tmp_path / "a.png")
    np.testing.assert_array_equal(got.array, grey[None])
    assert "channels of the label map are equal" in got.notes[0]


def test_one_bit_masks_are_zero_and_one(tmp_path):
    mask = np.array([[True, False], [False, True]])
    Image.fromarray(mask).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", mask, photometric="minisblack")
    for name in ("a.png", "b.tif"):
        assert read_label(tmp_path / name).array[0].tolist() == [[1, 0], [0, 1]]


def test_sixteen_bit_colour_png_is_refused_rather_than_cut(tmp_path):
    # Signature, then IHDR of 1 x 1, depth 16, colour type 2 (RGB); written by hand since
    # Pillow cannot.
    import struct
    import zlib

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(bytes([0, 1, 2, 3, 4, 5, 6]))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DataError, match="16-bit colour image"):
        read_image(tmp_path / "a.png")


def test_an_image_bomb_is_refused(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(DataError, match="more than 179 million pixels"):
        read_image(tmp_path / "a.png")


def test_damaged_files_are_refused_in_one_line(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        data = (tmp_path / name).read_bytes()
        for keep in (0, 20, len(data) // 2):
            (tmp_path / name).write_bytes(data[:keep])
            with pytest.raises(DataError, match=name) as caught:
                read_image(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_a_label_map_of_one_slice_is_written_as_it_is(tmp_path, grey):
    for array in (grey[None], grey[None].astype(np.uint16) * 257):
        write_png(tmp_path / "a.png", Volume(array))
        got = read_label(tmp_path / "a.png").array
        np.testing.assert_array_equal(got, array)
        assert got.dtype == array.dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_what_a_png_cannot_hold_is_refused(tmp_path, dtype):
    slices = 2 if dtype == np.uint8 else 1
    with pytest.raises(DataError, match="holds one slice and values up to 65535"):
        write_png(tmp_path / "a.png", Volume(np.zeros((slices, 4, 4), dtype)))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(
        DataError, match=r"unknown image format '\.gif'. Known: a folder.*\.nii\.gz"
    ):
        read_image(tmp_path / "a.gif")
    with pytest.raises(DataError, match=r"absent\.png does not exist"):
        read_label(tmp_path / "absent.png")


@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 5, 6), (4, 5, 3), (2, 5, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_tiff_map_is_read_back_as_it_was(tmp_path, shape, dtype):
    """Of three pages or columns, too, which could be colours."""
    highest = 10**6 if dtype == np.int32 else np.iinfo(dtype).max
    array = np.random.default_rng(0).integers(0, highest, shape).astype(dtype)
    write_tiff(tmp_path / "a.tif", Volume(array))
    found = read_label(tmp_path / "a.tif")
    assert found.shape == shape
    np.testing.assert_array_equal(found.array, array)
    assert [f.name for f in tmp_path.iterdir()] == ["a.tif"]
