import itertools

import numpy as np
import pytest

from segkit.errors import ShapeError
from segkit.volume import Volume
from segkit.volume import same_grid

ORIENTATIONS = [
    "".join(sign)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for sign in itertools.product(*order)
]


def tilted_volume():
    """A 3x4x5 volume, 3x2x1 mm, turned by 20 degrees about the left-right axis."""
    angle = np.deg2rad(20)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, 2.0, 3.0])[:, ::-1]
    affine[:3, 3] = (-10, 20, 30)
    return Volume(np.arange(60).reshape(3, 4, 5), affine)


def test_spacing_belongs_to_the_array_axes():
    np.testing.assert_allclose(tilted_volume().spacing_mm, (3.0, 2.0, 1.0))


def test_default_affine_is_the_canonical_orientation():
    assert Volume(np.zeros((1, 4, 4))).orientation == "SAR"


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_reorienting_moves_no_voxel_in_the_world(codes):
    volume = tilted_volume()
    turned = volume.oriented(codes)
    assert turned.orientation == codes
    for index in np.ndindex(*turned.shape):
        world = turned.affine @ (*index, 1)
        source = np.linalg.inv(volume.affine) @ world
        source = tuple(np.round(source[:3]).astype(int))
        assert volume.array[source] == turned.array[index]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_reorienting_there_and_back_is_the_identity(codes):
    volume = tilted_volume()
    back = volume.oriented(codes).oriented(volume.orientation)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)


def test_channels_stay_last_when_axes_move():
    volume = Volume(np.zeros((2, 3, 4, 5)))
    assert volume.oriented("RAS").array.shape == (4, 3, 2, 5)
    assert volume.num_channels == 5


def test_orientation_of_a_45_degree_affine_uses_each_pair_once():
    affine = np.eye(4)
    affine[:3, :3] = [[1, 1, 0], [1, -1, 0], [0, 0, 1]]
    assert sorted(Volume(np.zeros((2, 2, 2)), affine).orientation) in (
        ["A", "L", "S"],
        ["P", "R", "S"],
        ["A", "R", "S"],
    )


@pytest.mark.parametrize("codes", ["RAR", "RA", "XYZ", ""])
def test_a_wrong_orientation_is_refused(codes):
    with pytest.raises(ShapeError, match="one of R/L, A/P and S/I"):
        tilted_volume().oriented(codes)


@pytest.mark.parametrize("shape", [(4, 4), (1, 2, 3, 4, 5)])
def test_an_array_without_three_spatial_axes_is_refused(shape):
    with pytest.raises(ShapeError, match="Add an axis of length 1"):
        Volume(np.zeros(shape))


@pytest.mark.parametrize("affine", [np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_unusable_affine_is_refused(affine):
    with pytest.raises(ShapeError, match="4x4 affine"):
        Volume(np.zeros((2, 2, 2)), affine)


def test_same_grid_measures_the_farthest_corner_in_mm():
    volume = tilted_volume()
    moved = volume.affine.copy()
    moved[0, 3] += 0.02
    other = Volume(volume.array, moved)
    assert same_grid(volume, other, tolerance_mm=0.03)
    assert not same_grid(volume, other, tolerance_mm=0.01)
    assert not same_grid(volume, Volume(np.zeros((3, 4, 6)), volume.affine))
