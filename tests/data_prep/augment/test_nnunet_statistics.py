"""The `nnunet` policy against the numbers of nnU-Net's default augmentation, over 2,000 draws.

They are those of nnunetv2 2.8, `nnUNetTrainer.get_training_transforms` (Isensee et al., Nature
Methods 2021, doi:10.1038/s41592-020-01008-z). A share is right within 4 standard deviations, a
distribution where a Kolmogorov-Smirnov test does not refuse it at 1 in 10,000.
"""

import itertools
import os
from functools import lru_cache

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from data_prep.augment.apply import Keys
from data_prep.augment.apply import augment_batch
from data_prep.augment.policy import parse_policy
from data_prep.augment.policy import read_policy
from data_prep.augment.random import make_keys

COUNT, CHANNELS = 2000, 2
SHARES = {
    "rotation": 0.2,
    "scaling": 0.2,
    "gaussian_noise": 0.1,
    "blur": 0.2,
    "brightness": 0.15,
    "contrast": 0.15,
    "low_resolution": 0.25,
    "gamma": 0.1,  # inverted
    "gamma 2": 0.3,
}
# Half of the draws below 1 and half above, uniform on either side: its `BGContrast`.
AROUND_ONE = {
    "brightness.factor": (0.75, 1.25),
    "contrast.factor": (0.75, 1.25),
    "gamma.gamma": (0.7, 1.5),
    "gamma 2.gamma": (0.7, 1.5),
}
UNIFORM = {
    "scaling.field_of_view": (0.7, 1.4),
    "gaussian_noise.std": (0.0, 0.1),
    "blur.sigma": (0.5, 1.0),
    "low_resolution.scale": (0.5, 1.0),
}
ONE_PER = {  # what is drawn apart, per example
    "rotation.degrees": (3,),
    "scaling.field_of_view": (1,),
    "gaussian_noise.std": (1,),
    "blur.sigma": (CHANNELS, 3),
    "low_resolution.scale": (CHANNELS, 1),
    "flip.mirrored": (3,),
    **dict.fromkeys(AROUND_ONE, (CHANNELS,)),
}


@lru_cache
def run(patch=(8, 8, 8), only=None):
    """The policy, or its first step of one name always applied, on 2,000 patches.

    Returns `(images before, images after, draws by name)` as arrays.
    """
    entries = read_policy("nnunet")
    if only:
        entries = [{only: next(e[only] for e in entries if only in e) | {"probability": 1}}]
    image = np.random.default_rng(0).normal(size=(COUNT, *patch, CHANNELS)).astype(np.float32)
    keys, log = make_keys(2024, tf.range(COUNT, dtype=tf.int64)), {}
    after, _ = augment_batch(
        tf.constant(image),
        tf.zeros((COUNT, *patch), tf.int32),
        Keys(keys, keys),
        parse_policy(entries),
        patch=patch,
        spacing_mm=tf.ones((COUNT, 3)),
        num_classes=2,
        log=log,
    )
    return image, after.numpy(), {name: value.numpy() for name, value in log.items()}


def draws():
    return run()[2]


def assert_share(found, share):
    assert abs(np.mean(found) - share) < 4 * np.sqrt(share * (1 - share) / np.size(found))


def assert_uniform(values, low, high):
    assert values.min() >= low
    assert values.max() <= high
    assert stats.kstest(values.ravel(), stats.uniform(low, high - low).cdf).pvalue > 1e-4


def test_the_policy_holds_these_steps_in_nnunets_order():
    steps = parse_policy(read_policy("nnunet"))
    assert [step.label for step in steps] == [*SHARES, "flip"]
    assert [step.options["invert"] for step in steps if "invert" in step.options] == [True]


@pytest.mark.parametrize(("step", "share"), SHARES.items())
def test_each_step_applies_to_its_share_of_the_examples(step, share):
    assert_share(draws()[f"{step}.applied"], share)


