"""Geometry of DICOM series: sorting, and refusals that name the slice."""

import itertools
import shutil
import subprocess
import sys

import highdicom
import numpy as np
import pydicom
import pytest

from segkit.errors import DataError
from segkit.io import read_image
from segkit.io.dicom import list_series
from segkit.io.dicom import read_series
from segkit.io.dicom import write_series
from segkit.volume import Volume
from segkit.volume import reoriented_affine
from segkit.volume import same_grid

OBLIQUE = np.array(
    [[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]]
)  # rows of a rotation: 0.36² + 0.48² + 0.8² = 1 and so on


def _same(got, want):
    np.testing.assert_array_equal(got.array, want.array)
    np.testing.assert_allclose(got.affine, want.affine, atol=1e-9)


def _shift(path, edit, offset):
    position = pydicom.dcmread(path).ImagePositionPatient
    edit(path, ImagePositionPatient=[float(p) + o for p, o in zip(position, offset, strict=True)])


def test_a_written_series_comes_back_with_equal_voxels_and_affine(series, volume):
    got = read_series(series[0])
    _same(got, volume)
    assert got.notes == ()
    assert got.array.dtype == np.int16


@pytest.mark.parametrize(
    "codes",
    [
        "".join(letters)
        for pairs in itertools.permutations(["RL", "AP", "SI"])
        for letters in itertools.product(*pairs)
    ],
)
def test_every_axis_orientation_survives_a_round_trip(tmp_path, codes):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 99, (3, 4, 5)).astype(np.int16)
    affine = reoriented_affine(
        np.array([[0, 0, 1.5, 3], [0, 0.75, 0, -7], [2, 0, 0, 11], [0, 0, 0, 1.0]]),
        (3, 4, 5),
        codes,
    )
    volume = Volume(array, affine)
    assert volume.orientation == codes
    write_series(tmp_path / "s", volume)
    got = read_series(tmp_path / "s")
    _same(got.oriented(codes), volume)
    right_handed = np.linalg.det(affine[:3, [2, 1, 0]]) > 0
    assert (got.orientation == codes) == right_handed


@pytest.mark.parametrize("flip", [1, -1])
def test_an_oblique_series_survives_a_round_trip(tmp_path, volume, flip):
    affine = np.eye(4)
    affine[:3, :3] = OBLIQUE @ np.diag([flip * 2.5, 0.8, 0.6])
    affine[:3, 3] = (-101.123456789, 22.2, 333.3)
    oblique = Volume(volume.array, affine)
    write_series(tmp_path / "s", oblique)
    _same(read_series(tmp_path / "s").oriented(oblique.orientation), oblique)


def test_highdicom_reads_a_written_series_alike(series, volume):
    datasets = [pydicom.dcmread(path) for path in series[1]]
    other = highdicom.get_volume_from_series(datasets)
    theirs = Volume(other.array, np.diag([-1.0, -1, 1, 1]) @ other.affine).oriented("SAR")
    np.testing.assert_array_equal(theirs.array, volume.array)
    np.testing.assert_allclose(theirs.affine, volume.affine, atol=1e-6)


def test_the_instance_number_does_not_matter(series, volume, edit):
    for number, path in enumerate(reversed(series[1])):
        edit(path, InstanceNumber=number)
    _same(read_series(series[0]), volume)


def test_thickness_and_stated_spacing_do_not_matter(series, volume, edit):
    for path in series[1]:
        edit(path, SliceThickness=5, SpacingBetweenSlices=7)
    _same(read_series(series[0]), volume)


def test_file_names_suffixes_subfolders_and_other_files_do_not_matter(series, volume):
    folder, paths = series
    (folder / "sub").mkdir()
    for name, path in zip("jihgfedcba", paths, strict=True):
        path.rename(folder / ("sub" if name in "abc" else "") / name)
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "readme.txt").write_text("not an image")
    (folder / "._a.dcm").write_bytes(b"\0\5\x16\7")
    _same(read_series(folder), volume)
    _same(read_image(folder), volume)


def test_a_single_file_reads_as_a_volume_of_depth_one(series, volume):
    got = read_image(series[1][3])
    np.testing.assert_array_equal(got.array, volume.array[3:4])
    assert got.spacing_mm == pytest.approx((2.5, 0.8, 0.6))
    assert "its depth is the thickness, 2.5 mm" in got.notes[0]
    renamed = series[1][3].rename(series[0] / "IM0003")
    assert same_grid(read_image(renamed), got)


@pytest.mark.parametrize("count", [2, 3])
def test_few_slices_are_enough(series, volume, count):
    for path in series[1][count:]:
        path.unlink()
    np.testing.assert_array_equal(read_series(series[0]).array, volume.array[:count])


def test_a_missing_slice_is_refused_with_its_neighbours(series):
    series[1][4].unlink()
    with pytest.raises(DataError, match=r"1 slice is missing, between 0003\.dcm and 0005\.dcm"):
        read_series(series[0])


