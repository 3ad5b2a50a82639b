"""NIfTI reading, its traps, and atomic writing."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK

from segkit.errors import DataError
from segkit.io import read_image
from segkit.io import read_label
from segkit.io.nifti import read_nifti
from segkit.io.nifti import write_nifti
from segkit.volume import Volume
from segkit.volume import reoriented_affine

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])


def _save(path, array, sform=AFFINE, qform=None, **header):
    image = nibabel.Nifti1Image(array, None, dtype=array.dtype)
    image.set_sform(sform, code=int(sform is not None))
    image.set_qform(qform, code=int(qform is not None))
    for key, value in header.items():
        image.header[key] = value
    if sform is not None and "pixdim" not in header:
        image.header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    nibabel.save(image, path)
    return path


@pytest.fixture
def array():
    return np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def test_the_index_order_is_reversed_and_the_affine_follows(tmp_path, array):
    got = read_image(_save(tmp_path / "a.nii.gz", array))
    assert got.array.shape == (4, 3, 2)
    assert got.array[3, 2, 1] == array[1, 2, 3]
    assert got.spacing_mm == (4, 3, 2)
    assert got.orientation == "SAL"
    assert got.notes == ()
    # voxel (i, j, k) = (1, 2, 3): x = 10 - 2 * 1, y = -20 + 3 * 2, z = 30 + 4 * 3
    np.testing.assert_allclose(got.affine @ [3, 2, 1, 1], [8, -14, 42, 1])


def test_the_qform_is_used_without_an_sform(tmp_path, array):
    got = read_image(_save(tmp_path / "a.nii", array, sform=None, qform=AFFINE))
    np.testing.assert_allclose(got.affine, AFFINE[:, [2, 1, 0, 3]], atol=1e-6)
    assert got.notes == ()


def test_no_spatial_reference_is_noted(tmp_path, array):
    path = _save(tmp_path / "a.nii", array)
    data = bytearray(path.read_bytes())
    data[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(data)
    got = read_image(path)
    assert "no spatial reference" in got.notes[0]
    assert got.orientation == "SAR"
    assert got.spacing_mm == (4, 3, 2)


def test_disagreeing_forms_are_noted_and_the_sform_wins(tmp_path, array):
    qform = np.diag([1.0, 1, 1, 1])
    got = read_image(_save(tmp_path / "a.nii", array, qform=qform, pixdim=[1, 1, 1, 1, 0, 0, 0, 0]))
    assert "sform and qform disagree by up to" in got.notes[0]
    assert "1 x 1 x 1 mm, disagrees with the affine's, 4 x 3 x 2 mm" in got.notes[1]
    assert got.spacing_mm == (4, 3, 2)


def test_four_axes_become_channels_and_a_trailing_one_is_dropped(tmp_path):
    array = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
    got = read_image(_save(tmp_path / "a.nii.gz", array))
    assert got.array.shape == (4, 3, 2, 2)
    np.testing.assert_array_equal(got.array[1, 2, 0], array[0, 2, 1])
    got = read_image(_save(tmp_path / "b.nii.gz", array[..., :1]))
    assert got.array.shape == (4, 3, 2)
    got = read_image(_save(tmp_path / "c.nii.gz", array[:, :, 0, 0]))
    assert got.array.shape == (1, 3, 2)


def test_more_than_four_axes_are_refused(tmp_path):
    path = _save(tmp_path / "a.nii", np.zeros((2, 3, 4, 2, 2), np.uint8))
    with pytest.raises(DataError, match=r"has 5 axes .*at most three of space and one of chan"):
        read_image(path)
    vector = _save(tmp_path / "b.nii", np.zeros((2, 3, 4, 1, 3), np.uint8))
    assert read_image(vector).array.shape == (4, 3, 2, 3)


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"), [(2, -5, np.int16), (0.5, 0, np.float32), (0, 9, np.int16)]
)
def test_slope_and_intercept_are_applied(tmp_path, array, slope, inter, dtype):
    path = _save(tmp_path / "a.nii", array)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([slope, inter], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(data)
    got = read_image(path)
    assert got.array.dtype == dtype
    want = array * slope + inter if slope else array
    np.testing.assert_array_equal(got.array, want.T)


def test_rgb_and_big_endian_are_read(tmp_path):
    rgb = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["G"][1, 2, 3] = 7
    got = read_image(_save(tmp_path / "a.nii", rgb))
    assert got.array.shape == (4, 3, 2, 3)
    assert got.array[3, 2, 1].tolist() == [0, 7, 0]
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(np.array([[[258]]], ">i2"), AFFINE, header)
    nibabel.save(image, tmp_path / "b.nii")
    assert read_image(tmp_path / "b.nii").array.tolist() == [[[258]]]


def test_nan_in_an_image_becomes_zero_with_a_note_and_is_refused_in_a_label(tmp_path):
    array = np.ones((2, 3, 4), np.float32)
    array[0, 0, 0], array[1, 0, 0] = np.nan, np.inf
    path = _save(tmp_path / "a.nii.gz", array)
    got = read_image(path)
    assert got.array.sum() == 22
    assert got.notes == ("2 of 24 voxels were NaN or infinite and were set to 0.",)
    with pytest.raises(DataError, match="2 voxels are not integers"):
        read_label(path)
    with pytest.raises(DataError, match="no finite voxel"):
        read_image(_save(tmp_path / "b.nii", array * np.nan))


def test_labels_stored_as_floats_are_rounded(tmp_path):
    path = _save(tmp_path / "a.nii", np.array([[[0, 1.0004, 299.9996]]], np.float32))
    got = read_label(path)
    assert got.array.dtype == np.uint16
    assert got.array.ravel().tolist() == [0, 1, 300]
    assert "rounded by up to 0.0004" in got.notes[0]


@pytest.mark.parametrize(
    ("values", "message"), [([0, 0.5], "not integers, such as 0.5"), ([0, -1], "range from -1 to")]
)
def test_fractions_and_negatives_are_no_labels(tmp_path, values, message):
    path = _save(tmp_path / "a.nii", np.array([[values]], np.float32))
    with pytest.raises(DataError, match=message):
        read_label(path)


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.1])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, suffix, keep):
    noise = np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16)
    path = _save(tmp_path / f"a{suffix}", noise)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match="truncated|damaged") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_other_bytes_are_refused(tmp_path):
    for name, data in [("a.nii", b"hello" * 100), ("b.nii.gz", b"hello"), ("c.nii", b"")]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="cannot be read as NIfTI"):
            read_image(tmp_path / name)


def test_a_forged_size_is_refused_before_allocation(tmp_path):
    path = _save(tmp_path / "a.nii", np.zeros((9, 9, 9), np.float64))
    data = bytearray(path.read_bytes())
    data[42:48] = np.array([2048, 2048, 256], "<i2").tobytes()  # dim: 8.6 GB of float64
    path.write_bytes(data)
    with pytest.raises(DataError, match="is truncated"):
        read_image(path)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data))
    with pytest.raises(DataError, match="declares 8192 MiB.*more than 1032:1"):
        read_image(tmp_path / "b.nii.gz")


def test_a_sheared_affine_is_refused_and_float_noise_accepted(tmp_path, array):
    sheared = AFFINE.copy()
    sheared[0, 1] = 1e-5
    assert read_image(_save(tmp_path / "a.nii", array, sform=sheared)).shape == (4, 3, 2)
    sheared[0, 1] = 1.0
    with pytest.raises(DataError, match="sheared affine"):
        read_image(_save(tmp_path / "b.nii", array, sform=sheared))
    with pytest.raises(DataError, match="sheared affine"):
        write_nifti(tmp_path / "c.nii", Volume(array, sheared))
    assert not (tmp_path / "c.nii").exists()


def test_a_singular_affine_is_refused(tmp_path, array):
    singular = AFFINE.copy()
    singular[:, 0] = 0
    with pytest.raises(DataError, match="invertible"):
        read_image(_save(tmp_path / "a.nii", array, sform=singular))
    singular[:, 0] = AFFINE[:, 1]
    with pytest.raises(DataError, match="degenerate affine"):
        read_image(_save(tmp_path / "b.nii", array, sform=singular))


def test_complex_voxels_are_refused(tmp_path):
    with pytest.raises(DataError, match="only real numbers"):
        read_image(_save(tmp_path / "a.nii", np.ones((2, 2, 2), np.complex64)))


ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*pairs)
]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_writing_keeps_every_orientation_and_simpleitk_agrees(tmp_path, codes):
    array = np.random.default_rng(0).integers(0, 99, (3, 4, 5)).astype(np.uint8)
    base = np.array([[0, 0, 1.5, 3], [0, 0.75, 0, -7], [2, 0, 0, 11], [0, 0, 0, 1.0]])
    volume = Volume(array, reoriented_affine(base, array.shape, codes))
    write_nifti(tmp_path / "a.nii.gz", volume)
    got = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(got.array, array)
    np.testing.assert_allclose(got.affine, volume.affine, atol=1e-5)
    assert got.array.dtype == np.uint8
    assert got.notes == ()
    theirs = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(theirs), array)
    x, y, z = theirs.TransformIndexToPhysicalPoint((4, 1, 2))
    np.testing.assert_allclose([-x, -y, z], (volume.affine @ [2, 1, 4, 1])[:3], atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "stored"), [(bool, "u1"), ("u2", "u2"), ("i4", "i4"), ("f2", "f4"), ("f8", "f8")]
)
def test_writing_keeps_the_dtype(tmp_path, dtype, stored):
    write_nifti(tmp_path / "a.nii", Volume(np.ones((2, 3, 4, 2), dtype)))
    got = read_nifti(tmp_path / "a.nii")
    assert got.array.dtype == np.dtype(stored)
    assert got.array.shape == (2, 3, 4, 2)


def test_writing_is_deterministic_and_leaves_nothing_behind_on_failure(tmp_path, monkeypatch):
    volume = Volume(np.ones((2, 3, 4), np.uint8))
    write_nifti(tmp_path / "a.nii.gz", volume)
    first = (tmp_path / "a.nii.gz").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_nifti(tmp_path / "a.nii.gz", volume)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    write_nifti(tmp_path / "a.nii.gz", volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == first


def test_writing_refuses_a_wrong_name_folder_or_dtype(tmp_path):
    volume = Volume(np.ones((2, 3, 4), np.uint8))
    with pytest.raises(DataError, match=r"ends in \.nii or \.nii\.gz, got 'a\.png'"):
        write_nifti(tmp_path / "a.png", volume)
    with pytest.raises(DataError, match="does not exist"):
        write_nifti(tmp_path / "no" / "a.nii", volume)
    with pytest.raises(DataError, match="dtype <U1"):
        write_nifti(tmp_path / "a.nii", Volume(np.full((2, 3, 4), "x")))