def test_which_steps_apply_is_independent():
    applied = [draws()[f"{step}.applied"] for step in SHARES]
    for a, b in itertools.combinations(applied, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(COUNT)


def test_each_axis_is_mirrored_in_half_of_the_examples():
    mirrored = draws()["flip.mirrored"]
    assert draws()["flip.applied"].all()
    for axis in mirrored.T:
        assert_share(axis, 0.5)
    assert len(np.unique(mirrored, axis=0)) == 8


@pytest.mark.parametrize("step", ["blur", "low_resolution"])
def test_each_channel_is_blurred_or_coarsened_in_half_of_the_cases(step):
    for channel in draws()[f"{step}.channel"].T:
        assert_share(channel, 0.5)


@pytest.mark.parametrize(("name", "shape"), ONE_PER.items())
def test_as_many_numbers_are_drawn_as_nnunet_draws(name, shape):
    values = draws()[name]
    assert values.shape == (COUNT, *shape)
    if name != "flip.mirrored":
        assert len(np.unique(values)) > 0.999 * values.size


@pytest.mark.parametrize(("name", "limits"), UNIFORM.items())
def test_these_parameters_are_uniform(name, limits):
    assert_uniform(draws()[name], *limits)


@pytest.mark.parametrize(("name", "limits"), AROUND_ONE.items())
def test_these_parameters_are_below_one_in_half_of_the_draws_and_uniform_on_either_side(
    name, limits
):
    values, (low, high) = draws()[name], limits
    assert_share(values < 1, 0.5)
    assert_uniform(values[values < 1], low, 1)
    assert_uniform(values[values >= 1], 1, high)


@pytest.mark.parametrize(
    ("patch", "limit", "axes"),
    [
        ((8, 8, 8), 30, (0, 1, 2)),
        ((3, 9, 9), 30, (0, 1, 2)),  # three times shorter is not yet anisotropic
        ((2, 8, 8), 180, (0,)),
        ((8, 8), 180, (0,)),
        ((12, 8), 180, (0,)),  # 1.5 to 1 is not yet elongated
        ((13, 8), 15, (0,)),
        ((8, 13), 15, (0,)),
    ],
)
def test_angles_are_uniform_within_the_limits_for_the_patch(patch, limit, axes):
    degrees = run(patch, only="rotation")[2]["rotation.degrees"]
    for axis in range(3):
        if axis in axes:
            assert_uniform(degrees[:, axis], -limit, limit)
        else:
            assert not degrees[:, axis].any()


def alone(step=None):
    """Images before and after, flips undone, where only `step` applies, and which they are."""
    image, after, log = run()
    others = [log[f"{name}.applied"] for name in SHARES if name != step]
    chosen = ~np.any(others, axis=0) & (log[f"{step}.applied"] if step else True)
    index = np.flatnonzero(chosen)
    undone = [np.flip(after[n], np.flatnonzero(log["flip.mirrored"][n])) for n in index]
    return image[index], np.array(undone), index


def test_where_no_step_applies_the_image_is_the_same_voxel_for_voxel():
    before, after, index = alone()
    assert_share(np.isin(np.arange(COUNT), index), np.prod([1 - p for p in SHARES.values()]))
    np.testing.assert_array_equal(after, before)


def test_the_noise_of_the_images_has_the_deviation_that_was_drawn():
    before, after, index = alone("gaussian_noise")
    drawn, noise = draws()["gaussian_noise.std"][index, 0], after - before
    assert len(index) > 20
    # 1,024 voxels: the standard error of a deviation is 1 / sqrt(2 * 1024) = 2.2 % of it
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3, 4)), drawn, rtol=0.09)
    assert stats.kstest((noise / drawn[:, None, None, None, None]).ravel(), "norm").pvalue > 1e-4


def test_the_images_are_as_bright_and_as_strong_in_contrast_as_was_drawn():
    before, after, index = alone("brightness")
    factor = draws()["brightness.factor"][index][:, None, None, None]
    np.testing.assert_allclose(after, before * factor, rtol=1e-5)
    before, after, index = alone("contrast")
    factor = draws()["contrast.factor"][index][:, None, None, None]
    axes = {"axis": (1, 2, 3), "keepdims": True}
    mean = before.mean(**axes)
    expected = np.clip(mean + factor * (before - mean), before.min(**axes), before.max(**axes))
    np.testing.assert_allclose(after, expected, atol=1e-5)


@pytest.mark.parametrize(("step", "sign"), [("gamma", -1), ("gamma 2", 1)])
def test_the_images_have_the_gamma_that_was_drawn(step, sign):
    before, after, index = alone(step)
    exponent = draws()[f"{step}.gamma"][index][:, None, None, None]
    axes = {"axis": (1, 2, 3), "keepdims": True}
    image = sign * before  # nnU-Net negates before and after
    low, span = image.min(**axes), np.ptp(image, **axes)
    expected = sign * (low + span * ((image - low) / span) ** exponent)
    expected = (expected - expected.mean(**axes)) / expected.std(**axes)
    np.testing.assert_allclose(
        after, expected * before.std(**axes) + before.mean(**axes), atol=1e-4
    )


@pytest.mark.parametrize("step", ["blur", "low_resolution"])
def test_only_the_channels_drawn_are_blurred_or_coarsened(step):
    before, after, index = alone(step)
    changed = np.abs(after - before).max(axis=(1, 2, 3)) > 0
    expected = draws()[f"{step}.channel"][index]
    if step == "low_resolution":  # of 8 voxels at least 7.5: none is lost
        expected &= draws()["low_resolution.scale"][index, :, 0] < 7.5 / 8
    np.testing.assert_array_equal(changed, expected)
    assert 0.2 < changed.mean() < 0.7
