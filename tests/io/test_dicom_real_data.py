"""The reader on real series, against ground truth and against SimpleITK."""

import contextlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.io import read_image
from segkit.io import read_label
from segkit.io.dicom import read_series

# Series whose slices form no grid: what the message must say.
REFUSED = {
    "failing/gantrytilting/001": r"gantry tilt of 14\.0 degrees",
    "failing/notavolume/001": r"all 4 images lie at the same position .*AcquisitionNumber",
    "failing/sliceincrement/001": r"1 slice is missing, between IM-0001-0009-0001\.dcm and",
    "failing/sliceincrement/002": r"1 slice is missing, between IM-0001-0003\.dcm and",
    "failing/sliceorientation/001": r"mixes sizes or orientations.*1\).*2 images.*2\).*2 images",
}


def _series(root):
    return sorted({file.parent for file in root.rglob("*.dcm")})


def test_every_series_with_ground_truth_equals_it_voxel_for_voxel(shared_data):
    root = shared_data / "dicom_series"
    compared = 0
    for folder in _series(root):
        truth = folder.with_name(folder.name + "_ground_truth.nii.gz")
        if not truth.exists() or str(folder.relative_to(root)) in REFUSED:
            continue
        got, want = read_series(folder).oriented("SAR"), read_image(truth).oriented("SAR")
        # The truth of a series with fractional rescale is float64, ours float32.
        np.testing.assert_array_equal(got.array, want.array.astype(got.array.dtype), str(folder))
        np.testing.assert_allclose(got.affine, want.affine, atol=1e-3, err_msg=str(folder))
        compared += 1
    assert compared >= 18


@pytest.mark.parametrize("name", REFUSED)
def test_every_series_that_is_no_grid_is_refused_with_its_reason(shared_data, name):
    with pytest.raises(DataError, match=REFUSED[name]):
        read_series(shared_data / "dicom_series" / name)


def test_either_orientation_of_a_mixed_series_can_be_chosen(shared_data):
    folder = shared_data / "dicom_series/failing/sliceorientation/001"
    assert {read_series(folder, n).shape for n in (1, 2)} == {(2, 288, 288)}


def test_the_brain_series_equal_what_simpleitk_reads(shared_data):
    folders = _series(shared_data / "brain_mr_dicom")
    assert len(folders) == 5
    for folder in folders:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        got = read_series(folder)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), got.array, str(folder))
        for index in ((0, 0, 0), tuple(n - 1 for n in got.shape)):
            x, y, z = image.TransformContinuousIndexToPhysicalPoint([float(n) for n in index[::-1]])
            place = (got.affine @ [*index, 1])[:3]
            np.testing.assert_allclose([-x, -y, z], place, atol=1e-3, err_msg=str(folder))


def test_real_nifti_and_png_pairs_share_a_grid(shared_data):
    folder = shared_data / "ct_multi_organ"
    image = read_image(folder / "example_ct_sm.nii.gz")
    label = read_label(folder / "example_seg.nii.gz")
    np.testing.assert_allclose(image.affine, label.affine, atol=1e-3)
    assert image.shape == label.shape
    mask = read_label(next((shared_data / "isbi2012/label").glob("*.png")))
    assert set(np.unique(mask.array)) == {0, 255}


def test_each_file_that_pydicom_ships_is_read_or_refused(capfd):
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    read = 0
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        with contextlib.suppress(SegkitError):
            volume = read_series(file)
            assert np.isfinite(volume.array).all()
            read += 1
    capfd.readouterr()  # the C decoders print
    assert read >= 60


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
    ],
)
def test_transfer_syntaxes_of_one_image_agree(name, reference):
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    np.testing.assert_array_equal(read_image(root / name).array, read_image(root / reference).array)


def test_damaged_bytes_never_raise_anything_but_our_error(tmp_path, capfd):
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    rng = np.random.default_rng(0)
    for name in ("MR_small.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "MR_small_implicit.dcm"):
        whole = np.frombuffer((root / name).read_bytes(), np.uint8)
        for _ in range(40):
            data = whole.copy()
            data[rng.integers(128, min(len(data), 2500), 8)] = rng.integers(0, 256, 8)
            (tmp_path / "a.dcm").write_bytes(data.tobytes())
            with contextlib.suppress(SegkitError):
                read_series(tmp_path / "a.dcm")
    capfd.readouterr()
