"""Whole images through generators whose function is known."""

import itertools

import numpy as np
import pytest
from keras import layers
from keras import models

from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import ShapeError
from segkit.inference.intensities import scale_of
from segkit.inference.prepare import normalise
from segkit.inference.restorer import Restorer
from segkit.volume import Volume

PATCH = (4, 6, 6)
CT = {"scheme": "ct", "clip": [-100.0, 300.0], "mean": 50.0, "std": 80.0}
ZSCORE = {"scheme": "zscore", "masked": False}
MASKED = {"scheme": "zscore", "masked": True}
RESCALE = {"scheme": "rescale", "low": 0, "high": 255}


def plan(*schemes, spacing_mm=None, crop=False):
    return {
        "orientation": "SAR",
        "spacing_mm": spacing_mm,
        "crop_to_nonzero": crop,
        "normalization": list(schemes or [ZSCORE]),
    }


def line(factor, offset, sides=PATCH, channels=1, mask=False):
    """A generator that makes `factor * image + offset` (+ 0 times the mask)."""
    image = layers.Input((*sides, channels), name="image")
    made, inputs = layers.Rescaling(factor, offset)(image), {"image": image}
    if mask:
        inputs["mask"] = layers.Input((*sides, 1), name="mask")
        made = made + 0.0 * inputs["mask"]
    return models.Model(inputs, made)


def phantom(dtype=np.float32, shape=(7, 9, 10)):
    rng = np.random.default_rng(0)
    return Volume((100 + 40 * rng.normal(size=shape)).astype(dtype))


def codes():
    for order in itertools.permutations(("SI", "AP", "RL")):
        yield from ("".join(letters) for letters in itertools.product(*order))


@pytest.mark.parametrize("scheme", [ZSCORE, CT, RESCALE], ids=["zscore", "ct", "rescale"])
def test_a_linear_translator_is_recovered_in_units_of_the_source(scheme):
    volume = phantom()
    offset, factor = {
        "zscore": (volume.array.mean(), volume.array.std()),
        "ct": (50, 80),
        "rescale": (0, 255),
    }[scheme["scheme"]]
    found = Restorer(line(2.0, 0.5), plan(scheme), PATCH).restore(volume)
    clipped = np.clip(volume.array, -100, 300) if scheme is CT else volume.array
    expected = offset + factor * (2 * (clipped - offset) / factor + 0.5)
    np.testing.assert_allclose(found.array, expected, rtol=1e-4, atol=1e-3)
    assert found.array.dtype == np.float32


@pytest.mark.parametrize("patch", [(4, 5, 6), (5, 6)])
def test_every_orientation_comes_back_onto_its_own_grid(patch):
    model, canonical = line(2.0, 0.5, patch), phantom(shape=(4, 5, 6))
    restorer = Restorer(model, plan(), patch)
    expected = restorer.restore(canonical)
    orientations = list(codes())
    assert len(orientations) == 48
    for code in orientations:
        volume = canonical.oriented(code)
        found = restorer.restore(volume)
        np.testing.assert_allclose(found.affine, volume.affine)
        np.testing.assert_allclose(found.array, expected.oriented(code).array, rtol=1e-5)


def test_tiles_are_blended_without_seams():
    # What a tile makes depends on where in it a voxel lies: a seam would show as a step.
    sides = (6, 6)
    ramp = np.linspace(-1, 1, 36).reshape(1, 6, 6, 1).astype(np.float32)
    image = layers.Input((*sides, 1), name="image")
    model = models.Model({"image": image}, image * 0.0 + ramp)
    volume = phantom(shape=(1, 6, 60))
    rough = Restorer(model, plan(RESCALE), sides, overlap=0.0).restore(volume).array
    smooth = Restorer(model, plan(RESCALE), sides, overlap=0.8).restore(volume).array
    assert np.abs(np.diff(smooth[0], axis=1)).max() < 0.5 * np.abs(np.diff(rough[0], axis=1)).max()


