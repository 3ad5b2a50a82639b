"""Pixels of one DICOM file: rescale, sign, polarity, colour, compression, size caps."""

import zlib

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless
from pydicom.uid import RLELossless

from segkit.errors import DataError
from segkit.io import read_image
from segkit.io import read_label
from segkit.io.dicom import read_series
from segkit.io.dicom import write_series
from segkit.volume import Volume


def _pixels(array):
    return np.ascontiguousarray(array).tobytes()


def test_the_rescale_is_taken_from_each_slice(series, volume, edit):
    for n, path in enumerate(series[1]):
        edit(path, RescaleSlope=1 + n, RescaleIntercept=-n)
    got = read_series(series[0])
    scale = np.arange(10)[:, None, None]
    np.testing.assert_array_equal(got.array, volume.array.astype(int) * (1 + scale) - scale)
    assert got.array.dtype == np.int16


def test_large_values_become_int32_and_fractions_float32(series, volume, edit):
    edit(series[1][0], RescaleSlope=1000)
    got = read_series(series[0])
    assert got.array.dtype == np.int32
    np.testing.assert_array_equal(got.array[0], volume.array[0].astype(int) * 1000)
    edit(series[1][0], RescaleSlope=0.5)
    got = read_series(series[0])
    assert got.array.dtype == np.float32
    np.testing.assert_array_equal(got.array[0], volume.array[0] * 0.5)


def test_a_rescale_slope_of_zero_is_refused(series, edit):
    edit(series[1][0], RescaleSlope=0)
    with pytest.raises(DataError, match=r"0000\.dcm has the rescale slope 0"):
        read_series(series[0])


@pytest.mark.parametrize(("signed", "want"), [(1, [[-1, -2048], [2047, 1]]), (0, [[4095, 2048]])])
def test_twelve_bits_in_sixteen_are_extended_by_sign(series, edit, signed, want):
    # 0x0FFF is -1 in 12-bit two's complement and 0x0800 is -2048; 0xF000 is unused.
    stored = np.array([[0x0FFF, 0x0800], [0x07FF, 0xF001]], np.uint16)
    edit(
        series[1][0],
        PixelData=_pixels(stored),
        Rows=2,
        Columns=2,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=signed,
    )
    np.testing.assert_array_equal(read_image(series[1][0]).array[0][: len(want)], want)


def test_monochrome1_is_inverted_with_a_note(series, edit):
    stored = np.array([[0, 1], [254, 255]], np.uint8)
    edit(
        series[1][0],
        PixelData=_pixels(stored),
        Rows=2,
        Columns=2,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=2,
    )
    got = read_image(series[1][0])
    np.testing.assert_array_equal(got.array[0], [[510, 508], [2, 0]])  # (255 - stored) * 2
    assert "MONOCHROME1" in got.notes[1]


def test_padding_is_kept_with_a_note(series, volume):
    dataset = pydicom.dcmread(series[1][0])
    dataset.add_new("PixelPaddingValue", "SS", int(volume.array[0, 0, 0]))
    dataset.save_as(series[1][0])
    got = read_series(series[0])
    np.testing.assert_array_equal(got.array, volume.array)
    assert "padding" in got.notes[0]


def test_a_modality_lut_is_applied(series, edit):
    item = pydicom.Dataset()
    item.LUTDescriptor = [3, 10, 16]
    item.LUTData = [100, 200, 4000]
    dataset = edit(series[1][0], RescaleSlope=None, RescaleIntercept=None)
    dataset.ModalityLUTSequence = [item]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    dataset.Rows, dataset.Columns = 2, 2
    dataset.PixelData = _pixels(np.array([[9, 10], [11, 99]], np.int16))
    dataset.save_as(series[1][0])
    np.testing.assert_array_equal(read_image(series[1][0]).array[0], [[100, 100], [200, 4000]])


def test_colour_gives_channels(series, edit):
    rgb = np.random.default_rng(0).integers(0, 255, (12, 8, 3)).astype(np.uint8)
    for path in series[1]:
        edit(
            path,
            PixelData=_pixels(rgb),
            SamplesPerPixel=3,
            PlanarConfiguration=0,
            PhotometricInterpretation="RGB",
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelRepresentation=0,
        )
    got = read_series(series[0])
    assert got.array.shape == (10, 12, 8, 3)
    assert got.array.dtype == np.uint8
    np.testing.assert_array_equal(got.array[4], rgb)
    with pytest.raises(DataError, match="3 channels differ"):
        read_label(series[0])


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_lossless_compression_changes_nothing(series, volume, syntax):
    for path in series[1]:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_series(series[0]).array, volume.array)