def test_a_missing_end_slice_cannot_be_seen_and_shortens_the_volume(series, volume):
    series[1][9].unlink()
    np.testing.assert_array_equal(read_series(series[0]).array, volume.array[:9])


def test_unevenly_spaced_slices_are_refused(series, edit):
    _shift(series[1][9], edit, (0, 0, 1.0))
    with pytest.raises(DataError, match=r"unevenly spaced, from 2\.5 to 3\.5 mm.*0009\.dcm"):
        read_series(series[0])


def test_rounded_positions_are_accepted_with_a_note(series, volume, edit):
    for n, path in enumerate(series[1]):
        _shift(path, edit, (0, 0, 0.05 * (n % 2)))  # 0.05 of 2.5 mm: 2 percent
    got = read_series(series[0])
    assert "deviate from even steps" in got.notes[0]
    np.testing.assert_array_equal(got.array, volume.array)


def test_an_identical_copy_of_a_slice_is_left_out_with_a_note(series, volume):
    shutil.copy(series[1][2], series[0] / "copy.dcm")
    got = read_series(series[0])
    _same(got, volume)
    assert got.notes == ("1 identical copies of slices were left out.",)


def test_a_different_slice_at_the_same_position_is_refused(series, edit):
    shutil.copy(series[1][2], series[0] / "copy.dcm")
    edit(series[0] / "copy.dcm", PixelData=bytes(12 * 8 * 2), AcquisitionNumber=2)
    with pytest.raises(DataError, match=r"two different images.*AcquisitionNumber.*copy\.dcm"):
        read_series(series[0])


def test_a_series_with_two_volumes_is_refused_as_4d(series, edit):
    for path in series[1]:
        copy = shutil.copy(path, path.with_name("echo" + path.name))
        edit(path, EchoTime=10)
        edit(copy, EchoTime=20, PixelData=bytes(12 * 8 * 2))
    with pytest.raises(DataError, match="4-D: every position holds 2 different images.*EchoTime"):
        read_series(series[0])


def test_a_time_series_of_one_slice_is_no_volume(series, edit):
    position = pydicom.dcmread(series[1][0]).ImagePositionPatient
    for n, path in enumerate(series[1]):
        edit(path, ImagePositionPatient=position, TemporalPositionIdentifier=n)
    with pytest.raises(DataError, match="all 10 images lie at the same.*TemporalPosition"):
        read_series(series[0])


@pytest.mark.parametrize("degrees", [15.0, 2.0, -7.5])
def test_gantry_tilt_is_refused_with_its_angle(series, edit, degrees):
    for n, path in enumerate(series[1]):
        _shift(path, edit, (0, n * 2.5 * np.tan(np.radians(degrees)), 0))
    with pytest.raises(DataError, match=f"gantry tilt of {abs(degrees)} degrees"):
        read_series(series[0])


def test_drift_within_rounding_is_accepted_and_the_grid_stays_orthogonal(series, edit):
    for n, path in enumerate(series[1]):
        _shift(path, edit, (0, n * 0.01, 0))  # 0.09 mm over the stack, a quarter pixel is 0.15
    got = read_series(series[0])
    assert "drift sideways by 0.09 mm" in got.notes[0]
    cosines = got.affine[:3, :3] / got.spacing_mm
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-12)


def test_one_shifted_slice_is_refused_by_name(series, edit):
    _shift(series[1][5], edit, (3, 0, 0))
    with pytest.raises(DataError, match=r"0005\.dcm is shifted sideways by 3 mm"):
        read_series(series[0])


def test_a_slightly_turned_slice_is_refused_by_name(series, edit):
    tilt = np.radians(0.3)
    edit(
        series[1][5],
        ImageOrientationPatient=[-np.cos(tilt).round(9), np.sin(tilt).round(9), 0, 0, -1, 0],
        PixelSpacing=[80, 60],
    )
    with pytest.raises(DataError, match=r"inconsistent orientation: 0005\.dcm"):
        read_series(series[0])


def test_another_pixel_spacing_is_refused_by_name(series, edit):
    edit(series[1][5], PixelSpacing=[0.9, 0.6])
    with pytest.raises(DataError, match=r"PixelSpacing: 0005\.dcm has 0\.9 x 0\.6 mm, 0000\.dcm"):
        read_series(series[0])


def test_another_frame_of_reference_is_refused_by_name(series, edit):
    edit(series[1][5], FrameOfReferenceUID="1.2.3")
    with pytest.raises(DataError, match=r"0005\.dcm has another FrameOfReferenceUID"):
        read_series(series[0])


def test_slices_of_another_size_are_listed_by_name(series, edit):
    edit(series[1][5], Rows=6, PixelData=bytes(6 * 8 * 2))
    with pytest.raises(
        DataError, match=r"one series that mixes sizes.*1 image 6 x 8 \(first file 0005\.dcm\)"
    ):
        read_series(series[0])


