"""What a first stage finds as channels, against its NumPy twin, over all orientations."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from data_prep import preprocess
from data_prep.plan import Plan
from segkit.errors import ShapeError
from segkit.inference.predictor import Predictor
from segkit.inference.predictor import classify_volume
from segkit.inference.predictor import predict_volume
from segkit.inference.prepare import prepare
from segkit.inference.prepare import restore
from segkit.inference.priors import append_priors
from segkit.volume import Volume

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*axes)
]
PRIOR = {"scheme": "prior"}
ZSCORE = {"scheme": "zscore", "masked": True}


class Corner:
    """Finds class 2 in the first voxel of its own axes where the spacing is right, else class 1."""

    def __init__(self, orientation):
        self.orientation = orientation

    def segment(self, image, spacing_mm, on_tile=None):
        found = 1 + tf.cast(spacing_mm[0] == 3.0, tf.int32)
        return tf.scatter_nd([[0, 0, 0]], [found], tf.shape(image)[:3])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_first_stage_sees_and_gives_its_own_axes(orientation):
    image = np.random.default_rng(0).random((3, 4, 5, 1), np.float32)
    source = Volume(image, np.array([[0, 0, 1.0, 0], [0, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]]))
    assert source.orientation == "SAR"
    whole = append_priors(image, tf.constant(source.spacing_mm), Corner(orientation), "SAR", 2)
    assert whole.shape == (3, 4, 5, 3)
    np.testing.assert_array_equal(whole[..., :1], image)
    turned = source.oriented(orientation)
    expected = np.zeros(turned.shape, np.uint8)
    expected[0, 0, 0] = 2 if orientation[0] in "SI" else 1
    expected = Volume(expected, turned.affine).oriented("SAR").array
    np.testing.assert_array_equal(whole[..., 1], expected == 1)
    np.testing.assert_array_equal(whole[..., 2], expected == 2)


@pytest.fixture(scope="module")
def everything():
    """The function from a first stage to a cascade that finds class 1 in all of its region."""
    import keras

    inputs = keras.Input((4, 4, 4, 2), name="image")
    logits = keras.layers.Conv3D(2, 1, name="logits")
    model = keras.Model(inputs, logits(inputs))
    logits.set_weights([np.zeros((1, 1, 1, 2, 2)), np.array([0.0, 1.0])])
    schemes = {"normalization": [ZSCORE, PRIOR], "roi_margin_mm": 3.0}
    preprocess = {"orientation": "SAR", "spacing_mm": [1.0, 1.0, 1.0], "crop_to_nonzero": True}
    return lambda first: Predictor(model, preprocess | schemes, (4, 4, 4), first=first)


def test_a_cascade_segments_an_image_in_its_region_of_interest_alone(everything):
    first = Corner("IAR")
    first.num_channels = 1
    predictor = everything(first)
    assert (predictor.num_channels, predictor.num_classes) == (1, 2)
    affine = np.array([[0, 0, 1.0, 0], [0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    image = Volume(np.random.default_rng(0).random((9, 8, 7), np.float32), affine)
    mask, probabilities = predict_volume(predictor, image, with_probabilities=True)
    # One voxel in the last slice, first row and column; 3 mm are 2, 2 and 3 voxels.
    expected = np.zeros((9, 8, 7), np.uint8)
    expected[6:, :3, :4] = 1
    np.testing.assert_array_equal(mask.array, expected)
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(probabilities.array[..., 1], expected * share, atol=1e-6)


def test_covariates_are_for_the_second_stage():
    import keras

    inputs = {"image": keras.Input((4, 4, 4, 2), name="image")}
    inputs["covariates"] = keras.Input((3,), name="covariates")
    logits = keras.layers.Conv3D(2, 1, kernel_initializer="zeros", name="logits")(inputs["image"])
    shift = keras.layers.Dense(2, kernel_initializer="ones", name="shift")(inputs["covariates"])
    logits = logits + keras.layers.Reshape((1, 1, 1, 2))(shift * np.array([0.0, 1.0]))
    model = keras.Model(inputs, {"logits": logits, "case_logits": shift})
    plan = {"orientation": "SAR", "spacing_mm": None, "crop_to_nonzero": False}
    first = Corner("IAR")
    first.num_channels = 1
    predictor = Predictor(model, plan | {"normalization": [ZSCORE, PRIOR]}, (4, 4, 4), first=first)
    assert (predictor.num_channels, predictor.num_covariates) == (1, 3)
    image = Volume(np.random.default_rng(0).random((5, 4, 6), np.float32))
    for sign in (1, -1):
        known = np.float32([1, 2, -0.5]) * sign  # the logit of class 1 is their sum, +-2.5
        mask = predict_volume(predictor, image, covariates=known)
        assert (mask.array == (sign > 0)).all()
        np.testing.assert_allclose(classify_volume(predictor, image, known), [0.5, 0.5])
    with pytest.raises(ShapeError, match="covariates of shape"):
        predict_volume(predictor, image)


def test_a_first_stage_for_other_images_is_refused(everything):
    first = Corner("SAR")
    first.num_channels = 2
    with pytest.raises(ShapeError, match="takes 2 channel.*has 1 beside its priors"):
        everything(first)


def random_case(rng):
    """A volume in random axes with a channel of a few priors, and a plan with a margin."""
    shape = rng.integers(4, 14, 3)
    image = np.zeros((*shape, 2), np.float32)
    image[..., 0] = rng.integers(1, 100, shape)
    voxels = rng.integers(0, shape, size=(rng.integers(0, 3), 3))
    image[(*voxels.T, np.ones(len(voxels), int))] = 1
    spacing = rng.choice([0.7, 0.9, 1.1, 2.5, 1 / 3], 3)
    affine = np.diag([*spacing, 1.0])
    volume = Volume(image, affine).oriented(rng.choice(ORIENTATIONS))
    target = None if rng.random() < 0.3 else tuple(rng.choice([0.8, 1.0, 1.5], 3))
    margin = float(rng.choice([0.0, 0.7, 2.1, 3.3, 50.0]))
    return volume, Plan(rng.choice(ORIENTATIONS), target, True, (ZSCORE, PRIOR), margin)


def test_both_twins_cut_out_the_same_region_of_interest():
    rng, crops = np.random.default_rng(5), set()
    signature = [tf.TensorSpec((None, None, None, 2)), tf.TensorSpec((3, 2), tf.int32)]
    signature.append(tf.TensorSpec((3,), tf.int32))
    put_back = tf.function(lambda *given: restore(*given), input_signature=signature)
    for _ in range(40):
        volume, plan = random_case(rng)
        expected = preprocess.prepare(volume, None, plan)
        oriented = volume.oriented(plan.orientation)
        image = np.ascontiguousarray(oriented.array)
        found, crop = prepare(image, np.float32(oriented.spacing_mm), plan.as_json())
        assert crop.numpy().tolist() == expected.geometry["crop"]
        np.testing.assert_allclose(found, expected.image, atol=2e-4)
        logits = np.stack([np.zeros(found.shape[:3]), np.ones(found.shape[:3])], -1)
        mask = put_back(np.float32(logits), crop, image.shape[:3]).numpy()
        back = Volume(mask, oriented.affine).oriented(volume.orientation).array
        whole = preprocess.undo(np.ones(expected.geometry["shape"], np.uint8), expected.geometry)
        np.testing.assert_array_equal(back, whole)
        crops.add(crop.numpy().tobytes())
    assert len(crops) > 20