def test_mirroring_averages_over_flips():
    # The generator adds a ramp along the width: its flips cancel.
    ramp = np.linspace(-1, 1, 6).reshape(1, 1, 1, 6, 1).astype(np.float32)
    image = layers.Input((*PATCH, 1), name="image")
    model, volume = models.Model({"image": image}, image + ramp), phantom()
    plain = Restorer(model, plan(RESCALE), PATCH).restore(volume).array
    found = Restorer(model, plan(RESCALE), PATCH, mirror=True).restore(volume).array
    assert np.abs(plain - volume.array).max() > 1
    np.testing.assert_allclose(found, volume.array, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
@pytest.mark.parametrize("code", ["SAR", "LPI", "RIA"])
def test_voxels_outside_the_mask_do_not_change_in_a_single_bit(dtype, code):
    volume = phantom(dtype).oriented(code)
    if dtype == np.float64:
        volume = Volume(volume.array + 1e-13, volume.affine)  # lost in float32
    mask = np.random.default_rng(1).random(volume.shape) < 0.3
    restorer = Restorer(line(0.0, 0.25, mask=True), plan(crop=True), PATCH)
    found = restorer.restore(volume, mask)
    assert found.array.dtype == dtype
    np.testing.assert_array_equal(found.array[~mask], volume.array[~mask])
    known = volume.array[~mask].astype(float)
    filled = known.mean() + 0.25 * known.std()
    filled = np.rint(filled) if np.dtype(dtype).kind in "iu" else filled
    np.testing.assert_allclose(found.array[mask], filled, rtol=1e-4)


def test_what_lies_in_a_hole_is_never_looked_at():
    volume, mask = phantom(), np.zeros((7, 9, 10), bool)
    mask[2:4, 3:7, 2:8] = True
    restorer = Restorer(line(1.0, 0.3, mask=True), plan(spacing_mm=[0.8, 1.1, 1.0]), PATCH)
    found = restorer.restore(volume, mask).array
    other = volume.array.copy()
    other[mask] = 1e6
    np.testing.assert_array_equal(restorer.restore(Volume(other), mask).array[mask], found[mask])


def test_a_hole_in_the_background_is_filled_though_the_image_is_cropped():
    array = np.zeros((8, 12, 12), np.float32)
    array[2:6, 3:9, 3:9] = phantom(shape=(4, 6, 6)).array
    mask = np.zeros(array.shape, bool)
    mask[0, 0, 0] = True
    restorer = Restorer(line(0.0, 2.0, mask=True), plan(MASKED, crop=True), PATCH)
    found = restorer.restore(Volume(array), mask).array
    known = array[array != 0]
    assert found[0, 0, 0] == pytest.approx(known.mean() + 2 * known.std(), rel=1e-4)
    np.testing.assert_array_equal(found[~mask], array[~mask])


def test_outside_of_a_masked_normalization_stays_0():
    array = np.zeros((8, 12, 12), np.float32)
    array[2:6, 3:9, 3:9] = 50 + phantom(shape=(4, 6, 6)).array
    for crop in (False, True):
        found = (
            Restorer(line(1.0, 1.0), plan(MASKED, crop=crop), PATCH).restore(Volume(array)).array
        )
        np.testing.assert_array_equal(found[array == 0], 0)
        known = array[array != 0]
        np.testing.assert_allclose(found[array != 0], known + known.std(), rtol=1e-4)


def test_a_resampled_image_comes_back_onto_its_grid_and_that_is_said():
    rows = np.linspace(0, 100, 9, dtype=np.float32).reshape(1, -1, 1)
    volume = Volume(np.broadcast_to(rows, (7, 9, 10)).copy(), np.diag([2.0, 1, 1, 1]))
    restorer = Restorer(line(1.0, 0.0), plan(RESCALE, spacing_mm=[1.0, 0.5, 1.0]), PATCH)
    found = restorer.restore(volume)
    assert found.shape == volume.shape
    # Interpolated there and back, a ramp stays one but for the clamped edges.
    np.testing.assert_allclose(found.array[:, 1:-1], volume.array[:, 1:-1], atol=1e-3)
    assert any("finer detail in them is lost" in note for note in found.notes)
    assert "finer detail" not in str(Restorer(line(1.0, 0.0), plan(), PATCH).restore(volume).notes)


def test_what_was_cut_off_is_counted():
    volume = Volume(np.array([[[-500.0, 0, 400, 100]]], np.float32))
    restorer = Restorer(line(1.0, 0.0, (1, 4)), plan(CT), (1, 4))
    found = restorer.restore(volume)
    np.testing.assert_allclose(found.array, [[[-100, 0, 300, 100]]], atol=1e-3)
    assert any(n.startswith("2 voxels lie beyond") for n in found.notes)


def test_integers_are_rounded_and_kept_within_their_limits():
    volume = Volume(np.array([[[0, 10, 100, 250]]], np.uint8))
    found = Restorer(line(1.0, 0.09, (1, 4)), plan(RESCALE), (1, 4)).restore(volume)
    np.testing.assert_array_equal(found.array, [[[23, 33, 123, 255]]])
    assert found.array.dtype == np.uint8
    assert "1 of them cut off" in found.notes[-1]


def test_a_translator_gives_the_units_of_the_look():
    volume = phantom()
    look = [{**CT, "mean": -20.0, "std": 10.0}]
    found = Restorer(line(1.0, 0.0), plan(), PATCH, look=look).restore(volume).array
    normalised = (volume.array - volume.array.mean()) / volume.array.std()
    np.testing.assert_allclose(found, -20 + 10 * normalised, rtol=1e-4, atol=1e-3)
    own = Restorer(line(1.0, 0.0), plan(), PATCH, look=[ZSCORE]).restore(volume)
    np.testing.assert_allclose(own.array, volume.array, rtol=1e-5, atol=1e-4)
    assert "its own units are not known" in own.notes[0]


def test_channels_keep_their_own_scales():
    array = np.stack([phantom().array, 10 * phantom().array], axis=-1)
    restorer = Restorer(line(1.0, 1.0, channels=2), plan(ZSCORE, ZSCORE), PATCH)
    found = restorer.restore(Volume(array)).array
    np.testing.assert_allclose(found, array + array.std(axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("scheme", [ZSCORE, MASKED, CT, RESCALE])
def test_the_scale_is_that_of_the_predictor(scheme):
    channel = phantom().array.copy()
    channel[:2] = 0
    scale = scale_of(channel, np.ones(channel.shape, bool), scheme)
    np.testing.assert_allclose(scale.normalise(channel), normalise(channel, scheme), atol=1e-5)


def test_tiles_are_counted():
    done = []
    restorer = Restorer(line(1.0, 0.0), plan(), PATCH)
    restorer.restore(phantom(), on_tile=lambda n, total: done.append((n, total)))
    assert done[-1][0] == done[-1][1] == len(done)


def test_what_does_not_fit_is_refused():
    volume, everywhere = phantom(), np.ones((7, 9, 10), bool)
    fills, plain = (Restorer(line(1.0, 0.0, mask=m), plan(), PATCH) for m in (True, False))
    with pytest.raises(ConfigError, match="fills holes and needs mask"):
        fills.restore(volume)
    with pytest.raises(ConfigError, match="takes no mask"):
        plain.restore(volume, everywhere)
    with pytest.raises(DataError, match="nothing is known"):
        fills.restore(volume, everywhere)
    with pytest.raises(DataError, match="no hole to fill"):
        fills.restore(volume, ~everywhere)
    with pytest.raises(ShapeError, match="the mask must have the shape"):
        fills.restore(volume, everywhere[1:])
    with pytest.raises(ShapeError, match="takes 1 channel"):
        plain.restore(Volume(np.zeros((7, 9, 10, 2), np.float32)))
    with pytest.raises(DataError, match="0 everywhere"):
        plain.restore(Volume(np.zeros((7, 9, 10), np.float32)))
    with pytest.raises(DataError, match="NaN"):
        plain.restore(Volume(np.full((7, 9, 10), np.nan, np.float32)))
    with pytest.raises(ConfigError, match="overlap"):
        Restorer(line(1.0, 0.0), plan(), PATCH, overlap=1.0)
    with pytest.raises(ShapeError, match="do not fit"):
        Restorer(line(1.0, 0.0), plan(), (4, 4, 4))
    with pytest.raises(ConfigError, match="first stage"):
        Restorer(line(1.0, 0.0), plan({"scheme": "prior"}), PATCH).restore(volume)
    noise = layers.Input((4,), name="noise")
    made = layers.Reshape((*PATCH, 1))(layers.Dense(144)(noise))
    with pytest.raises(ConfigError, match="makes images from noise, not from images"):
        Restorer(models.Model({"noise": noise}, made), plan(), PATCH)