def test_a_localizer_in_the_series_is_left_out_with_a_note(series, volume, edit):
    copy = shutil.copy(series[1][0], series[0] / "scout.dcm")
    edit(copy, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    edit(copy, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    got = read_series(series[0])
    _same(got, volume)
    assert got.notes == ("1 localizer images of the series were left out.",)


def test_two_series_in_a_folder_are_listed_and_one_can_be_chosen(tmp_path, series, volume):
    second = Volume(volume.array[:4] + np.int16(1), volume.affine)
    for path in write_series(tmp_path / "other", second, series_number=2):
        shutil.move(path, series[0] / f"other{path.name}")
    found = list_series(series[0])
    assert [s.shape for s in found] in ([(10, 12, 8), (4, 12, 8)], [(4, 12, 8), (10, 12, 8)])
    with pytest.raises(DataError, match=r"holds 2 series; choose one by its number.* 2\) \.\.\."):
        read_series(series[0])
    for number, one in enumerate(found, start=1):
        want = volume if one.shape[0] == 10 else second
        _same(read_series(series[0], number), want)
        _same(read_series(series[0], str(number)), want)
        _same(read_series(series[0], one.uid), want)
        _same(read_series(series[0], one.uid[-12:]), want)
    with pytest.raises(DataError, match="holds no series 3. It holds: 1"):
        read_series(series[0], 3)


def test_messages_name_no_patient(series, edit):
    for path in series[1]:
        edit(path, PatientName="Secret^Sam", PatientID="ID77", SeriesDescription="Sam brain")
    series[1][4].unlink()
    with pytest.raises(DataError) as caught:
        read_series(series[0])
    assert not any(word in str(caught.value) for word in ("Secret", "Sam", "ID77"))


def test_missing_positions_are_no_volume(series, edit):
    edit(series[1][5], ImagePositionPatient=None)
    with pytest.raises(DataError, match=r"not a volume: 0005\.dcm has no valid ImagePosition"):
        read_series(series[0])


@pytest.mark.parametrize(
    ("attributes", "spacing", "note"),
    [
        ({}, (1, 0.8, 0.6), "no position"),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.2, 0.1]}, (1, 0.2, 0.1), "detector"),
        ({"PixelSpacing": None}, (1, 1, 1), "1 mm was assumed"),
    ],
)
def test_a_single_image_without_position_is_2d(series, edit, attributes, spacing, note):
    place = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    edit(series[1][0], Modality="DX", **place, **attributes)
    got = read_image(series[1][0])
    assert got.spacing_mm == pytest.approx(spacing)
    assert got.orientation == "SAR"
    assert note in " ".join(got.notes)


def test_a_damaged_file_in_the_folder_is_refused_by_name(series):
    data = series[1][5].read_bytes()
    series[1][5].write_bytes(data[:-50])
    with pytest.raises(DataError, match=r"0005\.dcm: its pixel data cannot be decoded"):
        read_series(series[0])
    series[1][5].write_bytes(b"")
    with pytest.raises(DataError, match=r"0005\.dcm is named like DICOM but has no DICM marker"):
        read_series(series[0])


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no DICOM images"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        list_series(tmp_path / "absent")


def test_a_folder_named_dl_in_the_working_directory_breaks_nothing(tmp_path, series):
    (tmp_path / "dl").mkdir()
    code = "from segkit.io import read_image; print(read_image('series').shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(10, 12, 8)", done.stderr


def test_the_writer_refuses_what_it_cannot_store(tmp_path, volume):
    with pytest.raises(DataError, match="modality must be CT or MR"):
        write_series(tmp_path / "a", volume, modality="US")
    half = Volume(volume.array + 0.5, volume.affine)
    with pytest.raises(DataError, match="voxels are not integers"):
        write_series(tmp_path / "a", half)
    with pytest.raises(DataError, match="exceed 16 bits"):
        write_series(tmp_path / "a", Volume(volume.array.astype(np.int32) * 99, volume.affine))
    sheared = volume.affine.copy()
    sheared[1, 0] = 0.5
    with pytest.raises(DataError, match="not at right angles"):
        write_series(tmp_path / "a", Volume(volume.array, sheared))
    write_series(tmp_path / "b", half, slope=0.5)
    np.testing.assert_array_equal(read_series(tmp_path / "b").array, half.array)
    with pytest.raises(DataError, match="holds files already"):
        write_series(tmp_path / "b", volume)


def test_equal_input_gives_equal_files(tmp_path, volume):
    a = write_series(tmp_path / "a", volume, seed="one")
    b = write_series(tmp_path / "b", volume, seed="one")
    c = write_series(tmp_path / "c", volume, seed="two")
    assert a[3].read_bytes() == b[3].read_bytes()
    uids = [pydicom.dcmread(p[3]).SeriesInstanceUID for p in (a, c)]
    assert uids[0] != uids[1]
