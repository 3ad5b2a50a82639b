"""Geometric transforms against matrices and displacements worked out by hand, and their limits."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from data_prep.augment import geometry
from data_prep.augment.apply import Keys
from data_prep.augment.apply import augment_batch
from data_prep.augment.apply import reach
from data_prep.augment.elastic import elastic
from data_prep.augment.geometry import Motion
from data_prep.augment.grid import coordinates
from data_prep.augment.policy import parse_policy
from data_prep.augment.random import Draws
from data_prep.augment.random import make_keys
from data_prep.augment.space import make_space
from data_prep.augment.spatial import place
from segkit.errors import ConfigError

EVERY = ("quarter_turns", "rotation", "scaling", "multi_scale", "translation", "shear", "elastic")
ISOTROPIC = (1.0, 1.0, 1.0)


def make_inputs(batch=4, patch=(12, 12, 12), spacing=ISOTROPIC, seed=7):
    index = tf.range(batch, dtype=tf.int64)
    batch_keys = tf.tile(make_keys(seed, tf.constant([-1], tf.int64)), [batch, 1])
    draws = Draws(make_keys(seed, index), 0, 32, scope="t", batch_keys=batch_keys)
    return draws, make_space(patch, tf.constant([spacing] * batch), 1, 2)


def draw(name, batch=4, patch=(12, 12, 12), spacing=ISOTROPIC, **options):
    """A transform's `Motion`, and its draws by name."""
    draws, space = make_inputs(batch, patch, spacing)
    change = elastic if name == "elastic" else getattr(geometry, name)
    motion = change(draws, space, **options)
    return motion, {key.removeprefix("t."): value.numpy() for key, value in draws.log.items()}