def test_a_missing_decoder_names_the_extra(series, monkeypatch):
    dataset = pydicom.dcmread(series[1][0])
    dataset.compress(JPEGLSLossless)
    dataset.save_as(series[1][0])
    monkeypatch.setattr(pydicom.pixels.decoders.JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(DataError, match=r"pip install segkit\[dicom-codecs\]"):
        read_image(series[1][0])


def test_deflated_files_are_read_and_bombs_refused(series, volume, monkeypatch):
    path = series[1][0]
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    np.testing.assert_array_equal(read_image(path).array[0], volume.array[0])
    plain = path.read_bytes()
    start = 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(deflate.compress(bytes(2**20)) for _ in range(80)) + deflate.flush()
    path.write_bytes(plain[:start] + bomb)
    monkeypatch.setattr(pydicom, "dcmread", lambda *a, **k: pytest.fail("the bomb was inflated"))
    with pytest.raises(DataError, match="looks like a decompression bomb"):
        read_image(path)


def test_a_compressed_file_that_declares_far_more_than_it_holds_is_refused(series):
    path = series[1][0]
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(path)
    with pytest.raises(DataError, match="more than 1032:1"):
        read_image(path)


def test_a_file_without_pixels_or_with_odd_bits_is_refused(series, edit):
    edit(series[1][0], HighBit=14)
    with pytest.raises(DataError, match="HighBit must be BitsStored - 1"):
        read_image(series[1][0])
    edit(series[1][0], HighBit=15, PixelData=None)
    with pytest.raises(DataError, match="holds no pixel data"):
        read_image(series[1][0])


def test_a_siemens_mosaic_is_refused(series, edit):
    edit(series[1][0], ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    with pytest.raises(DataError, match="is a Siemens mosaic"):
        read_series(series[0])


def test_a_file_without_any_header_is_read(series, volume):
    dataset = pydicom.Dataset(pydicom.dcmread(series[1][0]))
    dataset.save_as(series[1][0], implicit_vr=True, little_endian=True)
    assert series[1][0].read_bytes()[:4] == b"\x08\x00\x08\x00"
    np.testing.assert_array_equal(read_series(series[0]).array, volume.array)


def test_a_series_reads_as_label_map(series, edit):
    for path in series[1]:
        edit(path, PixelData=_pixels(np.full((12, 8), 3, np.int16)))
    got = read_label(series[0])
    assert got.array.dtype == np.uint8
    assert (got.array == 3).all()


def _enhanced(path, volume, order, slopes):
    """Writes `volume` as an enhanced multi-frame CT with its frames in `order`."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.4"
    dataset.Modality, dataset.FrameOfReferenceUID = "CT", "1.2.5"
    dataset.NumberOfFrames = len(order)
    dataset.Rows, dataset.Columns = volume.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 1, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    shared, measures, plane = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing = list(volume.spacing_mm[1:])
    plane.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for k in order:
        group, position, values = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place = (volume.affine @ [k, 0, 0, 1])[:3] * (-1, -1, 1)
        position.ImagePositionPatient = [float(v) for v in place]
        values.RescaleSlope, values.RescaleIntercept = slopes[k], -7
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [values]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    dataset.PixelData = _pixels(volume.array[order].astype("<i2"))
    dataset.save_as(path, enforce_file_format=True)


def test_an_enhanced_multi_frame_ct_is_read_frame_by_frame(tmp_path, volume):
    order = list(np.random.default_rng(0).permutation(10))
    slopes = [1 + k % 3 for k in range(10)]
    _enhanced(tmp_path / "enhanced.dcm", volume, order, slopes)
    got = read_image(tmp_path / "enhanced.dcm")
    want = volume.array.astype(int) * np.array(slopes)[:, None, None] - 7
    np.testing.assert_array_equal(got.array, want)
    np.testing.assert_allclose(got.affine, volume.affine, atol=1e-9)


def test_an_enhanced_series_names_the_frames_of_a_gap(tmp_path, volume):
    kept = [0, 1, 2, 4, 5]
    _enhanced(tmp_path / "e.dcm", Volume(volume.array, volume.affine), kept, [1] * 10)
    with pytest.raises(DataError, match=r"missing, between e\.dcm frame 3 and e\.dcm frame 4"):
        read_image(tmp_path)


def test_a_cine_loop_without_positions_is_no_volume(series, edit):
    edit(series[1][0], NumberOfFrames=3, PixelData=bytes(3 * 12 * 8 * 2))
    with pytest.raises(DataError, match="not a volume: 0000.dcm has no valid ImagePosition"):
        read_image(series[1][0])


def test_spare_bytes_after_the_pixels_are_pointed_out_without_header_text(tmp_path):
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    first, *_ = write_series(tmp_path / "series", volume)
    dataset = pydicom.dcmread(first)
    dataset.PixelData += bytes(8)
    dataset.save_as(first)
    read = read_series(tmp_path / "series")
    np.testing.assert_array_equal(read.array, volume.array)
    assert [note for note in read.notes if "do not quite fit the header" in note]
