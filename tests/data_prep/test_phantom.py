import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.ndimage import center_of_mass
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from data_prep.layouts import scan_source
from data_prep.phantom import MAKERS
from data_prep.phantom import ellipsoid_field
from data_prep.phantom import make_brain
from data_prep.phantom import make_cine
from data_prep.phantom import make_ct
from data_prep.phantom import write_phantom
from segkit.errors import ConfigError
from segkit.errors import DataError

SMALL = {"shape": (8, 32, 32)}


@pytest.mark.parametrize("make", MAKERS.values())
def test_the_same_seed_gives_the_same_bytes(make):
    first, second, other = make(7, **SMALL), make(7, **SMALL), make(8, **SMALL)
    assert first.image.array.tobytes() == second.image.array.tobytes()
    assert first.label.array.tobytes() == second.label.array.tobytes()
    assert first.image.array.tobytes() != other.image.array.tobytes()
    assert first.label.array.tobytes() != other.label.array.tobytes()


@pytest.mark.parametrize("make", MAKERS.values())
def test_volumes_are_voxel_counts_times_voxel_volume(make):
    # a voxel of 4 x 2.5 x 2 mm has 20 mm3 = 0.02 ml
    phantom = make(1, shape=(8, 32, 32), spacing_mm=(4.0, 2.5, 2.0))
    for name, value in phantom.classes.items():
        count = int((phantom.label.array == value).sum())
        assert phantom.volumes_ml[name] == pytest.approx(0.02 * count, rel=1e-12)
    # 8 * 32 * 32 voxels of 0.02 ml = 163.84 ml
    assert sum(phantom.volumes_ml.values()) == pytest.approx(163.84)


@pytest.mark.parametrize("make", [make_ct, make_brain])
@pytest.mark.parametrize("seed", range(4))
def test_every_class_is_there_and_of_a_size_that_coarse_networks_see(make, seed):
    phantom = make(seed)
    names = set(phantom.classes) - {"background"}
    assert all(phantom.volumes_ml[name] > 10 for name in names), phantom.volumes_ml
    in_plane = (phantom.label.array > 0).any(axis=0)
    assert np.ptp(np.nonzero(in_plane)[0]) > 48


def test_finer_voxels_show_the_same_anatomy():
    # Half the voxel size in twice the grid: volumes agree up to the discretisation.
    coarse = make_ct(3, shape=(24, 48, 48), spacing_mm=(5, 6, 6))
    fine = make_ct(3, shape=(24, 96, 96), spacing_mm=(5, 3, 3))
    for name in ("liver", "spine", "spleen"):
        assert coarse.volumes_ml[name] == pytest.approx(fine.volumes_ml[name], rel=0.1)


def test_an_ellipsoid_has_its_analytic_volume():
    # semi-axes 20, 15, 10 on a unit grid: 4/3 pi 20 15 10 = 12566.4
    axes = [np.arange(-25.0, 26.0)] * 3
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    turn = Rotation.from_euler("zyx", [30, 40, 50], degrees=True)
    inside = ellipsoid_field(grid, (0.3, -0.2, 0.1), (20, 15, 10), turn) < 1
    assert inside.sum() == pytest.approx(12566.4, rel=0.005)


def test_an_ellipsoid_is_turned_as_its_rotation_says():
    # A quarter turn in the plane of axes 1 and 2 brings the long axis 1 to axis 2.
    turn = Rotation.from_rotvec([np.pi / 2, 0, 0])
    points = np.array([[0, 2.9, 0], [0, 0, 2.9], [0, 0, 3.1]], float).T
    field = ellipsoid_field(points, (0, 0, 0), (1, 3, 1), turn)
    assert (field < 1).tolist() == [False, True, False]


def test_a_ct_looks_like_ct():
    phantom = make_ct(0)
    image, label = phantom.image.array[..., 0], phantom.label.array
    mean = {n: image[label == v].mean() for n, v in phantom.classes.items()}
    assert image.dtype == np.int16
    assert image.min() == -1024
    assert mean["spine"] > mean["kidneys"] > mean["spleen"] > mean["liver"] > mean["lesion"]
    # air outside the body, and a lesion that noise hides voxel by voxel
    assert image[:, 0, 0].mean() < -900
    spread = image[label == phantom.classes["liver"]].std()
    assert 1 < (mean["liver"] - mean["lesion"]) / spread < 4