def displacements(name, patch, spacing=ISOTROPIC, batch=64, **options):
    """How far in mm each voxel is read from its place, read off images of their coordinates.

    Returns `(displacement (batch, *patch, 3), draws)`; all of what is read lies in the image.
    """
    sides = tuple(1 if p == 1 else 3 * p for p in patch)
    image = np.moveaxis(np.indices(sides, np.float32), 0, -1)
    log, keys = {}, make_keys(7, tf.range(batch, dtype=tf.int64))
    found, _ = augment_batch(
        tf.tile(image[None], [batch, 1, 1, 1, 1]),
        tf.zeros((batch, *sides), tf.int32),
        Keys(keys, tf.tile(keys[:1], [batch, 1])),
        parse_policy([{name: options}]),
        patch=patch,
        spacing_mm=tf.constant([spacing] * batch),
        num_classes=2,
        log=log,
    )
    start = [(s - p) // 2 for s, p in zip(sides, patch, strict=True)]
    own = np.moveaxis(np.indices(patch), 0, -1) + start
    draws = {key.removeprefix(f"{name}."): value.numpy() for key, value in log.items()}
    return (found.numpy() - own) * np.array(spacing), draws


def distance_from_middle(patch, spacing=ISOTROPIC, axes=(0, 1, 2)):
    """Mean distance of the voxels in mm, along `axes` only."""
    place = np.moveaxis(np.indices(patch), 0, -1) - (np.array(patch) - 1) / 2
    return np.linalg.norm((place * spacing)[..., axes], axis=-1).mean()


def mean_way(displacement):
    return np.linalg.norm(displacement, axis=-1).mean(axis=(1, 2, 3))


def about_axis(axis, degrees):
    """Right-handed rotation about one axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(3)
    one, two = (axis + 1) % 3, (axis + 2) % 3
    matrix[one, one], matrix[one, two], matrix[two, one], matrix[two, two] = c, -s, s, c
    return matrix


@pytest.mark.parametrize(
    ("patch", "spacing", "thin"),
    [
        ((8, 8, 8), (1, 1, 1), (False, False, False)),
        ((1, 8, 9), (1, 1, 1), (True, False, False)),
        ((1, 8, 9), (0.01, 1, 1), (True, False, False)),  # a slice's depth counts for nothing
        ((1, 8, 9), (9, 1, 1), (True, False, False)),
        ((2, 8, 8), (1, 1, 1), (True, False, False)),
        ((8, 2, 8), (1, 1, 1), (False, False, False)),  # nnU-Net looks at the depth alone
        ((20, 40, 64), (1, 1, 1), (True, False, False)),
        ((40, 200, 60), (1, 1, 1), (True, False, False)),
        ((3, 9, 9), (1, 1, 1), (False, False, False)),
        ((8, 8, 8), (3, 1, 1), (False, False, False)),
        ((8, 8, 8), (3.1, 1, 1), (True, False, False)),
        ((8, 8, 8), (0.5, 2, 2), (False, True, True)),
        ((1, 8, 8), (1, 0.3, 1), (True, False, True)),
    ],
)
def test_thin_axes_are_those_with_few_or_long_voxels(patch, spacing, thin):
    space = make_space(patch, tf.constant([spacing, ISOTROPIC]), 1, 2)
    assert tuple(space.thin[0].numpy()) == thin
    assert space.thin.shape == (2, 3)
    assert space.spacing_mm.dtype == tf.float32


def test_rotations_are_the_product_of_those_about_the_three_axes():
    motion, draws = draw("rotation", 16, degrees=40.0)
    assert np.abs(draws["degrees"]).max() > 30
    for found, angles in zip(motion.matrix, draws["degrees"], strict=True):
        expected = np.linalg.multi_dot([about_axis(n, angle) for n, angle in enumerate(angles)])
        np.testing.assert_allclose(found, expected, atol=1e-6)
    turn = geometry.rotation_matrix(tf.constant([[0.0, 1, 1]]), tf.constant([[1.0, 0, 0]]))
    np.testing.assert_array_equal(turn[0] @ [[0.0], [1.0], [0.0]], [[0.0], [0.0], [1.0]])


def test_a_rotation_is_one_in_millimetres():
    spacing = np.array([2.0, 1.0, 0.8])
    steps = parse_policy([{"rotation": {"degrees": 30.0}}])
    draws, space = make_inputs(10, spacing=spacing)
    matrix = place(steps, [draws], space).matrix.numpy()
    turn = matrix * spacing[:, None] / spacing
    np.testing.assert_allclose(
        turn @ turn.transpose(0, 2, 1), np.tile(np.eye(3), (10, 1, 1)), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-5)
    assert np.abs(matrix - turn).max() > 0.1


def test_scaling_multi_scale_translation_and_shear_by_hand():
    spacing = (2.0, 1.0, 1.5)
    motion, draws = draw("scaling", spacing=spacing, field_of_view=[0.7, 1.4])
    for matrix, factor in zip(motion.matrix, draws["field_of_view"], strict=True):
        np.testing.assert_array_equal(matrix, factor * np.eye(3))
    motion, draws = draw("scaling", field_of_view=[0.7, 1.4], per_axis=True)
    for matrix, factors in zip(motion.matrix, draws["field_of_view"], strict=True):
        np.testing.assert_array_equal(matrix, np.diag(factors))
        assert len(set(factors)) == 3
    motion, draws = draw("translation", patch=(10, 20, 30), spacing=spacing, shift=0.2)
    expected = draws["shift"] * [20, 20, 45]
    np.testing.assert_allclose(motion.shift, expected, rtol=1e-6)
    assert np.abs(draws["shift"]).max() <= 0.2
    motion, draws = draw("shear", degrees=10.0)
    for matrix, angles in zip(motion.matrix, draws["degrees"], strict=True):
        expected = np.where(np.eye(3), 1, np.tan(np.deg2rad(angles)))
        np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_multi_scale_is_one_scale_per_batch_each_as_often():
    scales = [0.5, 1.0, 2.0]
    same = draw("multi_scale", 8, scales=scales)[0].matrix.numpy()
    assert (same == same[0]).all()
    space = make_inputs(3000)[1]
    batches = Draws(make_keys(0, tf.range(3000)), 0, 32, batch_keys=make_keys(1, tf.range(3000)))
    factors = geometry.multi_scale(batches, space, scales=scales).matrix.numpy()[:, 0, 0]
    for scale in scales:  # 1000 of 3000, standard deviation sqrt(3000 * 1/3 * 2/3) = 26
        assert abs(np.sum(factors == scale) - 1000) < 104


def test_quarter_turns_are_exact_and_reach_each_of_the_24_orientations():
    matrices = draw("quarter_turns", 400)[0].matrix.numpy()
    assert set(np.unique(matrices)) == {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(np.linalg.det(matrices).round(6), 1)
    assert len(np.unique(matrices.reshape(-1, 9), axis=0)) == 24


@pytest.mark.parametrize("side", [6, 7])
def test_quarter_turns_of_a_cube_are_those_of_numpy(side):
    rng, batch, log = np.random.default_rng(0), 16, {}
    image = rng.normal(size=(batch, side, side, side, 2)).astype(np.float32)
    label = rng.integers(0, 9, (batch, side, side, side))
    keys = make_keys(7, tf.range(batch))
    found = augment_batch(
        tf.constant(image),
        tf.constant(label),
        Keys(keys, keys),
        parse_policy([{"quarter_turns": {}}]),
        patch=(side,) * 3,
        spacing_mm=tf.fill((batch, 3), 0.7),
        num_classes=9,
        log=log,
    )
    for n, turns in enumerate(log["quarter_turns.turns"].numpy()):
        for x, y in zip(found, (image, label), strict=True):
            turned = y[n]
            for axis, turn in enumerate(turns):
                turned = np.rot90(turned, -turn, axes=((axis + 1) % 3, (axis + 2) % 3))
            np.testing.assert_array_equal(x[n], turned)


@pytest.mark.parametrize(
    ("patch", "spacing"), [((8, 8, 8), (1.1, 1.0, 1.0)), ((7, 8, 10), (1.0, 1.0, 1.005))]
)
def test_quarter_turns_leave_planes_alone_in_which_they_would_cut_voxels(patch, spacing):
    motion, log = draw("quarter_turns", 64, patch, spacing)
    assert set(log["turns"][:, 0]) == {0, 1, 2, 3}
    assert not log["turns"][:, 1:].any()
    voxels = motion.matrix.numpy() * np.float32(spacing)[None] / np.float32(spacing)[:, None]
    np.testing.assert_allclose(voxels, voxels.round(), atol=1e-6)


def test_motions_are_composed_so_that_the_second_changes_the_result_of_the_first():
    rng = np.random.default_rng(0)
    a, b = (
        Motion(*(tf.constant(rng.normal(size=(2, *s)), tf.float32) for s in ((3, 3), (3,))))
        for _ in range(2)
    )
    point = tf.constant(rng.normal(size=(2, 3)), tf.float32)

    def at(motion, p):
        return tf.linalg.matvec(motion.matrix, p) + motion.shift

    np.testing.assert_allclose(at(geometry.compose(a, b), point), at(a, at(b, point)), atol=1e-5)
    left, right = tf.ones((2, 4, 4, 4, 3)), tf.fill((2, 4, 4, 4, 3), 2.0)
    both = geometry.compose(a._replace(displacement=left), b._replace(displacement=right))
    np.testing.assert_array_equal(both.displacement, left + right)
    alone = geometry.compose(a, b._replace(displacement=right)).displacement
    np.testing.assert_array_equal(alone, right)


def test_the_mean_way_of_rotated_voxels_is_that_of_the_angle():
    # A point at radius r moves by the chord 2 r sin(angle / 2).
    for patch, spacing in (((1, 15, 15), ISOTROPIC), ((9, 15, 15), (4.0, 1.0, 1.0))):
        moved, draws = displacements("rotation", patch, spacing, degrees=50.0)
        angle = np.deg2rad(draws["degrees"][:, 0])
        expected = 2 * np.sin(np.abs(angle) / 2) * distance_from_middle(patch, axes=(1, 2))
        np.testing.assert_allclose(mean_way(moved), expected, atol=1e-4)
        assert expected.max() > 4


def test_the_mean_way_of_scaled_translated_and_sheared_voxels_is_that_of_the_parameter():
    patch, spacing = (6, 8, 10), (2.0, 1.0, 1.5)
    moved, draws = displacements("scaling", patch, spacing, field_of_view=[0.7, 1.4])
    expected = np.abs(draws["field_of_view"][:, 0] - 1) * distance_from_middle(patch, spacing)
    np.testing.assert_allclose(mean_way(moved), expected, atol=1e-4)
    moved, draws = displacements("multi_scale", patch, spacing, scales=[1.25])
    np.testing.assert_allclose(
        mean_way(moved), 0.25 * distance_from_middle(patch, spacing), atol=1e-4
    )
    moved, draws = displacements("translation", patch, spacing, shift=0.3)
    expected = np.broadcast_to((draws["shift"] * [12, 8, 15])[:, None, None, None], moved.shape)
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    moved, draws = displacements("shear", (1, 9, 11), degrees=30.0)
    x = np.abs(np.arange(11) - 5).mean()  # along depth there is nothing to shear
    expected = np.abs(np.tan(np.deg2rad(draws["degrees"][:, 1, 2]))) * x
    np.testing.assert_allclose(np.abs(moved[..., 1]).mean(axis=(1, 2, 3)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("patch", "spacing", "shortest_mm"),
    [
        ((12, 12, 12), ISOTROPIC, 12),
        ((8, 10, 12), (2.5, 1.0, 2.0), 10),
        ((1, 16, 20), ISOTROPIC, 16),
        ((6, 12, 14), (4.0, 1.5, 1.0), 14),  # depth is thin
    ],
)
def test_elastic_moves_as_far_along_each_axis_in_mm_as_asked(patch, spacing, shortest_mm):
    moved, _ = displacements("elastic", patch, spacing, 256, displacement=[0.04, 0.04])
    thin = (patch[0] == 1) or spacing[0] > 3
    for axis in range(thin, 3):
        assert np.sqrt(np.mean(moved[..., axis] ** 2)) == pytest.approx(
            0.04 * shortest_mm, rel=0.03
        )
        assert abs(np.mean(moved[..., axis])) < 0.1 * 0.04 * shortest_mm
    if thin:
        np.testing.assert_allclose(moved[..., 0], 0, atol=1e-4)
        np.testing.assert_allclose(moved[:, 1:], moved[:, :1].repeat(patch[0] - 1, 1), atol=1e-4)


def test_each_elastic_field_is_as_strong_as_its_own_draw_says():
    moved, draws = displacements("elastic", (12, 12, 12), batch=256, displacement=[0.01, 0.05])
    strength = draws["displacement"]
    assert strength.min() < 0.011
    assert strength.max() > 0.049
    found = np.sqrt(np.mean(moved**2, axis=(1, 2, 3, 4))) / 12
    # 3 * 7**3 control points, those outside count little: about 10 % from field to field
    assert np.std(found / strength) < 0.15
    assert np.mean(found / strength) == pytest.approx(1, rel=0.02)


def jacobians(displacement, batch=128, patch=(25, 25, 25)):
    """Determinant of the derivative of where each voxel is read."""
    motion = draw("elastic", batch, patch, displacement=[displacement] * 2)[0]
    points = coordinates(motion.matrix, motion.shift, patch, motion.displacement).numpy()
    slopes = np.stack(np.gradient(points, axis=(2, 3, 4)), axis=-1)
    return np.linalg.det(np.moveaxis(slopes, 1, -2))


def test_elastic_never_folds_at_its_default_maximum():
    assert jacobians(0.03).min() > 0.05
    assert jacobians(0.1, batch=16).min() < 0  # the measure does see folds


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("patch", "spacing"),
    [((1, 12, 12), ISOTROPIC), ((3, 12, 12), ISOTROPIC), ((12, 12, 12), (3.1, 1.0, 1.0))],
)
def test_nothing_moves_across_a_thin_axis_and_all_of_its_layers_alike(name, patch, spacing):
    motion, _ = draw(name, 8, patch, spacing)
    for matrix in motion.matrix.numpy():
        np.testing.assert_array_equal(matrix[0], [1, 0, 0])
        np.testing.assert_array_equal(matrix[:, 0], [1, 0, 0])
    assert not motion.shift.numpy()[:, 0].any()
    if motion.displacement is not None:
        field = motion.displacement.numpy()
        assert not field[..., 0].any()
        np.testing.assert_array_equal(field, np.broadcast_to(field[:, :1], field.shape))
    moved = [np.ptp(np.reshape(x, (8, -1)), axis=0).max() for x in motion if x is not None]
    assert max(moved) > 0 or name == "multi_scale"  # the plane does move


def test_only_planes_of_two_axes_that_are_not_thin_turn_or_shear():
    for name in ("rotation", "quarter_turns", "shear"):
        matrix = draw(name, 8, (12, 12, 12), (1.0, 1.0, 4.0))[0].matrix.numpy()
        still = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 1]], bool)
        np.testing.assert_array_equal(matrix[:, still], np.tile(np.eye(3)[still], (8, 1)))
        assert np.abs(matrix[:, 0, 1]).max() > 0.05


@pytest.mark.parametrize(
    ("patch", "limit"),
    [
        ((12, 12, 12), 30),
        ((3, 12, 12), 180),
        ((3, 12, 30), 180),
        ((1, 12, 12), 180),
        ((1, 12, 18), 180),
        ((1, 12, 19), 15),
        ((1, 19, 12), 15),
    ],
)
def test_the_largest_angle_is_that_of_the_kind_of_patch(patch, limit):
    angles = {"degrees": 30.0, "degrees_in_plane": 180.0, "degrees_elongated": 15.0}
    drawn = np.abs(draw("rotation", 500, patch, **angles)[1]["degrees"]).max(axis=0)
    axes = [True, patch[0] == 12, patch[0] == 12]
    np.testing.assert_allclose(drawn, np.where(axes, limit, 0), rtol=0.03)


@pytest.mark.parametrize("angles", [{"degrees": 40.0}, {"degrees": 9.0, "degrees_in_plane": 40.0}])
def test_an_angle_left_out_is_the_next_more_general_one(angles):
    drawn = np.abs(draw("rotation", 500, (1, 12, 30), **angles)[1]["degrees"])
    assert drawn.max() == pytest.approx(40, rel=0.03)


def test_an_example_to_which_a_step_does_not_apply_keeps_the_identity():
    motion = draw("elastic", 2)[0]._replace(matrix=tf.ones((2, 3, 3)), shift=tf.ones((2, 3)))
    chosen = geometry.select(tf.constant([True, False]), motion)
    for found, changed, still in zip(chosen, motion, geometry.identity(2), strict=True):
        np.testing.assert_array_equal(found[0], changed[0])
        np.testing.assert_array_equal(found[1], 0 * changed[1] if still is None else still[1])


def test_the_reach_of_a_policy_is_that_of_what_its_patches_read():
    def sides(patch, share=1.0, spacing=ISOTROPIC, **steps):
        steps = parse_policy([{name: options} for name, options in steps.items()])
        return reach(steps, patch, spacing, share=share)

    assert sides((12, 14, 16), flip={}, gamma={}) == (12, 14, 16)
    # half sides 5.5, 6.5, 7.5 times 1.5 are 2.75, 3.25, 3.75 more: up to whole voxels 3, 4, 4
    assert sides((12, 14, 16), scaling={"field_of_view": [1.5, 1.5]}) == (18, 22, 24)
    assert sides((3, 16, 16), scaling={"field_of_view": [1.5, 1.5]}) == (3, 24, 24)
    # the corner of a 17 x 17 slice: 8 * sqrt(2) = 11.3, 4 more than 8
    assert sides((17, 17), rotation={"degrees": 180.0}) == (25, 25)
    assert sides((20, 20), translation={"shift": 0.25}) == (30, 30)
    rare = {"probability": 0.005, "shift": 0.25}
    assert sides((20, 20), 0.99, translation=rare) == (20, 20)
    assert sides((20, 20), 1.0, translation=rare) == (30, 30)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flip", {"axes": [0.5, 0.5]}, "flip.axes needs 3 probabilities"),
        ("scaling", {"field_of_view": [0.0, 1.0]}, "scaling.field_of_view must be"),
        ("scaling", {"field_of_view": [1.2, 0.8]}, "scaling.field_of_view must be"),
        ("scaling", {"field_of_view": [1.2]}, "scaling.field_of_view must be"),
        ("multi_scale", {"scales": []}, "multi_scale.scales needs at least one"),
        ("multi_scale", {"scales": [1.0, 0.0]}, "multi_scale.scales must be"),
        ("shear", {"degrees": 45.0}, "shear.degrees must be"),
        ("shear", {"degrees": -1.0}, "shear.degrees must be"),
        ("elastic", {"control_points": 3}, "elastic.control_points must be"),
        ("elastic", {"displacement": [0.2, 0.1]}, "elastic.displacement must be"),
        ("elastic", {"displacement": [-0.1, 0.1]}, "elastic.displacement must be"),
        ("flip", {"axes": [0.5, 0.5, 1.1]}, "flip.axes must be between 0 and 1"),
        ("rotation", {"degrees": -1.0}, "rotation.degrees must be"),
        ("rotation", {"degrees_in_plane": 181.0}, "rotation.degrees must be"),
        ("translation", {"shift": 1.1}, "translation.shift must be"),
    ],
)
def test_options_without_meaning_are_refused_by_name(name, options, message):
    with pytest.raises(ConfigError, match=message):
        draw(name, **options)


def test_elastic_steps_of_different_control_points_are_refused():
    motions = [draw("elastic", control_points=n)[0] for n in (5, 6)]
    with pytest.raises(ConfigError, match="the same number of control points"):
        geometry.compose(*motions)
