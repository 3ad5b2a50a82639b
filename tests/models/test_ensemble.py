import keras
import numpy as np
import pytest

from segkit.errors import ShapeError
from segkit.models import build_model
from segkit.models.ensemble import average
from segkit.models.ensemble import stack


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def members():
    """Two different networks of the same task."""
    keras.utils.set_random_seed(0)
    unet = build_model("unet", 3, (32, 32, 2), filters=4, downsamplings=1)
    return [unet, build_model("fcn32s", 3, (32, 32, 2), width=0.05, fc_kernel=1)]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=(2, 32, 32, 2)).astype(np.float32)


def test_different_networks_are_averaged_by_weight_and_saved_as_one(members, image, tmp_path):
    average(members, [1, 3]).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    one, two = (softmax(np.asarray(member(image))) for member in members)
    np.testing.assert_allclose(softmax(np.asarray(model(image))), (one + 3 * two) / 4, atol=1e-6)
    assert {"member0", "member1"} <= {layer.name for layer in model.layers}
    assert len(model.variables) == sum(len(member.variables) for member in members)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_stack_is_a_logistic_model_of_the_log_probabilities(rank):
    rng, sides = np.random.default_rng(1), (4, 5, 6)[:rank]
    layer = keras.layers.Conv2D if rank == 2 else keras.layers.Conv3D

    def member():
        inputs = keras.Input((*sides, 1))
        return keras.Model(inputs, layer(2, 1)(inputs), name="the_same_name")

    members = [member() for _ in range(3)]
    kernel, bias = rng.normal(size=(4, 2)), rng.normal(size=2)
    x = rng.normal(size=(1, *sides, 1)).astype(np.float32)
    one, two, three = (softmax(np.asarray(m(x))) for m in members)
    features = np.concatenate([np.log((one + two) / 2), np.log(three)], axis=-1)
    found = stack([members[:2], members[2:]], kernel, bias)(x)
    np.testing.assert_allclose(np.asarray(found), features @ kernel + bias, atol=1e-5)


def test_members_that_do_not_fit_are_refused_in_one_sentence(members):
    for other in (
        build_model("unet", 3, (64, 32, 2), filters=4, downsamplings=1),
        build_model("unet", 2, (32, 32, 2), filters=4, downsamplings=1),
        build_model("unet3d", 3, (8, 8, 8, 2), filters=4, downsamplings=1),
    ):
        with pytest.raises(ShapeError, match=r"member 0 goes from .*, member 1 from .* same data"):
            average([members[0], other])


def test_members_with_covariates_make_an_ensemble_that_takes_them(image):
    options = {"filters": 4, "downsamplings": 1, "covariates": 3, "case_classes": 2}
    members = [build_model("fusion_unet", 3, (32, 32, 2), **options) for _ in range(2)]
    inputs = {"image": image, "covariates": np.ones((2, 3), np.float32)}
    one, two = (softmax(np.asarray(member(inputs)["logits"])) for member in members)
    found = softmax(np.asarray(average(members)(inputs)))
    np.testing.assert_allclose(found, (one + two) / 2, atol=1e-6)