def test_a_brain_has_a_tumour_that_enhances_and_noise_that_is_rician():
    phantom = make_brain(0)
    image, label = phantom.image.array, phantom.label.array
    assert phantom.channels == ("T1", "T1c", "T2", "FLAIR")
    assert image.shape == (*label.shape, 4)
    tumour = image[label == phantom.classes["tumour"]].astype(float)
    assert np.percentile(tumour[:, 1], 95) > 1.5 * np.percentile(tumour[:, 0], 95)
    # In air a Rician magnitude is Rayleigh distributed: mean / std = sqrt(pi / (4 - pi)) = 1.913
    air = image[:, :4, :4, 0].astype(float)
    assert air.mean() / air.std() == pytest.approx(1.913, rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_of_two_like_discs_the_one_that_moves_is_the_object(seed):
    phantom = make_cine(seed)
    image, label = phantom.image.array[..., 0].astype(float), phantom.label.array > 0
    smooth = gaussian_filter(image, (0, 1.5, 1.5))
    bright = smooth > (smooth.max() + np.median(smooth)) / 2
    other = bright & ~binary_dilation(label, iterations=3)
    paths = [[center_of_mass(frame) for frame in mask] for mask in (label, other)]
    moved, stayed = (np.ptp(path, axis=0).max() for path in paths)
    assert moved > 4
    assert stayed < 2
    assert image[label].mean() == pytest.approx(image[other].mean(), rel=0.15)


def test_no_frame_of_a_cine_tells_the_object_from_the_other_disc():
    # Over 300 series, what might give it away in the middle frame is even: which of the two discs
    # lies above, to the left, nearer to the centre, or is larger. 3.3 deviations of 300 tosses.
    higher, left, inner, larger = [], [], [], []
    for seed in range(300):
        phantom = make_cine(seed, shape=(6, 48, 48))
        frame, object_ = phantom.image.array[3, ..., 0].astype(float), phantom.label.array[3] > 0
        smooth = gaussian_filter(frame, 1.5)
        bright = smooth > (smooth.max() + np.median(smooth)) / 2
        near = binary_dilation(object_, iterations=3)
        discs = [bright & near, bright & ~near]
        (row, column), (other_row, other_column) = map(center_of_mass, discs)
        higher.append(row < other_row)
        left.append(column < other_column)
        inner.append(
            np.hypot(row - 23.5, column - 23.5) < np.hypot(other_row - 23.5, other_column - 23.5)
        )
        larger.append(discs[0].sum() > discs[1].sum())
    shares = [np.mean(of) for of in (higher, left, inner, larger)]
    assert np.abs(np.array(shares) - 0.5).max() < 3.3 * 0.5 / 300**0.5, shares


def test_the_volume_is_centred_and_runs_up_back_and_left():
    phantom = make_ct(0, shape=(5, 7, 9), spacing_mm=(4, 3, 2))
    assert phantom.image.orientation == "SPL"
    assert phantom.image.spacing_mm == (4, 3, 2)
    np.testing.assert_allclose(phantom.image.affine @ [2, 3, 4, 1], [0, 0, 0, 1], atol=1e-12)


@pytest.mark.parametrize(("form", "layout"), [("nifti", "nnunet"), ("dicom", "dicom")])
@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_written_reads_back_voxel_by_voxel(tmp_path, kind, form, layout):
    phantoms = {f"case {n}": MAKERS[kind](n, **SMALL) for n in range(2)}
    for name, phantom in phantoms.items():
        write_phantom(phantom, tmp_path / "raw", name, form=form)
    dataset = scan_source(layout, str(tmp_path / "raw"))
    assert dataset.channels == phantoms["case 0"].channels
    assert dataset.classes == phantoms["case 0"].classes
    assert len(dataset.cases) == 2
    for case in dataset.cases:
        name = next(n for n in phantoms if f"{n}/" in case.images[0] or case.id == n)
        image, label = dataset.read(case)
        np.testing.assert_array_equal(image.array, phantoms[name].image.array)
        np.testing.assert_array_equal(label.array, phantoms[name].label.array)
        np.testing.assert_allclose(image.affine, phantoms[name].image.affine, atol=1e-4)


def test_an_unknown_form_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="one of nifti, dicom, got 'nrrd'"):
        write_phantom(make_ct(0, **SMALL), tmp_path, "a", form="nrrd")


@pytest.mark.parametrize(
    ("source", "count", "held"), [("ct", 30, 5), ("ct:40", 40, 7), ("cine:12", 12, 2)]
)
def test_the_phantom_layout_holds_back_the_last_sixth(source, count, held):
    dataset = scan_source("phantom", source)
    assert len(dataset.cases) == count
    assert [c.held_back for c in dataset.cases] == [False] * (count - held) + [True] * held


def test_the_phantom_layout_generates_what_the_maker_makes():
    dataset = scan_source("phantom", "brain:3")
    image, label = dataset.read(dataset.cases[2])
    phantom = make_brain(2)
    np.testing.assert_array_equal(image.array, phantom.image.array)
    np.testing.assert_array_equal(label.array, phantom.label.array)
    assert dataset.classes == phantom.classes
    assert dataset.channels == phantom.channels
    digests = {dataset.digest(case) for case in dataset.cases}
    assert len(digests) == 3
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize("source", ["ct:0", "ct:-3", "ct:many", "ct:3:4"])
def test_a_bad_count_of_phantoms_is_refused(source):
    with pytest.raises(DataError, match="a phantom source is like ct:40"):
        scan_source("phantom", source)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'brain'"):
        scan_source("phantom", "brian:4")
